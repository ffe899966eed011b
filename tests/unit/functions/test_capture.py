"""What travels with a function, what does not, and arguments on their way in."""

import io
import marshal
import pickle
import socket
import sys
import threading
from dataclasses import dataclass
from functools import wraps
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saggar.boundary import frames
from saggar.errors import InvalidTask
from saggar.functions.capture import capture, encoded, opened
from saggar.functions.errors import Unportable
from saggar.functions.modules import LARGEST_BUNDLE, bundle, digest_of
from saggar.guest import remote as inside
from saggar.model.codec import ANSWER, CALL, JSON, Answer, Large, Payload, decode_value

FACTOR = 3
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
KEYS = st.booleans() | st.integers() | TEXT | st.tuples(st.integers(), TEXT)
VALUES = st.recursive(
    PLAIN | st.binary(max_size=20) | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.frozensets(KEYS, max_size=4)
        | st.sets(KEYS, max_size=4)
    ),
    max_leaves=20,
)


def answered(value, **options):
    """A value as the inside sends it, and as the outside has it then."""
    sent = []

    class Reply(inside.Reply):
        def _write(self, data, _):
            sent.append(data)

    Reply(-1, 1 << 24).value(value, **{"pickles": False, **options})
    *_, blob = frames.HEADER.unpack_from(sent[0])
    return decode_value(sent[0][len(sent[0]) - blob :], ANSWER)


def exactly(value: Any) -> Any:
    """A value with the types that are in it: 1, 1.0 and True are equal."""
    match value:
        case list() | tuple():
            return type(value), [exactly(item) for item in value]
        case set() | frozenset():
            return type(value), {(type(item), item) for item in value}
        case dict():
            return dict, [(exactly(key), exactly(item)) for key, item in value.items()]
    return type(value), value


def called(payload: Payload) -> Any:
    """Arguments as the inside has them."""
    memory = None
    if isinstance(payload, Large):
        size = sum(inside.aligned(one.nbytes) for one in payload.beside)
        memory = memoryview(b"".join(inside.padded(list(payload.beside)))).cast("B")
        assert size == memory.nbytes
    return inside.arguments(str(payload.media_type), payload.data, memory)


@given(VALUES)
def test_an_answer_comes_out_as_it_went_in_types_and_all(value):
    assert exactly(value) == exactly(answered(value).value())


@given(
    st.sampled_from(["b1", "i1", "<u2", ">i4", "<f4", "<f8", "<c16", "<U3", "S4", "<M8[D]"]),
    st.lists(st.integers(0, 4), max_size=3),
)
def test_an_array_comes_out_as_it_went_in(kind, shape):
    array = np.arange(int(np.prod(shape))).reshape(shape).astype("i8").astype(kind)
    found = answered({"a": [array]}).value()["a"][0]

    assert (array.dtype, array.shape) == (found.dtype, found.shape)
    assert array.tolist() == found.tolist()


@given(st.lists(VALUES, max_size=3), st.dictionaries(TEXT, VALUES, max_size=2))
def test_arguments_arrive_as_they_were(args, named):
    payload = encoded(args, named, "f")
    found, keywords = called(payload)

    assert exactly(list(args)) == exactly(list(found))
    assert exactly(named) == exactly(keywords)


@pytest.mark.parametrize(
    ("value", "media_type"),
    [
        ({"a": [1, 2.5, "x", None, True]}, JSON),
        ((1, 2), CALL),
        ({1: 2}, CALL),
        (float("nan"), CALL),
        ("\ud800", CALL),
        (b"x", CALL),
    ],
)
def test_arguments_are_json_where_that_says_the_same(value, media_type):
    assert media_type == encoded([value], {}, "f").media_type


def test_a_large_array_lies_beside_its_call_and_is_not_copied():
    array = np.zeros(100_000)
    payload = encoded([array], {}, "f")

    assert isinstance(payload, Large)
    assert array.nbytes == payload.beside[0].nbytes
    assert len(payload.data) < 1000
    array[0] = 5
    assert b"\0" != bytes(payload.beside[0][6:8])


def test_a_large_call_in_one_piece_says_the_same():
    array = np.arange(100_000)
    payload = encoded([array, 2], {"k": array[:3]}, "f")
    assert isinstance(payload, Large)
    (found, two), named = inside.arguments(CALL, payload.whole().data, None)

    assert 2 == two
    assert (array == found).all()
    assert [0, 1, 2] == named["k"].tolist()
    found[0] = 1  # it is the function's own


def test_a_pickle_is_opened_only_where_it_was_asked_for():
    answer = answered({1: slice(2)}, pickles=True)

    assert {1: slice(2)} == opened(answer, pickles=True)
    with pytest.raises(ValueError, match=r"nobody has asked for"):
        opened(answer, pickles=False)


@pytest.mark.parametrize(
    "document",
    [
        {"value": [], "parts": 1},
        {"value": [], "parts": [1]},
        {"value": [1], "parts": [[[5], "tuple"]]},
        {"value": [1], "parts": [[[-1], "tuple"]]},
        {"value": {"a": 1}, "parts": [[["__class__"], "tuple"]]},
        {"value": 1, "parts": [[[], "tuple"]]},
        {"value": None, "parts": [[[], "array", "|O", [1], 0, 8]]},
        {"value": None, "parts": [[[], "array", "|V8", [1], 0, 8]]},
        {"value": None, "parts": [[[], "array", "<f8", [2], 0, 8]]},
        {"value": None, "parts": [[[], "array", "<f8", [-1], 0, 8]]},
        {"value": None, "parts": [[[], "array", "<f8", [1 << 60, 16], 0, 8]]},
        {"value": None, "parts": [[[], "array", "<f8", [True], 0, 8]]},
        {"value": None, "parts": [[[], "bytes", 0, 9]]},
        {"value": None, "parts": [[[], "bytes", -8, 8]]},
        {"value": None, "parts": [[[], "bytes", 1 << 70, 0]]},
        {"value": [[[], 1]], "parts": [[[], "dict"]]},
        {"value": [1], "parts": [[[], "dict"]]},
        {"value": [[1]], "parts": [[[], "set"]]},
        {"value": None, "parts": [[[], "float", "one"]]},
        {"value": None, "parts": [[[], "__import__", "os"]]},
        {"value": [k * ((1 << 61) - 1) for k in range(50)], "parts": [[[], "set"]]},
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(document):
    with pytest.raises(ValueError, match=r"."):
        Answer(document=document, data=bytes(8)).value()


def test_what_has_no_form_says_where_it_is_and_what_to_do():
    with pytest.raises(ValueError, match=r"at /a/0: object has no JSON form.*result='pickle'"):
        answered({"a": [object()]})


@dataclass
class Point:
    x: float
    tags: tuple[str, ...] = ()


def test_a_dataclass_goes_as_its_fields():
    assert {"x": 1.0, "tags": ("a",)} == answered(Point(1.0, ("a",))).value()


def loaded(function, **options):
    """A captured function, as the inside has it; nothing of it stays."""
    code = inside.Code(capture(function, **options).payload)
    code.forget()
    return code.thing


def tripled(x):
    return FACTOR * x


def test_a_function_takes_its_globals_along_and_what_they_use():
    def nested(x):
        return tripled(x) + shift

    shift = 1

    assert 7 == loaded(nested)(2)


def test_lambdas_and_decorated_functions_travel():
    def shout(function):
        @wraps(function)
        def shouted(*args):
            return str(function(*args)) + "!"

        return shouted

    assert "4!" == loaded(shout(lambda x: x * x))(2)


def test_it_is_captured_again_only_when_something_that_it_uses_has_changed(monkeypatch):
    captured = capture(tripled)

    assert captured.seen.same()
    monkeypatch.setitem(globals(), "FACTOR", 4)
    assert not captured.seen.same()


def test_what_can_change_unseen_is_captured_every_time():
    held = {"n": 1}

    assert not capture(lambda: held).seen.same()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Modules of a project, beside the function."""
    package = tmp_path / "shop_4711"
    package.mkdir()
    (package / "__init__.py").write_text("from .prices import PRICE\n")
    (package / "prices.py").write_text("import saggar\nfrom shop_4711 import tax\nPRICE = 2\n")
    (package / "tax.py").write_text("def added(x):\n    return x * 1.5\n")
    (package / "unused.py").write_text("raise RuntimeError\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for name in [name for name in sys.modules if name.startswith("shop_4711")]:
        del sys.modules[name]


def test_modules_of_the_project_go_along_with_those_that_they_import(project):
    from shop_4711.tax import added  # type: ignore[import-not-found]

    captured = capture(lambda x: added(x))  # noqa: PLW0108 - one of our own

    assert ("shop_4711", "shop_4711.prices", "shop_4711.tax") == captured.modules


def test_modules_that_a_function_imports_itself_go_along(project):
    def late(x):
        from shop_4711 import tax  # type: ignore[import-not-found]

        return tax.added(x)

    assert "shop_4711.tax" in capture(late).modules


def test_a_bundle_is_known_by_its_paths_and_sources(project):
    first = digest_of(bundle(["shop_4711"]))
    (project / "tax.py").write_text("def added(x):\n    return x * 2.5\n")

    assert first != digest_of(bundle(["shop_4711"]))
    assert "" == digest_of(bundle(["json", "numpy", "saggar.platform"]))


def test_a_bundle_that_is_too_large_names_its_longest_module(project):
    (project / "tax.py").write_text("#" * (LARGEST_BUNDLE + 1))

    with pytest.raises(InvalidTask, match=r"the longest is 'shop_4711\.tax'"):
        bundle(["shop_4711"])


def failing(make):
    held = make()
    return lambda: held


@pytest.mark.parametrize(
    ("thing", "kind"),
    [
        (threading.Lock, "a lock"),
        (threading.RLock, "a lock"),
        (lambda: (n for n in range(3)), "a generator"),
    ],
)
def test_what_cannot_travel_is_named_with_what_holds_it(thing, kind):
    with pytest.raises(Unportable, match=f"the variable 'held' around .*failing.* is {kind}"):
        capture(failing(thing))


def test_a_socket_and_an_open_file_cannot_travel():
    ours, theirs = socket.socketpair()
    with ours, theirs, open(__file__) as file:
        for held in ({"deep": [ours]}, file):
            with pytest.raises(Unportable, match=r"is (a socket|an open file)"):
                capture(lambda held=held: held)


def test_an_argument_that_cannot_travel_is_named():
    with pytest.raises(Unportable, match=r"f cannot be called: the argument 'x'\['a'\] is a lock"):
        encoded([], {"x": {"a": threading.Lock()}}, "f")


def test_text_in_memory_is_no_open_file():
    held = io.StringIO("text")

    assert "text!" == loaded(lambda: held.getvalue() + "!")()


def test_another_version_inside_is_refused_before_anything_is_unpickled():
    said = marshal.loads(capture(tripled).payload)
    said["made_by"] = (2, 7, cloudpickle.__version__)
    said["pickle"] = pickle.dumps("never read")[:3]

    with pytest.raises(inside.Mismatch, match=r"captured by Python 2\.7"):
        inside.Code(marshal.dumps(said, 2))
