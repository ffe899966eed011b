"""
The registry of baked programs: which names there are, and what each of them stands for.

`registry.json` is the documented one, `{name: {type, module, name}}`, which anybody may write by
hand; what `saggar bake` adds is checked where it is there. `hashes.json` beside it has a hash for
every file: then nothing else may lie in the folder that could be imported.
"""

import ast
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import from_json

from saggar.errors import InvalidTask, NotFound
from saggar.model.environment import Environment
from saggar.model.limits import Limits
from saggar.model.policy import Network
from saggar.model.schema import Schema

PACKAGE: Final = "baked_code"
DEFAULT: Final = Path("/app") / PACKAGE / "registry.json"
HASHES: Final = "hashes.json"
LARGEST: Final = 8 << 20
_MODULE: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_SIDES: Final[tuple[Literal["input", "output"], ...]] = ("input", "output")
_CODE: Final = (".py", ".pyc", ".so", ".pth", ".pyd")


class Schemas(BaseModel):
    """What goes in, by the names of the parameters, and what comes out."""

    model_config = ConfigDict(frozen=True)

    input: dict[str, Any] | None = None
    """Of a class: into its constructor."""
    output: dict[str, Any] | None = None
    methods: "dict[str, Schemas] | None" = None
    """Of a class: each that may be called. None: every public one, and `__call__`."""

    def of(self, method: str | None) -> "Schemas":
        """Those of a method; without one the thing's own."""
        return self if method is None else (self.methods or {}).get(method, Schemas())

    @property
    def sides(self) -> "list[tuple[str | None, Literal['input', 'output']]]":
        """Every one there may be: of which method, and which side of it."""
        return [(one, side) for one in (None, *(self.methods or ())) for side in _SIDES]


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
    limits: dict[str, Any] = {}
    """Those that its decorator names; the worker's hold besides."""
    network: Network | None = None
    gpu: int | None = None
    env: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    """Names; the worker's operator has the values."""

    @field_validator("limits")
    @classmethod
    def _are_limits(cls, limits: dict[str, Any]) -> dict[str, Any]:
        Limits(**limits)
        return limits

    def has(self, method: str) -> bool:
        """Whether a client may call a method of this name."""
        if self.schemas.methods is not None:
            return method in self.schemas.methods
        return method == "__call__" or not method.startswith("_")


class Registry:
    """Every name, and the folder that the code is in."""

    def __init__(self, folder: Path, entries: Mapping[str, Entry]) -> None:
        self.folder = folder
        self.entries = dict(entries)
        self.hashes: dict[str, str] | None = None
        """Of every file, as they were at the start. None: nobody has written them down."""
        self._seen: dict[str, tuple[tuple[int, ...], str]] = {}
        self._schemas: dict[tuple[str, str | None, str], Schema | None] = {}

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
        registry.hashes = _hashes(folder)
        registry.verify()
        for name, entry in entries.items():
            registry.check_entry(name, entry)
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
        self.verify_hashes()
        for name, entry in self.entries.items():
            self.verify_entry(name, entry)

    def check_entry(self, name: str, entry: Entry) -> None:
        """InvalidTask where it names what is not in this folder, or a schema is none."""
        first = entry.name.partition(".")[0]
        text = self.verify_entry(name, entry).read_bytes()
        if origin := _imported_from(text, first, self.folder):
            raise InvalidTask(
                f"registry.json: {name}: {entry.module} imports {first!r} from {origin!r:.80},"
                " which was not baked; name what is defined here"
            )
        for method, side in entry.schemas.sides:
            try:
                self._schema(name, method, side)
            except InvalidTask as exc:
                where = f"{name}.{method}" if method else name
                raise InvalidTask(f"registry.json: {where}: schemas.{side}: {exc}") from None

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

    def verify_hashes(self) -> None:
        """The same of every file, against the hashes of the start, where there are any."""
        if self.hashes is None:
            return
        found = dict(files_of(self.folder))
        for name, wanted in self.hashes.items():
            if name not in found:
                raise InvalidTask(f"{HASHES}: {name!r:.200} is missing in {self.folder}")
            if self._digest(name, found[name]) != wanted:
                raise InvalidTask(f"{HASHES}: {name!r:.200} is not what was baked")
        for name in sorted(found.keys() - self.hashes.keys()):
            if name.endswith(_CODE):
                raise InvalidTask(f"{HASHES}: {name!r:.200} was not there when this was baked")

    def _digest(self, name: str, place: Path) -> str:
        """A file's; read again only where the file system says that it has changed."""
        about = place.stat()
        now = (about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
        known = self._seen.get(name)
        if known is None or known[0] != now:
            known = self._seen[name] = now, digest_of(place)
        return known[1]

    def problem(
        self, name: str, args: Any, named: Mapping[str, Any], method: str | None = None
    ) -> str | None:
        """What an entry's schema does not allow about arguments; None where it allows them."""
        schema = self._schema(name, method, "input")
        if schema is None:
            return None
        document = self.find(name).schemas.of(method).input or {}
        names = list(document.get("properties", {}))
        if len(args) > len(names):
            return f"wanted at most {len(names)} positional arguments, found {len(args)}"
        bound = dict(zip(names, args, strict=False))
        if twice := sorted(bound.keys() & named.keys()):
            return f"{twice[0]!r} was given twice"
        return schema.problem({**bound, **named})

    def answer_problem(self, name: str, value: object, method: str | None = None) -> str | None:
        """The same of an answer."""
        schema = self._schema(name, method, "output")
        return None if schema is None else schema.problem(value)

    def _schema(
        self, name: str, method: str | None, side: Literal["input", "output"]
    ) -> Schema | None:
        key = name, method, side
        if key not in self._schemas:
            document = getattr(self.find(name).schemas.of(method), side)
            self._schemas[key] = None if document is None else Schema.of(document)
        return self._schemas[key]


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


def _hashes(folder: Path) -> dict[str, str] | None:
    path = folder / HASHES
    if not path.is_file():
        return None
    listed = _document(path).get("files")
    if not isinstance(listed, dict):
        raise InvalidTask(f"{HASHES}: wanted the hashes of files, found {listed!r:.80}")
    return {str(name): str(digest) for name, digest in listed.items()}


def _imported_from(text: bytes, name: str, folder: Path) -> str | None:
    """The module outside of this folder that a name of a module's comes from, if that is plain."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return None  # whoever imports it will hear
    for node in tree.body:
        match node:
            case ast.Import(names=names):
                whole = [(one.asname or one.name.partition(".")[0], one.name) for one in names]
            case ast.ImportFrom(names=names, level=0, module=str(origin)):
                whole = [(one.asname or one.name, origin) for one in names]
            case _:
                continue
        for bound, origin in whole:
            first = origin.partition(".")[0]
            inside = (folder / first).is_dir() or (folder / f"{first}.py").is_file()
            if bound == name and not inside and first != PACKAGE:
                return origin
    return None


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
    if any(part.startswith("__") for part in entry.name.split(".")):
        raise InvalidTask(f"registry.json: {name:.100}: {entry.name!r:.100} is Python's own")
    return entry.model_copy(update={"name": entry.name or name})
