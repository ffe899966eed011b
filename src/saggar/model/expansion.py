"""
How often a schema applies its parts: references make much of little, so it is counted before.

A definition that refers to the next one twice, and so on, is a few lines that a validator follows
as often as two to the power of their number. Counted with memory, each definition once, that costs
what the lines do. A reference to what is being followed counts once: recursion goes as deep as the
value, and the validator remembers what it has looked at.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from posixpath import normpath
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import unquote

Node: TypeAlias = dict[str, Any]
Pair: TypeAlias = tuple[Node, object]
"""A schema and what it is applied to; None where any value is meant."""
Groups: TypeAlias = list[list[Pair]]
"""What a schema applies: of one group at most one at each place of a value."""
Parts: TypeAlias = Callable[[Node, object], Groups]
Counts: TypeAlias = dict[tuple[int, int], int]

REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_SAME_VALUE: Final = (
    *("allOf", "anyOf", "oneOf", "not", "if", "then", "else"),
    *("dependentSchemas", "dependencies"),
)
_GATHERING: Final = ("unevaluatedProperties", "unevaluatedItems")
"""What brings together, when it is compiled, all that is said of the same value."""
_ALL_WITHIN: Final = (*_GATHERING, "patternProperties", "propertyNames", "contains")
"""What may be for everything that is in a value, whatever else is."""
_BY_NAME: Final = frozenset({"properties", "patternProperties", "dependentSchemas", "dependencies"})
"""What holds schemas by name, and is none itself."""
_NAMES: Final = ("$id", "id")
_ANCHORS: Final = ("$anchor", "$dynamicAnchor")
_STANDARD: Final = ("http://json-schema.org/", "https://json-schema.org/")
_COUNTED: Final = 1 << 64
"""Larger numbers are not told apart."""


class Excess(NamedTuple):
    """Where references come to more than they may."""

    where: str
    """The JSON pointer of a schema that applies too much, while none of its parts does."""
    times: int


class Expansion:
    """The parts of one schema, and what its references lead to."""

    def __init__(self, document: Node) -> None:
        self._document = document
        self._nodes: dict[int, tuple[Node, str]] = {}
        """Every object in it, with the JSON pointer to it."""
        self._homes: dict[int, tuple[Node, ...]] = {}
        """The objects with a name around each of them, the innermost first; then the document."""
        self._named: dict[str, list[Node]] = {}
        """Objects by the last part of the name they have. Mere data may have one: all count."""
        self._anchored: dict[str, list[Node]] = {}
        self.unfollowed = ""
        """A reference that leads to nothing, as far as we can tell; known when it was counted."""
        self._index()

    def excess(self, most: int) -> Excess | None:
        """
        What applies its parts more than `most` times to one value; None if nothing does.

        A schema that says as much without a reference may do so.
        """
        most = max(most, 2 * len(self._nodes))
        counts = _counted(self._document, None, self._anywhere)
        for node, where in self._nodes.values():
            count = counts.get(_key(node, None), 0)
            if count > most and not any(
                counts.get(_key(*part), 0) > most for part in chain(*self._anywhere(node, None))
            ):
                return Excess(where, count)
        gathered = self._gathered(counts)
        return Excess("", gathered) if gathered > most else None

    def visits(self, value: object, most: int) -> int:
        """
        How often parts are applied to `value` and what is in it, if none is left out.

        No more than `most` pairs of a schema and a value are looked at; more count as too many.
        """
        counts = _counted(self._document, value, self._here, most)
        return counts.get(_key(self._document, value), most + 1)

    def _gathered(self, reached: Counts) -> int:
        """What is followed to compile it: for each schema that gathers all over again."""
        counts: Counts = {}
        whole = 0
        for node, _ in self._nodes.values():
            if _key(node, None) in reached and any(word in node for word in _GATHERING):
                _counted(node, None, self._beside, counts=counts)
                whole += counts[_key(node, None)]
        return whole

    def _anywhere(self, node: Node, value: object) -> Groups:
        """What a schema applies to a value and what is in it, whichever that is."""
        by_name = _schemas(node, ("properties", "additionalProperties"))
        by_place = _schemas(node, ("prefixItems", "items", "additionalItems"))
        groups = [[(part, value) for part in group] for group in (by_name, by_place)]
        for_all = [[(part, value)] for part in _schemas(node, _ALL_WITHIN)]
        return [*self._beside(node, value), *groups, *for_all]

    def _beside(self, node: Node, value: object) -> Groups:
        """What a schema applies to the same value."""
        parts = (*_schemas(node, _SAME_VALUE), *self._targets(node))
        return [[(part, value)] for part in parts]

    def _here(self, node: Node, value: object) -> Groups:
        """What a schema applies to this value and what is in it."""
        groups = self._beside(node, value)
        if isinstance(value, dict):
            known = node.get("properties")
            if isinstance(known, dict):
                own = ((known.get(name), within) for name, within in value.items())
                groups += [[(part, within)] for part, within in own if isinstance(part, dict)]
            rest = _schemas(node, (*_ALL_WITHIN, "additionalProperties"))
            groups += [[(part, within)] for part in rest for within in value.values()]
        elif isinstance(value, list | tuple):
            places = zip(_listed(node, "prefixItems", "items"), value, strict=False)
            groups += [[(part, within)] for part, within in places if isinstance(part, dict)]
            words = (*_ALL_WITHIN, "additionalItems")
            rest = [*_schemas(node, words), *_single(node.get("items"))]
            groups += [[(part, within)] for part in rest for within in value]
        return groups

    def _targets(self, node: Node) -> Iterable[Node]:
        """What the references of a schema may lead to, each once."""
        said = (node[word] for word in REFERENCES if isinstance(node.get(word), str))
        return {
            id(one): one for reference in said for one in self._led_to(node, reference)
        }.values()

    def _led_to(self, node: Node, reference: str) -> list[Node]:
        """
        The schemas that a reference may mean. Rather too many: names are compared in part.

        Those of the standard are of no account: they are what they are, whoever refers to them.
        """
        address, _, fragment = reference.partition("#")
        homes = self._named.get(_last(address), ()) if address else self._homes[id(node)]
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            found: list[object] = [*self._anchored.get(fragment, ())]
        else:
            found = [one for one in (_at(home, fragment) for home in homes) if one is not None]
        if not found and not address.startswith(_STANDARD):
            self.unfollowed = self.unfollowed or reference
        return [one for one in found if isinstance(one, dict)]

    def _index(self) -> None:
        waiting: list[tuple[object, str, tuple[Node, ...]]] = [(self._document, "", ())]
        while waiting:
            holder, where, homes = waiting.pop()
            if isinstance(holder, dict):
                homes = self._noted(holder, where, homes)
                items: Iterable[tuple[object, object]] = holder.items()
            elif isinstance(holder, list):
                items = enumerate(holder)
            else:
                continue
            waiting += [(item, f"{where}/{_escaped(name)}", homes) for name, item in items]

    def _noted(self, node: Node, where: str, homes: tuple[Node, ...]) -> tuple[Node, ...]:
        names = [node[word] for word in _NAMES if isinstance(node.get(word), str)]
        if names or not homes:
            homes = (node, *homes)
        for name in names:
            address, _, anchor = name.partition("#")
            self._named.setdefault(_last(address), []).append(node)
            self._anchored.setdefault(unquote(anchor), []).append(node)
        for word in _ANCHORS:
            if isinstance(anchor := node.get(word), str):
                self._anchored.setdefault(anchor, []).append(node)
        self._nodes[id(node)] = (node, where)
        self._homes[id(node)] = homes
        return homes


def compiled_at_once(document: object) -> object:
    """The same without what makes it cost more to compile than it has lines."""
    match document:
        case dict():
            kept = ((name, said) for name, said in document.items() if name not in _GATHERING)
            return {name: compiled_at_once(said) for name, said in kept}
        case list():
            return [compiled_at_once(said) for said in document]
    return document


def _counted(
    root: Node,
    value: object,
    parts: Parts,
    most: int | None = None,
    counts: Counts | None = None,
) -> Counts:
    """
    How much each pair that is reached comes to: itself, and of each group the most.

    Without recursion, as a chain of references is as long as a schema has lines. What `counts`
    has already is not counted again.
    """
    counts = {} if counts is None else counts
    entered = set(counts)
    waiting: list[tuple[Pair, Groups | None]] = [((root, value), None)]
    while waiting:
        pair, groups = waiting.pop()
        key = _key(*pair)
        if groups is not None:
            sums = (max(counts.get(_key(*one), 1) for one in group) for group in groups if group)
            counts[key] = min(_COUNTED, 1 + sum(sums))
        elif key not in entered:
            if most is not None and len(entered) >= most:
                break
            entered.add(key)
            groups = parts(*pair)
            waiting.append((pair, groups))
            waiting += [(one, None) for group in groups for one in group]
    return counts


def _key(node: Node, value: object) -> tuple[int, int]:
    return id(node), id(value)


def _schemas(node: Node, words: Iterable[str]) -> list[Node]:
    """The schemas under keywords: each is one, a list of them, or has them by name."""
    return [part for word in words for part in _held(word, node.get(word))]


def _held(word: str, said: object) -> Iterator[Node]:
    if isinstance(said, list):
        yield from filter(_is_node, said)
    elif isinstance(said, dict):
        if word in _BY_NAME:
            yield from filter(_is_node, said.values())
        else:
            yield said


def _listed(node: Node, *words: str) -> list[Any]:
    return next((node[word] for word in words if isinstance(node.get(word), list)), [])


def _single(said: object) -> list[Node]:
    return [said] if isinstance(said, dict) else []


def _is_node(found: object) -> bool:
    return isinstance(found, dict)


def _last(address: str) -> str:
    """The last part of a name: what stays the same however a reference spells the way to it."""
    return normpath(unquote(address)).rpartition("/")[2]


def _at(home: object, pointer: str) -> object:
    """What a JSON pointer leads to; None if to nothing."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(home, dict):
            home = home.get(name)
        elif isinstance(home, list) and name.isdecimal() and int(name) < len(home):
            home = home[int(name)]
        else:
            return None
    return home


def _escaped(name: object) -> str:
    return str(name).replace("~", "~0").replace("/", "~1")
