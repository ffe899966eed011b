"""
`container_config.json`: which instances a manager has, `{"0": {"url": ..., "type": ...}}`.

Only what stands in this file is ever called. So it is read strictly: a mistake in it is named with
the JSON pointer to it.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from saggar.errors import UsageError

VARIABLE: Final = "CONTAINER_CONFIG_PATH"
USUAL: Final = "container_config.json"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FIELDS: Final = ("url", "type")


class InvalidConfig(UsageError):
    """The list of containers says something that cannot be."""

    code = "invalid-config"


@dataclass(frozen=True, slots=True)
class Container:
    """One line of the list."""

    name: str
    url: str
    type: str


def read(path: str | None = None) -> Sequence[Container]:
    """
    The list in a file: the one named, else in CONTAINER_CONFIG_PATH, else here.

    Raises:
        InvalidConfig: It cannot be read, or says something that cannot be.
    """
    path = path or os.environ.get(VARIABLE) or USUAL
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise InvalidConfig(
            f"cannot read the list of containers {path}: {reason};"
            f" name one in {VARIABLE}, or make one with saggar compose"
        ) from exc
    except UnicodeDecodeError as exc:
        raise InvalidConfig(f"{path} is not UTF-8 at byte {exc.start}") from None
    return parse(text, path)


def parse(text: str, source: str) -> Sequence[Container]:
    """The same from text; `source` is what errors call it."""
    try:
        document = json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as exc:
        raise InvalidConfig(
            f"{source} is not JSON: {exc.msg}, line {exc.lineno} column {exc.colno}"
        ) from None
    try:
        return _containers(document)
    except _Wrong as exc:
        raise InvalidConfig(f"{source}: {exc}") from None


class _Wrong(ValueError):
    """What is wrong, and where."""


class _Pairs(list[tuple[str, Any]]):
    """An object of which no line was dropped, as Python's own does with a name it has twice."""


def _containers(document: object) -> Sequence[Container]:
    entries = _object(document, "")
    if not entries:
        _refuse("", "wanted at least one container, found none")
    found = [_container(name, entry) for name, entry in entries.items()]
    places: dict[str, str] = {}
    for one in found:
        if (other := places.setdefault(one.url, one.name)) != one.name:
            # It would be given to two holders.
            _refuse(f"/{one.name}/url", f"container {other} has the same url {one.url}")
    return found


def _container(name: str, entry: object) -> Container:
    if not NAME.fullmatch(name):
        _refuse(
            _pointer("", name), f"an id is letters, digits, '.', '_' and '-', found {name!r:.60}"
        )
    fields = _object(entry, f"/{name}")
    for field in fields:
        if field not in FIELDS:
            _refuse(_pointer(f"/{name}", field), f"no such field; there are: {', '.join(FIELDS)}")
    for field in FIELDS:
        if field not in fields:
            _refuse(f"/{name}/{field}", "is missing")
        if not isinstance(fields[field], str) or not fields[field].strip():
            _refuse(f"/{name}/{field}", f"wanted text, found {fields[field]!r:.60}")
    return Container(name, _url(fields["url"], f"/{name}/url"), fields["type"].strip())


def _object(found: object, pointer: str) -> Mapping[str, Any]:
    if not isinstance(found, _Pairs):
        _refuse(pointer, "wanted an object")
    names = [name for name, _ in found]
    for name in names:
        if names.count(name) > 1:
            _refuse(_pointer(pointer, name), "stands here twice")
    return dict(found)


def _url(text: str, pointer: str) -> str:
    wanted = "wanted a url such as http://executor-000:8432"
    try:
        parts = urlsplit(text.strip())
        sound = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 80) > 0
    except ValueError:
        sound = False
    if not sound:
        _refuse(pointer, f"{wanted}, found {text!r:.80}")
    if parts.username is not None or parts.query or parts.fragment:
        _refuse(pointer, f"{wanted}, without user, query and fragment, found {text!r:.80}")
    return text.strip().rstrip("/")


def _pointer(base: str, name: str) -> str:
    return f"{base}/{name.replace('~', '~0').replace('/', '~1')}"


def _refuse(pointer: str, problem: str) -> NoReturn:
    raise _Wrong(f"{pointer or 'the document'}: {problem}")
