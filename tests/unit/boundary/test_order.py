import marshal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saggar.boundary.order import Order

PLAIN: dict[str, Any] = {
    "argv": None,
    "code": "print(1)",
    "filename": "main.py",
    "entry": None,
    "input": None,
    "want_value": False,
    "args": (),
    "env": {},
    "cwd": "/work",
    "site": (),
    "files": (),
    "rlimits": (),
    "largest": 1024,
    "body": None,
    "stays": False,
}
# A program may be read from a file that is not UTF-8: its odd bytes travel as surrogates.
TEXT = st.text(st.characters(codec=None))


@given(
    code=TEXT,
    args=st.lists(TEXT, max_size=3).map(tuple),
    env=st.dictionaries(TEXT, TEXT, max_size=3),
    files=st.lists(st.tuples(TEXT, st.binary(), st.integers(0, 0o777)), max_size=3).map(tuple),
    asked=st.none() | st.binary(),
)
def test_an_order_comes_back_as_it_was(code, args, env, files, asked):
    changes = {"code": code, "args": args, "env": env, "files": files, "input": asked}
    order = Order(**PLAIN | changes)

    assert vars(order) == vars(Order.decode(order.encode()))


@pytest.mark.parametrize("change", [{"entry": ...}, {"speed": 1}])
def test_a_field_too_few_or_too_many_is_refused_with_what_there_is(change):
    fields = {name: value for name, value in (PLAIN | change).items() if value is not ...}

    with pytest.raises(TypeError, match="exactly argv, code, filename, entry, input, want_value"):
        Order(**fields)


def test_an_order_of_another_version_is_refused_rather_than_half_followed():
    data = marshal.dumps(PLAIN | {"tomorrow": 1}, 2)

    with pytest.raises(TypeError, match="an order has exactly"):
        Order.decode(data)


def test_the_encoding_is_one_that_every_supported_python_reads():
    """Later ones write versions of marshal that earlier ones refuse."""
    assert marshal.dumps(PLAIN, 2) == Order(**PLAIN).encode()
