"""
Baking: from an application's marked functions and classes to a folder that names them.

Marked is what `@saggar.remote` decorates, and what a module lists in `__baked__`. The application
is imported here, as a test of it would be: it is its owner's own code, on his own machine.
"""

import functools
import hashlib
import importlib
import inspect
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from typing_extensions import get_type_hints

from saggar.errors import Conflict, InvalidTask, NotFound
from saggar.functions.manifest import HASHES, PACKAGE, digest_of, files_of
from saggar.functions.modules import bundle
from saggar.functions.options import Said
from saggar.functions.side import Side
from saggar.model.digest import digest
from saggar.model.environment import Environment
from saggar.model.limits import Limits
from saggar.model.policy import Policy
from saggar.model.secrets import parted

VERSION: Final = 1
BASE: Final = "saggar/runpod-cpu"
_LEFT_OUT: Final = ("__pycache__", "*.pyc", ".*", "*.egg-info")
_KEPT: Final = ("registry.json", HASHES, "Dockerfile", "locks")


@dataclass(frozen=True, slots=True)
class Found:
    """One thing that is to be baked."""

    name: str
    thing: Any
    module: str
    """Of the application."""
    environment: Environment
    said: dict[str, Any] = field(default_factory=dict)
    """Of its terms, those that its decorator names."""

    @property
    def is_class(self) -> bool:
        """Whether it has instances."""
        return isinstance(self.thing, type)


@dataclass(frozen=True, slots=True)
class Application:
    """An application's code, as its folder or file has it."""

    place: Path

    @property
    def is_package(self) -> bool:
        """Whether it is imported by its folder's name."""
        return self.place.is_dir() and (self.place / "__init__.py").is_file()

    @property
    def root(self) -> Path:
        """Where Python looks for it."""
        return self.place if self.place.is_dir() and not self.is_package else self.place.parent

    def modules(self) -> list[str]:
        """Every module of it, by name."""
        if self.place.is_file():
            return [self.place.stem]
        found = []
        for _, path in files_of(self.place):
            parts = path.relative_to(self.root).with_suffix("").parts
            hidden = any(part.startswith(".") for part in parts)
            if path.suffix == ".py" and not hidden and all(map(str.isidentifier, parts)):
                found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
        return found


def collect(app: Path, extra: Sequence[str] = ()) -> tuple[list[Found], dict[str, str]]:
    """
    What is marked in an application; and, for one of a single file, the modules that it imports.

    Args:
        app: A file, or a folder of files.
        extra: Packages that all of it needs.

    Raises:
        NotFound: There is no such place, or nothing in it is marked.
        InvalidTask: It cannot be imported, or two things have one name.
    """
    if not app.exists() or (app.is_file() and app.suffix != ".py"):
        raise NotFound(f"no application at {app}: wanted a .py file or a folder of them")
    application = Application(app.resolve())
    found: dict[str, Found] = {}
    with _importing(application.root):
        modules = [_imported(name) for name in application.modules()]
        for module in modules:
            for one in _marked(module, extra):
                if one.name in found:
                    raise InvalidTask(
                        f"{one.name!r} is in {found[one.name].module} and in {one.module};"
                        " a baked name stands for one thing"
                    )
                found[one.name] = one
        beside = _beside(application)
    if not found:
        raise NotFound(
            f"nothing in {app} is marked: decorate it with @saggar.remote, or list its name in"
            " __baked__ = [...]"
        )
    return list(found.values()), beside


@contextmanager
def _importing(root: Path) -> Iterator[None]:
    """Modules below `root` can be imported, and are forgotten afterwards."""
    known = set(sys.modules)
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))
        for name in set(sys.modules) - known:
            path = getattr(sys.modules[name], "__file__", None)
            if path and Path(path).resolve().is_relative_to(root):
                del sys.modules[name]
        importlib.invalidate_caches()


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        raise InvalidTask(
            f"{name} cannot be imported: {exc}; install what it needs here as well, or import it"
            " within the functions that use it"
        ) from exc
    except Exception as exc:
        raise InvalidTask(f"{name} cannot be imported: {type(exc).__name__}: {exc}") from exc


def _marked(module: ModuleType, extra: Sequence[str]) -> Iterator[Found]:
    listed = getattr(module, "__baked__", ())
    for name in listed:
        if not hasattr(module, name):
            raise NotFound(f"{module.__name__}.__baked__ lists {name!r}, which is not there")
    for name, value in list(vars(module).items()):
        decorated = getattr(type(value), "__saggar_marked__", False) is True
        thing = value.__saggar_function__ if decorated else value
        if not decorated and name not in listed:
            continue
        if getattr(thing, "__module__", None) != module.__name__ and name not in listed:
            continue  # it was imported from where it is
        if not callable(thing):
            raise InvalidTask(f"{module.__name__}.{name} is neither a function nor a class")
        if generates(thing):
            raise InvalidTask(
                f"{module.__name__}.{name} is a generator, and a request by name has one answer;"
                " bake a function that returns a list of what it yields"
            )
        said = value._said if decorated else Said()  # noqa: SLF001 - of this room
        around = said.around()
        around = around.replace(packages=(*around.packages, *extra))
        yield Found(name, thing, module.__name__, around, terms(f"{module.__name__}.{name}", said))


def generates(thing: Any) -> bool:
    """Whether it yields, of either kind."""
    plain = inspect.unwrap(thing) if callable(thing) else thing
    return inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain)


def terms(name: str, said: Said) -> dict[str, Any]:
    """
    What is said about a thing of where it runs, for its entry: only what somebody wrote.

    Raises:
        InvalidTask: It has values of secrets.
    """
    names, values = parted(said.secrets)
    if values:
        raise InvalidTask(
            f"{name}: secrets: what is baked lies in an image, where no value should; give names,"
            " and the operator of its workers keeps the values as SAGGAR_SECRET_<NAME>"
        )
    walls, limits = said.policy or Policy(), said.limits or {}
    if isinstance(limits, Limits):
        limits = limits.model_dump(mode="json", exclude_defaults=True)
    found: dict[str, Any] = {
        "limits": {**walls.limits.model_dump(mode="json", exclude_defaults=True), **limits},
        "network": said.network if said.policy is None else said.walls().network,
        "gpu": said.gpu if said.policy is None else said.walls().gpu,
        "env": dict(said.env),
        "secrets": list(names),
    }
    if said.timeout is not None:
        found["limits"]["wall"] = said.timeout
    written = Limits(**found["limits"]).model_dump(mode="json")
    found["limits"] = {name: written[name] for name in found["limits"]}
    return {name: value for name, value in found.items() if value not in (None, {}, [])}


def _beside(application: Application) -> dict[str, str]:
    """The modules of a file's project that it imports, as source by path."""
    if application.place.is_dir():
        return {}
    found = bundle([application.place.stem])
    return {
        name.replace(".", "/") + ("/__init__.py" if package else ".py"): text
        for name, (package, _, text, _) in found.items()
    }


def write(app: Path, output: Path, found: Sequence[Found], beside: dict[str, str]) -> None:
    """
    The folder with the code, as it will be imported.

    Raises:
        Conflict: There is something else at this place.
    """
    if output.exists() and any(output.iterdir()) and not (output / "registry.json").is_file():
        raise Conflict(f"{output} is there and was not baked; name another folder with -o")
    app, output = app.resolve(), output.resolve()
    if app == output or output.is_relative_to(app):
        raise Conflict(f"{output} is inside of the application; name another folder with -o")
    if output.exists():
        shutil.rmtree(output)
    output.mkdir(parents=True)
    (output / "__init__.py").write_text("")
    for path, text in beside.items():
        place = output / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    if app.is_dir():
        inside = output / app.name if Application(app).is_package else output
        ignored = shutil.ignore_patterns(*_LEFT_OUT)
        shutil.copytree(app, inside, ignore=ignored, dirs_exist_ok=True, symlinks=True)
    for name in (one.module for one in found):
        if not _file(output, name).is_file():
            raise InvalidTask(f"{name} was not copied: is it a part of {app}?")


def _file(output: Path, module: str) -> Path:
    stem = output.joinpath(*module.split("."))
    return stem / "__init__.py" if stem.is_dir() else stem.with_name(f"{stem.name}.py")


def register(
    output: Path, found: Sequence[Found], locks: dict[str, str], *, base: str = BASE
) -> dict[str, Any]:
    """
    Write registry, locks, Dockerfile and hashes; the registry.

    Args:
        output: The folder.
        found: What is in it.
        locks: The lock of each environment, by its digest; what it names is what is registered.
        base: The image that an application's is made from.
    """
    registry = {
        one.name: {
            "type": "class" if one.is_class else "function",
            "module": f"{PACKAGE}.{one.module}",
            "name": one.name,
            "is_async": inspect.iscoroutinefunction(one.thing),
            "digest": digest_of(_file(output, one.module)),
            "environment": _pinned(one.environment, locks).model_dump(
                mode="json", exclude_defaults=True
            ),
            "schemas": schemas_of_class(one.thing) if one.is_class else schemas(one.thing),
            **one.said,
        }
        for one in sorted(found, key=lambda one: one.name)
    }
    _json(output / "registry.json", registry)
    for name, text in locks.items():
        place = output / "locks" / f"{name.partition(':')[2][:16]}.txt"
        place.parent.mkdir(exist_ok=True)
        place.write_text(text, encoding="utf-8")
    prepared = any(entry["environment"] for entry in registry.values())
    (output / "Dockerfile").write_text(dockerfile(base, prepared=prepared), encoding="utf-8")
    files = {name: digest_of(path) for name, path in files_of(output)}
    python = ".".join(map(str, sys.version_info[:2]))
    _json(output / HASHES, {"version": VERSION, "python": python, "files": files})
    return registry


def _pinned(environment: Environment, locks: dict[str, str]) -> Environment:
    """The same with the exact versions of its lock."""
    lock = locks.get(digest(environment))
    if not lock:
        return environment
    pins = [line.split()[0].rstrip("\\") for line in lock.splitlines() if "==" in line]
    return environment.replace(packages=tuple(pin for pin in pins if not pin.startswith("-")))


def schemas(function: Any) -> dict[str, Any]:
    """What a function takes and gives, as far as its annotations say it in JSON's terms."""
    hints = _hints(function)
    said: dict[str, Any] = {}
    if (taken := _taken(function, hints)) is not None:
        said["input"] = taken
    if "return" in hints and (given := _schema(hints["return"])) is not None:
        said["output"] = given
    return said


def schemas_of_class(kind: type) -> dict[str, Any]:
    """What its constructor takes; and its methods that clients may call, each with its own."""
    said: dict[str, Any] = {
        "methods": {name: schemas(method) for name, method in sorted(_methods(kind).items())}
    }
    if (taken := _taken(kind, _hints(kind.__init__))) is not None:  # type: ignore[misc]
        said["input"] = taken
    return said


def _methods(kind: type) -> dict[str, Any]:
    """Public methods and `__call__`, without what only a beginning or an end calls."""
    found = {}
    for name in {name for each in kind.__mro__[:-1] for name in vars(each)}:
        if name.startswith("_") and name != "__call__":
            continue
        member = inspect.getattr_static(kind, name)
        plain = getattr(member, "__func__", member)
        if not callable(plain) or isinstance(plain, type) or hasattr(plain, "__saggar_hook__"):
            continue
        if generates(plain):
            continue
        # A first argument that is the object is no caller's to give.
        bound = isinstance(member, staticmethod) or not inspect.isroutine(plain)
        found[name] = plain if bound else functools.partial(plain, None)
    return found


def _hints(function: Any) -> dict[str, Any]:
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return get_type_hints(function)
    except Exception:  # noqa: BLE001 - an annotation is any expression
        return {}


def _taken(function: Any, hints: dict[str, Any]) -> dict[str, Any] | None:
    """An object with a property for each parameter; None where they are as many as one likes."""
    properties, required, shared = {}, [], {}
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # of C, without a signature
        return None
    for name, parameter in parameters.items():
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            return None
        document = (_schema(hints[name]) if name in hints else None) or {}
        shared.update(document.pop("$defs", {}))
        properties[name] = document
        if parameter.default is parameter.empty:
            required.append(name)
    said: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    return {**said, "$defs": shared} if shared else said


def _schema(kind: Any) -> dict[str, Any] | None:
    """The schema of a type; None if it has none, and is left to the function."""
    try:
        schema = Side(kind).schema
    except InvalidTask:
        return None
    return None if schema is None else dict(schema.document)


def dockerfile(base: str, *, prepared: bool) -> str:
    """An application's image, built with the baked folder as its context."""
    lines = [
        f"ARG BASE={base}",
        "FROM ${BASE}",
        "",
        f"COPY . /app/{PACKAGE}",
    ]
    if prepared:
        lines += [
            "",
            "# What the programs need is in the image: it runs where no index can be reached.",
            f"RUN saggar bake --prepare /app/{PACKAGE}",
        ]
    return "\n".join([*lines, "", "ENV TETRA_BAKED_MODE=true", ""])


def name_of(output: Path) -> str:
    """A name for the whole: SHA-256 over its hashes."""
    return f"sha256:{hashlib.sha256((output / HASHES).read_bytes()).hexdigest()}"


def _json(path: Path, document: object) -> None:
    # Not sorted: the order of a schema's properties is that of the positional arguments.
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
