"""The validator: the official suite, schemas of strangers, values that have no JSON form."""

import json
import math
import socket
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import pytest

from saggar.errors import InvalidTask
from saggar.model.schema import DEEPEST, FOLLOWED, LARGEST, UNEXPLAINED, Schema, pointer

SUITE = Path(__file__).parent / "json-schema-suite"
DRAFTS = {
    "draft2020-12": ("https://json-schema.org/draft/2020-12/schema", 1208, 49),
    "draft7": ("http://json-schema.org/draft-07/schema#", 890, 23),
}
"""Each with its `$schema`, how many cases there are, and how many need a schema from elsewhere."""
NUMBERS = {"type": "array", "items": {"type": "number"}}


def of_draft(schema, uri):
    """The schema, saying which draft it is of."""
    return {"$schema": uri, **schema} if isinstance(schema, dict) else schema


def is_refused(schema, uri):
    """Whether it points to a schema on a server, and that is what is said about it."""
    try:
        Schema.of(of_draft(schema, uri))
    except InvalidTask as exc:
        return "http://localhost:1234/" in str(exc)
    return False


@pytest.mark.parametrize("draft", DRAFTS)
def test_the_official_suite_agrees(draft):
    """All but what points to a server on localhost, which is refused as any remote schema is."""
    uri, expected, remote = DRAFTS[draft]
    agreed, refused, failed = 0, 0, []
    for line in (SUITE / f"{draft}.jsonl").read_text().splitlines():
        case = json.loads(line)
        if is_refused(case["schema"], uri):
            refused += len(case["tests"])
            continue
        schema = Schema.of(of_draft(case["schema"], uri))
        for test in case["tests"]:
            problem = schema.problem(test["data"])
            if test["valid"] is schema.is_valid(test["data"]) is (problem is None):
                agreed += 1
            else:
                failed.append((case["keyword"], case["description"], test["description"]))

    assert [] == failed
    assert (expected, remote) == (agreed, refused)


@pytest.mark.parametrize(
    ("uri", "keyword"),
    [
        ("http://json-schema.org/draft-04/schema#", {"minimum": 3, "exclusiveMinimum": True}),
        ("http://json-schema.org/draft-06/schema#", {"exclusiveMinimum": 3}),
        ("http://json-schema.org/draft-07/schema#", {"if": {"const": 3}, "then": False}),
        ("https://json-schema.org/draft/2019-09/schema", {"exclusiveMinimum": 3}),
        ("https://json-schema.org/draft/2020-12/schema", {"exclusiveMinimum": 3}),
    ],
)
def test_the_draft_that_a_schema_names_is_honoured(uri, keyword):
    schema = Schema.of({"$schema": uri, **keyword})

    assert schema.is_valid(4)
    assert not schema.is_valid(3)


def test_the_same_words_mean_what_their_draft_says():
    tuples = {"items": [{"type": "string"}]}
    old = Schema.of({"$schema": "http://json-schema.org/draft-07/schema#", **tuples})

    assert not old.is_valid([1])
    with pytest.raises(InvalidTask, match="schema: at /items"):
        Schema.of(tuples)


def test_an_unknown_draft_is_refused():
    with pytest.raises(InvalidTask, match=r"Unknown meta-schema: 'http://example\.com/mine'"):
        Schema.of({"$schema": "http://example.com/mine"})


def test_a_violation_has_a_pointer_what_was_expected_and_what_was_found():
    schema = Schema.of({"properties": {"a/b": NUMBERS}})

    assert 'at /a~1b/1: "x" is not of type "number"' == schema.problem({"a/b": [1, "x"]})


def test_a_violation_of_the_whole_value_has_no_pointer():
    assert '5 is not of type "array"' == Schema.of(NUMBERS).problem(5)


def test_three_violations_are_told_and_the_rest_is_counted():
    problem = Schema.of(NUMBERS).problem(["x"] * 9)

    assert problem is not None
    assert ["at /0", "at /1", "at /2"] == [part[:5] for part in problem.split("; ")[:3]]
    assert problem.endswith("; and 6 more")


def test_a_large_value_is_not_quoted_whole():
    problem = Schema.of({"type": "number"}).problem("x" * 1_000_000)

    assert problem is not None
    assert 400 > len(problem)
    assert problem.endswith('"number"')


def test_what_is_allowed_has_no_problem():
    assert Schema.of(NUMBERS).problem([1, 2.5]) is None
    assert Schema.of(True).problem({"any": "thing"}) is None


def test_a_schema_may_be_a_mapping_bytes_or_a_file(tmp_path):
    text = json.dumps(NUMBERS)
    file = tmp_path / "numbers.json"
    file.write_text(text)

    for source in (NUMBERS, MappingProxyType(NUMBERS), text.encode(), file, str(file)):
        assert Schema.of(source).is_valid([1])
        assert not Schema.of(source).is_valid(["x"])


def test_one_schema_is_compiled_once(tmp_path):
    assert Schema.of({"a": 1, "b": 2}) is Schema.of({"b": 2, "a": 1})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"type": "nope"}, 'schema: at /type: "nope" is not valid'),
        ({"minimum": "x"}, 'schema: at /minimum: "x" is not of type "number"'),
        ({"pattern": "("}, 'schema: at /pattern: "\\(" is not a "regex"'),
        ({"pattern": "(a{1000}){1000}"}, "schema: at /pattern"),
        ({"$ref": "#/nowhere"}, "schema: Pointer '/nowhere' does not exist"),
        ({"enum": {1, 2}}, "schema: has no JSON form"),
        ({"const": math.nan}, "schema: has no JSON form"),
        (b"{", "schema: not JSON"),
        (b"\xff", "schema: not UTF-8 text"),
        (b"[]", "schema: wanted an object, true or false, found list"),
        (5, "schema: wanted an object, true or false, found int"),
        ("/no/such/file", "schema: cannot read '/no/such/file'"),
        ('{"type": "object"}', "its text is given as bytes"),
        (b" " * (LARGEST + 1), "schema: 1,048,577 bytes, more than the 1,048,576 it may have"),
        ({"const": "x" * LARGEST}, "more than the 1,048,576"),
    ],
)
def test_what_is_no_schema_is_refused_when_it_is_given(source, message):
    with pytest.raises(InvalidTask, match=message):
        Schema.of(source)


def test_a_schema_that_holds_itself_is_refused():
    schema: dict[str, object] = {}
    schema["not"] = schema

    with pytest.raises(InvalidTask, match="schema: has no JSON form"):
        Schema.of(schema)


def nested(depth):
    schema: dict[str, object] = {}
    for _ in range(depth):
        schema = {"not": schema}
    return schema


def test_a_schema_nests_only_so_deep():
    assert Schema.of(nested(DEEPEST)).is_valid(1)
    with pytest.raises(InvalidTask, match=f"schema: nests deeper than {DEEPEST}"):
        Schema.of(nested(DEEPEST + 1))


@pytest.fixture
def no_network(monkeypatch):
    """Whoever looks up a name or connects from Python fails this test."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"network used: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef"])
def test_a_reference_never_leaves_the_schema(tmp_path, no_network, keyword):
    """Not over the network, where a listener would see it; not into the file system."""
    file = tmp_path / "other.json"
    file.write_text("true")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        remote = f"http://127.0.0.1:{server.getsockname()[1]}/other.json"
        for target in (remote, file.as_uri()):
            with pytest.raises(InvalidTask, match=r"schema: Resource .* is not present"):
                Schema.of({keyword: target})
            with pytest.raises(InvalidTask, match="schema: "):
                Schema.of({"$id": target, "$ref": "beside.json"})

        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_reference_within_the_schema_is_followed():
    tree = Schema.of({"$defs": {"t": {"items": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t"})

    assert tree.is_valid([[[]]])


def doubling(steps, apply, last):
    """Each definition refers to the next one twice."""
    further = ({"$ref": f"#/$defs/a{step + 1}"} for step in range(steps))
    defs = {f"a{step}": apply(each) for step, each in enumerate(further)}
    return {"$defs": {**defs, f"a{steps}": last}, "$ref": "#/$defs/a0"}


@pytest.mark.parametrize(
    "apply",
    [
        lambda ref: {"allOf": [ref, ref]},
        lambda ref: {"anyOf": [{"not": ref}, {"type": "string", **ref}]},
        lambda ref: {"if": ref, "then": ref},
        lambda ref: {"allOf": [{"items": ref}, {"items": ref}]},
        lambda ref: {"items": ref, "contains": ref},
        lambda ref: {"properties": {"a": ref}, "patternProperties": {"a": ref}},
        lambda ref: {"dependentSchemas": {"a": ref, "b": ref}},
        lambda ref: {"oneOf": [ref, ref], "unevaluatedProperties": False},
    ],
)
def test_references_that_double_are_refused_where_they_come_to_too_much(apply):
    """Two to the power of sixty: compiled, or asked about a number, it would never come back."""
    with pytest.raises(InvalidTask, match=r"at /\$defs/a\d\d.*: its references apply [\d,]+ sch"):
        Schema.of(doubling(60, apply, {"type": "number"}))


def test_references_that_double_a_few_times_are_followed():
    for apply in (lambda ref: {"anyOf": [ref, ref]}, lambda ref: {"oneOf": [ref, False]}):
        schema = Schema.of(doubling(10, apply, {"type": "number"}))

        assert schema.is_valid(1)
        assert schema.problem("x") is not None


def test_what_is_gathered_again_and_again_is_counted_as_often():
    """Little in itself, it is compiled anew for everybody who looks back at it."""
    far = doubling(7, lambda ref: {"anyOf": [ref, ref]}, {"type": "number"})
    gathering = {"unevaluatedProperties": False, "$ref": "#/$defs/a0"}
    far["$defs"] |= {f"b{n}": gathering for n in range(100)}
    far["properties"] = {f"p{n}": {"$ref": f"#/$defs/b{n}"} for n in range(100)}

    with pytest.raises(InvalidTask, match=r"schema: its references apply \d\d,\d\d\d"):
        Schema.of(far)


def test_a_chain_of_references_is_no_multiplication():
    links = {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(5_000)}
    schema = Schema.of({"$defs": {**links, "a5000": {"type": "number"}}, "$ref": "#/$defs/a0"})

    assert schema.is_valid(1)
    assert not schema.is_valid("x")


def test_a_reference_that_is_spelled_another_way_is_counted_all_the_same():
    def named(step):
        return {"$id": f"http://x.test/a/{step}.json", "anyOf": [odd(step + 1), odd(step + 1)]}

    def odd(step):
        return {"$ref": f"../a/./%{ord(str(step)[0]):x}{str(step)[1:]}.json"}

    defs = {str(step): named(step) for step in range(40)}
    last = {"$id": "http://x.test/a/40.json", "type": "number"}

    with pytest.raises(InvalidTask, match="its references apply"):
        Schema.of({"$defs": {**defs, "40": last}, "$ref": "http://x.test/a/0.json"})


BINARY = {
    "$defs": {
        "tree": {
            "anyOf": [
                {"type": "number"},
                *(
                    {
                        "type": "object",
                        "properties": {"kind": {"const": kind}, "of": {"$ref": "#/$defs/tree"}},
                        "required": ["kind", "of"],
                    }
                    for kind in ("minus", "plus", "root")
                ),
            ]
        }
    },
    "$ref": "#/$defs/tree",
}
"""A union that holds itself, as a language's expressions do."""


def within(depth, value):
    for _ in range(depth):
        value = {"kind": "root", "of": value}
    return value


def test_a_union_that_holds_itself_is_checked_however_deep():
    schema = Schema.of(BINARY)

    assert schema.problem(within(100, 1)) is None
    assert not schema.is_valid(within(100, "x"))


def test_what_is_wrong_with_a_deep_one_is_told_while_there_are_few_ways():
    schema = Schema.of(BINARY)

    assert "under any of" in str(schema.problem(within(3, "x")))
    assert UNEXPLAINED == schema.problem(within(100, "x"))


def test_formats_are_rules_only_where_asked_for():
    source = {"format": "date"}

    assert Schema.of(source).is_valid("no date")
    assert not Schema.of(source, formats=True).is_valid("no date")
    assert Schema.of(source, formats=True).is_valid("2026-02-28")


def cyclic():
    value: list[object] = []
    value.append([value])
    return value


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([1, math.nan], "at /1: nan has no JSON form"),
        ([math.inf], "at /0: inf has no JSON form"),
        ([b"x"], "at /0: bytes have no JSON form; send them as a file"),
        ([{"a": {1: 2}}], "at /0/a/1: the key 1 is not text"),
        ([object()], "at /0: object has no JSON form"),
        (["\udc80"], "at /0: holds characters that have no UTF-8 form"),
        (cyclic(), "at /0/0: contains itself"),
        ({1, 2}, "set has no JSON form"),
    ],
)
def test_what_has_no_json_form_is_told_with_the_way_to_it(value, problem):
    assert problem == Schema.of(NUMBERS).problem(value)


def test_a_value_that_is_too_deep_is_a_problem():
    value: list[object] = []
    for _ in range(100_000):
        value = [value]

    assert "nests too deep" == Schema.of(NUMBERS).problem(value)


def test_no_value_brings_the_process_down():
    """Cycles below every keyword that walks, quotes or compares: in a process of its own."""
    code = """
from saggar.model.schema import Schema
ring, knot = [], {}
ring.append(ring)
knot["a"] = knot
deep = []
for _ in range(50_000): deep = [deep]
turn = {"items": {"$ref": "#/$defs/a"}, "additionalProperties": {"$ref": "#/$defs/a"}}
for rule in (
    {"items": {"type": "number"}}, {"additionalProperties": {"type": "string"}}, {"const": [1]},
    {"enum": [1]}, {"uniqueItems": True, "maxItems": 0}, {"not": {}}, False,
    {"$defs": {"a": turn}, "$ref": "#/$defs/a"}, {"unevaluatedItems": False},
    {"unevaluatedProperties": False}, {"contains": {"type": "number"}}, {"minProperties": 9},
    {"propertyNames": {"maxLength": 0}},
    {"$defs": {"a": {**turn, "maxItems": 0}}, "$ref": "#/$defs/a"},
):
    for value in (ring, knot, deep, [ring, ring], {"x": knot}):
        Schema.of(rule).problem(value)
print("alive")
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False
    )

    assert ("alive\n", "", 0) == (ran.stdout, ran.stderr, ran.returncode)


def test_a_schema_that_follows_a_value_down_follows_it_only_so_far():
    turn = Schema.of({"items": {"$ref": "#"}})
    value: list[object] = []
    for _ in range(FOLLOWED - 1):
        value = [value]

    assert turn.problem(value) is None
    assert f"nests deeper than {FOLLOWED}" == turn.problem([value])
    assert "at /0/0: contains itself" == turn.problem(cyclic())


def test_a_pattern_that_backtracks_without_end_is_given_up():
    problem = Schema.of({"pattern": r"^(\w+\s?)*\1$"}).problem("a" * 40 + "!")

    assert problem is not None


def test_a_pointer_escapes_what_it_must():
    assert "/a~1b/m~0n/0" == pointer(["a/b", "m~n", 0])
    assert not pointer([])


def test_a_large_answer_with_nothing_right_in_it_costs_one_complaint():
    """All of them at once would take gigabytes."""
    found = Schema.of({"items": {"type": "string"}}).problem([1] * 1_000_000)

    assert found == 'at /0: 1 is not of type "string"; and perhaps more'
