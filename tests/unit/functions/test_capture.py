"""What travels with a function, what does not, and arguments on their way in."""

import functools
import importlib
import io
import marshal
import pickle
import socket
import sys
import threading
import types
from collections import deque
from dataclasses import InitVar, dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import wraps
from ipaddress import IPv4Address
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar
from uuid import UUID

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, computed_field

from saggar.boundary import frames
from saggar.errors import InvalidTask
from saggar.functions.capture import capture, encoded, opened, refuse_beyond
from saggar.functions.errors import Unportable
from saggar.functions.modules import LARGEST_BUNDLE, bundle, digest_of
from saggar.guest import remote as inside
from saggar.model.codec import ANSWER, CALL, JSON, Answer, Large, Payload, decode_value
from saggar.model.task import LARGEST_TASK

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
        {"value": [None, None], "parts": [[[0], "bytes", 0, 8], [[1], "bytes", 0, 8]]},
        {"value": [None, None], "parts": [[[0], "bytes", 0, 8], [[1], "bytes", 7, 1]]},
        {"value": [None, None], "parts": [[[0], "bytes", 4, 4], [[1], "bytes", 0, 4]]},
        {"value": None, "parts": [[[], "bytes", 0, 8], [[], "bytes", 0, 8]]},
        {"value": None, "parts": [[[], "bytes", 0, 8], [[], "array", "|u1", [8], 0, 8]]},
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


@pytest.mark.parametrize(
    "value",
    [
        Decimal("1.10"),
        Fraction(1, 3),
        UUID(int=1),
        Path("/a"),
        PurePosixPath("b"),
        timedelta(days=-1, microseconds=3),
        date(2012, 1, 2),
        datetime(2012, 1, 2, 3, 4, 5, 6, UTC),
        time(1, 2),
        bytearray(b"\xff"),
        deque([1, (2,)], 5),
        deque(),
    ],
)
def test_values_of_the_standard_library_come_out_as_they_went_in(value):
    found = answered([value]).value()[0]

    assert (type(value), value) == (type(found), found)
    assert getattr(value, "maxlen", None) == getattr(found, "maxlen", None)


@pytest.mark.parametrize(
    "value", [np.longdouble("1.1"), np.datetime64("2020-01-01"), np.timedelta64(5, "s")]
)
def test_numbers_that_only_numpy_has_come_out_as_they_went_in(value):
    found = answered({"a": value}).value()["a"]

    assert (value.dtype, value) == (found.dtype, found)


class Deep(BaseModel, extra="forbid"):
    data: bytes = b"\xff\x00"
    when: datetime = datetime(2012, 1, 2)  # noqa: DTZ001
    f: float = float("inf")
    at: IPv4Address | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def n(self) -> int:
        return 1


@pytest.mark.parametrize("model", [Deep(), Deep(data=b"x", at=IPv4Address("127.0.0.1"))])
def test_a_model_goes_as_what_makes_it_again(model):
    found = Deep.model_validate(answered([model]).value()[0])

    assert repr(model) == repr(found)


@dataclass
class Seeded:
    seed: InitVar[int]
    kept: ClassVar[int] = 5
    n: int = 0


def test_a_dataclass_goes_without_what_an_instance_does_not_have():
    assert {"n": 3} == answered(Seeded(1, 3)).value()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (np.ma.array([1, 2], mask=[False, True]), "an array with a mask"),
        (np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), r"an array with the dtype \["),
        (np.array([{}], object), "an array with the dtype object"),
        ("\ud800", "no UTF-8 form"),
        ([[]] * 200_000, "more than 200,000 lists"),
        (["x" * (33 << 20)], "text is .* bytes long, the limit is"),
    ],
)
def test_what_cannot_be_an_answer_says_what_to_do(value, why):
    with pytest.raises(ValueError, match=f"{why}.*result='pickle'"):
        answered(value)


@pytest.mark.parametrize(
    "part",
    [
        ["Decimal", "one"],
        ["Decimal", 5],
        ["UUID", "x"],
        ["Fraction", 1, 0],
        ["Fraction", "1e999999999"],
        ["Decimal", "1e99999999999999999999"],
        ["date", "2012-13-01"],
        ["timedelta", 1 << 70, 0, 0],
        ["timedelta", "1"],
        ["deque", "x"],
        ["deque", -1],
        ["scalar", "<f8", [1 << 70], 0, 8],
        ["bytearray", 0, 9],
    ],
)
def test_a_part_that_stands_for_nothing_is_refused(part):
    with pytest.raises(ValueError, match=r"."):
        Answer(document={"value": [[]], "parts": [[[0], *part]]}, data=bytes(8)).value()


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
    held = {"n": object()}

    assert not capture(lambda: held).seen.same()


@pytest.mark.parametrize("change", [{"n": 2}, {"m": 1}, {"n": True}, {"n": [object()]}])
def test_what_is_in_short_containers_is_looked_at(change):
    held: dict[str, Any] = {"n": 1}
    captured = capture(lambda: held)

    assert captured.seen.same()
    held.update(change)
    assert not captured.seen.same()


def test_a_dataclass_an_enumeration_and_a_model_are_not_captured_for_every_call():
    class Color(Enum):
        RED = 1

    class Model(BaseModel):
        n: int = 1

    assert capture(lambda: (Point, Color, Model)).seen.same()


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
    forget("shop_4711")


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


def elsewhere(package):
    """As if this process had never seen the modules."""
    sys.path.remove(str(package.parent))
    importlib.invalidate_caches()
    forget(package.name)


def forget(package):
    for name in [name for name in sys.modules if name.startswith(package)]:
        del sys.modules[name]


@pytest.fixture
def shapes(project):
    """A module with classes in it, and a function of it."""
    (project / "shapes.py").write_text(
        "from dataclasses import dataclass\nfrom enum import Enum\nfrom typing import NewType\n"
        "from . import tax\nKind = NewType('Kind', int)\nclass Color(Enum):\n    RED = 1\n"
        "@dataclass\nclass Point:\n    x: float\n    def taxed(self): return tax.added(self.x)\n"
        "def known(p, c, k: Kind): return isinstance(p, Point), c is Color.RED, p.taxed()\n"
    )
    yield importlib.import_module("shop_4711.shapes")
    inside.FOUND.forget()


def test_arguments_of_classes_beside_the_function_travel_as_it_does(project, shapes):
    captured = capture(shapes.known)
    payload = encoded(
        [shapes.Point(2), shapes.Color.RED, shapes.Kind(1)],
        {},
        "known",
        captured.home,
        captured.modules,
    )
    elsewhere(project)
    code = inside.Code(captured.payload)
    args, _ = called(payload)

    assert (True, True, 3.0) == code.thing(*args)


def test_arguments_of_other_modules_of_the_project_bring_them_along(project, shapes):
    payload = encoded([[shapes.Point(2)], shapes.tax], {"kind": shapes.Kind}, "f")
    known = encoded([shapes.Point(2)], {}, "f", None, ("shop_4711.shapes",))
    elsewhere(project)
    ([point], tax), _ = called(payload)

    assert 3.0 == point.taxed()
    assert 1.5 == tax.added(1)
    assert len(known.data) < 200 < len(payload.data)


def test_an_argument_of_a_module_that_was_made_by_hand_is_refused(monkeypatch):
    module = types.ModuleType("made_4711")
    exec("class Thing: pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "made_4711", module)

    with pytest.raises(Unportable, match=r"the module 'made_4711' was made by hand"):
        encoded([module.Thing()], {}, "f")
    with pytest.raises(Unportable, match=r"the module 'made_4711' was made by hand"):
        capture(lambda: module)


def test_a_package_without_a_file_of_its_own_goes_along(tmp_path, monkeypatch):
    (tmp_path / "open_4711" / "deep").mkdir(parents=True)
    (tmp_path / "open_4711" / "deep" / "part.py").write_text("N = 5\n")
    monkeypatch.syspath_prepend(tmp_path)

    def late():
        from open_4711.deep import part  # type: ignore[import-not-found]

        return part.N

    captured = capture(late)
    elsewhere(tmp_path / "open_4711")
    thing = inside.Code(captured.payload).thing

    assert ("open_4711", "open_4711.deep", "open_4711.deep.part") == captured.modules
    assert 5 == thing()
    inside.FOUND.forget()
    forget("open_4711")


def test_a_module_that_is_imported_by_a_text_goes_along(project):
    def late(x):
        return importlib.import_module("shop_4711.tax").added(x)

    assert ("shop_4711", "shop_4711.prices", "shop_4711.tax") == capture(late).modules


def test_a_module_that_imports_the_functions_own_finds_it(project):
    (project / "home.py").write_text("from . import back\ndef f(): return back.twice(2)\n")
    (project / "back.py").write_text("from . import home\ndef twice(x): return 2 * x\n")
    captured = capture(importlib.import_module("shop_4711.home").f)
    elsewhere(project)
    thing = inside.Code(captured.payload).thing

    assert 4 == thing()
    inside.FOUND.forget()


class Conf:
    level = 1


def counted(*, by=1):
    return counted.by * by  # type: ignore[attr-defined]


def leveled():
    return Conf.level


@pytest.mark.parametrize(
    ("function", "owner", "name", "value"),
    [
        (leveled, Conf, "level", 2),
        (leveled, Conf, "more", 2),
        (lambda: counted(), counted, "by", 2),  # noqa: PLW0108
        (lambda: tripled(1), tripled, "__code__", counted.__code__),
        (lambda: tripled(1), tripled, "__defaults__", (5,)),
        (lambda: counted(), counted, "__kwdefaults__", {"by": 2}),  # noqa: PLW0108
    ],
)
def test_what_was_changed_in_place_is_captured_again(function, owner, name, value, monkeypatch):
    monkeypatch.setattr(counted, "by", 1, raising=False)
    captured = capture(function)

    assert captured.seen.same()
    monkeypatch.setattr(owner, name, value, raising=False)
    assert not captured.seen.same()


def test_a_module_that_was_edited_and_reloaded_is_captured_again(project):
    tax = importlib.import_module("shop_4711.tax")
    captured = capture(lambda: tax.added(1))

    assert captured.seen.same()
    (project / "tax.py").write_text("def added(x):\n    return x * 2.25\n")
    importlib.reload(tax)
    assert not captured.seen.same()
    assert captured.bundle != capture(lambda: tax.added(1)).bundle


def test_a_module_that_is_not_loaded_here_and_was_edited_is_captured_again(project):
    def late():
        from shop_4711 import unused

        return unused

    captured = capture(late)

    assert captured.seen.same()
    (project / "unused.py").write_text("raise ValueError\n")
    assert not captured.seen.same()


@functools.lru_cache(maxsize=7)
def cached(x):
    return tripled(x)


def test_what_lru_cache_has_made_travels_with_nothing_in_it():
    cached(2)
    thing = loaded(lambda x: (cached(x), cached.cache_info()))
    found, info = thing(5)

    assert 15 == found
    assert (1, 7) == (info.currsize, info.maxsize)
    assert 15 == loaded(cached)(5)


def test_a_list_in_two_places_of_the_arguments_is_one_inside():
    held = [1]
    (one, other), _ = called(encoded([held, held], {}, "f"))
    one.append(2)

    assert [1, 2] == other


def test_arguments_beyond_the_limit_of_memory_are_refused_before_they_are_sent():
    payload = encoded([bytearray(100_000)], {}, "f")

    refuse_beyond(1 << 17, payload, "f")
    with pytest.raises(Unportable, match=r"more than its limit of memory \(64 KiB\); limits="):
        refuse_beyond(1 << 16, payload, "f")


def test_what_dispatches_by_type_is_named_for_what_it_keeps():
    @functools.singledispatch
    def shown(x):
        return x

    with pytest.raises(Unportable, match=r"a dictionary of weak references, as functools"):
        capture(lambda x: shown(x))  # noqa: PLW0108


def test_many_bytes_lie_beside_their_call_and_arrive_as_they_were():
    data, changing = b"x" * 100_000, bytearray(b"y" * 100_000)
    payload = encoded([data, [data, changing, changing]], {}, "f")
    (found, (again, one, other)), _ = called(payload)

    assert isinstance(payload, Large)
    assert len(payload.data) < 1000
    assert data == found
    assert found is again
    assert changing == one
    assert one is other
    assert type(one) is bytearray


@pytest.mark.parametrize("value", ["x" * (LARGEST_TASK + 1), {1: "x" * (LARGEST_TASK + 1)}])
def test_arguments_that_are_too_long_for_where_they_go_say_what_to_do(value):
    with pytest.raises(
        Unportable, match=r"f cannot be called: .*as bytes or an array, or its path"
    ):
        encoded([value], {}, "f")


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
