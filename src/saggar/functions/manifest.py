"""
The registry of baked programs: which names there are, and what each of them stands for.

`registry.json` is the documented one, `{name: {type, module, name}}`, which anybody may write by
hand; what `saggar bake` adds is checked where it is there. `hashes.json` beside it has a hash for
every file: then nothing else may lie in the folder that could be imported.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from saggar.errors import InvalidTask, NotFound
from saggar.model.environment import Environment
from saggar.model.schema import Schema

PACKAGE: Final = "baked_code"
DEFAULT: Final = Path("/app") / PACKAGE / "registry.json"
HASHES: Final = "hashes.json"
LARGEST: Final = 8 << 20
_MODULE: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_CODE: Final = (".py", ".pyc", ".so", ".pth", ".pyd")


class Schemas(BaseModel):
    """What goes in, by the names of the parameters, and what comes out."""

    model_config = ConfigDict(frozen=True)

    input: dict[str, Any] | None = None
    output: dict[str, Any] | None = None


class Entry(BaseModel):
    """What a name stands for."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["function", "class"]
    module: str
    name: Annotated[str, Field(pattern=f"^{_MODULE.pattern}$")] = ""
    """Of the callable in the module. Empty: that of the entry."""
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    """Of the module's file."""
    environment: Environment = Environment.model_construct()
    schemas: Schemas = Schemas()


class Registry:
    """Every name, and the folder that the code is in."""

    def __init__(self, folder: Path, entries: Mapping[str, Entry]) -> None:
        self.folder = folder
        self.entries = dict(entries)
        self._schemas: dict[tuple[str, str], Schema | None] = {}

    @classmethod
    def load(cls, path: Path) -> "Registry":
        """
        The registry of a file; everything that it says of itself is true then.

        Raises:
            InvalidTask: It is missing, is none, names what is not in its folder, or a file has
                another hash than it had.
        """
        said = _document(path)
        folder = path.parent.resolve()
        entries = {name: _entry(name, about) for name, about in said.items()}
        registry = cls(folder, entries)
        registry.verify()
        return registry

    @property
    def digest(self) -> str:
        """Of the whole: SHA-256 over the names of its files and what is in them."""
        whole = hashlib.sha256()
        for name, place in files_of(self.folder):
            whole.update(f"{name}\0{digest_of(place)}\n".encode())
        return f"sha256:{whole.hexdigest()}"

    def find(self, name: str) -> Entry:
        """
        What a name stands for.

        Raises:
            NotFound: It stands for nothing here.
        """
        if name not in self.entries:
            raise NotFound.among("baked program", name, self.entries)
        return self.entries[name]

    def verify(self) -> None:
        """InvalidTask where a file is not what it was when it was baked."""
        self._verify_hashes()
        for name, entry in self.entries.items():
            self.verify_entry(name, entry)

    def verify_entry(self, name: str, entry: Entry) -> Path:
        """The file of an entry, in this folder and with the hash that it should have."""
        stem = self.folder.joinpath(*entry.module.split(".")[1:])
        places = (stem.with_name(f"{stem.name}.py"), stem / "__init__.py")
        place = next((one for one in places if one.is_file()), None)
        if place is None or not place.resolve().is_relative_to(self.folder):
            raise InvalidTask(
                f"registry.json: {name}: no module {entry.module!r:.200} is in {self.folder}"
            )
        if entry.digest is not None and digest_of(place) != entry.digest:
            raise InvalidTask(
                f"registry.json: {name}: {place.name} is not what was baked (its digest differs);"
                " bake it again"
            )
        return place

    def _verify_hashes(self) -> None:
        path = self.folder / HASHES
        if not path.is_file():
            return
        said = _document(path)
        listed = said.get("files")
        if not isinstance(listed, dict):
            raise InvalidTask(f"{HASHES}: wanted the hashes of files, found {listed!r:.80}")
        found = dict(files_of(self.folder))
        for name, wanted in listed.items():
            if name not in found:
                raise InvalidTask(f"{HASHES}: {name!r:.200} is missing in {self.folder}")
            if digest_of(found[name]) != wanted:
                raise InvalidTask(f"{HASHES}: {name!r:.200} is not what was baked")
        for name in sorted(found.keys() - listed.keys()):
            if name.endswith(_CODE):
                raise InvalidTask(f"{HASHES}: {name!r:.200} was not there when this was baked")

    def problem(self, name: str, args: Any, named: Mapping[str, Any]) -> str | None:
        """What an entry's schema does not allow about arguments; None where it allows them."""
        schema = self._schema(name, "input")
        if schema is None:
            return None
        document = self.find(name).schemas.input or {}
        names = list(document.get("properties", {}))
        if len(args) > len(names):
            return f"wanted at most {len(names)} positional arguments, found {len(args)}"
        bound = dict(zip(names, args, strict=False))
        if twice := sorted(bound.keys() & named.keys()):
            return f"{twice[0]!r} was given twice"
        return schema.problem({**bound, **named})

    def answer_problem(self, name: str, value: object) -> str | None:
        """The same of an answer."""
        schema = self._schema(name, "output")
        return None if schema is None else schema.problem(value)

    def _schema(self, name: str, side: Literal["input", "output"]) -> Schema | None:
        if (name, side) not in self._schemas:
            document = getattr(self.find(name).schemas, side)
            self._schemas[name, side] = None if document is None else Schema.of(document)
        return self._schemas[name, side]


def files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below a folder that counts, sorted by its path; InvalidTask for a link in it."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(one for one in folders if one != "__pycache__")
        for name in sorted([*names, *folders]):
            place = Path(parent) / name
            if place.is_symlink():
                raise InvalidTask(f"{place} is a link; a baked folder has files of its own only")
            if name in names and name != HASHES:
                yield place.relative_to(folder).as_posix(), place


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def _document(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST:
            raise InvalidTask(f"{path}: more than {LARGEST:,} bytes are no registry")
        said = from_json(path.read_bytes())
    except OSError as exc:
        raise InvalidTask(f"{path}: it cannot be read: {exc.strerror}") from None
    except ValueError as exc:
        raise InvalidTask(f"{path}: it is not JSON: {exc}") from None
    if not isinstance(said, dict):
        raise InvalidTask(f"{path}: wanted an object of names, found {type(said).__name__}")
    return said


def _entry(name: str, about: object) -> Entry:
    try:
        entry = Entry.model_validate(about)
    except (ValidationError, InvalidTask) as exc:
        raise InvalidTask(f"registry.json: {name:.100}: {exc}") from None
    if not _MODULE.fullmatch(entry.module) or entry.module.partition(".")[0] != PACKAGE:
        raise InvalidTask(
            f"registry.json: {name:.100}: wanted a module such as '{PACKAGE}.main', found"
            f" {entry.module!r:.200}"
        )
    if not _MODULE.fullmatch(name):
        raise InvalidTask(f"registry.json: wanted a name such as 'predict', found {name!r:.200}")
    return entry.model_copy(update={"name": entry.name or name})
