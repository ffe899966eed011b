"""
The project's own modules: which they are, which a piece of code needs, and all of them as a bundle.

A bundle is known by the digest of its paths and sources. What is installed is never part of one: it
is the environment's to have.
"""

import dis
import hashlib
import importlib.util
import marshal
import os
import re
import site
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Final

from saggar.errors import InvalidTask
from saggar.model.quantity import MiB, format_bytes

LARGEST_BUNDLE: Final = 8 * MiB
_BY_TEXT: Final = frozenset(("import_module", "__import__"))
_NAME: Final = re.compile(r"\.*[^\W\d]\w*(\.[^\W\d]\w*)*")


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's code, and that of everything defined within."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def imported(code: types.CodeType, space: Mapping[str, Any]) -> Iterator[str]:
    """The modules that a code's own import statements name."""
    package = str(space.get("__package__") or "")
    level: Any = 0
    before: list[Any] = [0, 0]
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            level = before[-2] if isinstance(before[-2], int) else 0
            names = before[-1] if isinstance(before[-1], tuple) else ()
            base = _absolute(str(step.argval), level, package)
            if base:
                yield base
                yield from (f"{base}.{name}" for name in names if isinstance(name, str))
        if step.opname in {"LOAD_CONST", "LOAD_SMALL_INT"}:
            before.append(step.argval)
    if not _BY_TEXT.isdisjoint(code.co_names):
        # Whichever of its texts is meant: what names no module of the project is passed over.
        for text in code.co_consts:
            if isinstance(text, str) and _NAME.fullmatch(text):
                bare = text.lstrip(".")
                yield _absolute(bare, len(text) - len(bare), package)


def _absolute(name: str, level: int, package: str) -> str:
    if not level:
        return name
    parts = package.split(".")
    base = ".".join(parts[: len(parts) - level + 1])
    return f"{base}.{name}" if name and base else base or name


def bundle(names: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """
    The project's own modules among these, and those that they import, as code and source.

    Raises:
        InvalidTask: They are too large, or one has no source.
    """
    found: dict[str, tuple[Any, ...]] = {}
    left = [name for name in names if name]
    looked: set[str] = {"__main__", "__mp_main__"}
    while left:
        name = left.pop()
        if name in looked:
            continue
        looked.add(name)
        left += [name.rpartition(".")[0]] if "." in name else []
        place = _project_file(name)
        if place is None:
            continue
        package, path, text, data = _read(*place) if place[1] else _NOTHING
        found[name] = (package, data, text, path)
        inside = name if package else name.rpartition(".")[0]
        for code in codes(marshal.loads(data)):  # noqa: S302 - ours, of a moment ago
            left += imported(code, {"__package__": inside})
    weight = sum(len(text) for _, _, text, _ in found.values())
    if weight > LARGEST_BUNDLE:
        heaviest = max(found, key=lambda name: len(found[name][2]))
        raise InvalidTask(
            f"the project's modules that the function needs have {format_bytes(weight)} of source,"
            f" more than {format_bytes(LARGEST_BUNDLE)}; the longest is {heaviest!r}; what is that"
            " large belongs in a package: Environment(packages=...)"
        )
    return dict(sorted(found.items()))


def digest_of(modules: Mapping[str, tuple[Any, ...]]) -> str:
    """The one name of a bundle: SHA-256 over paths and sources."""
    if not modules:
        return ""
    whole = hashlib.sha256()
    for name, (package, _, text, _) in modules.items():
        path = name.replace(".", "/") + ("/__init__.py" if package else ".py")
        whole.update(f"{path}\0{len(text)}\0{text}\0".encode())
    return whole.hexdigest()


Stamp = tuple[int, int]
"""When a file was changed, and its size."""
_NOTHING: Final = (True, "", "", marshal.dumps(compile("", "<namespace>", "exec")))
"""A package without a file of its own."""
_read_before: dict[str, tuple[Stamp, tuple[bool, str, str, bytes]]] = {}


def stamp_of(path: str) -> Stamp | None:
    """When a file was changed; None if there is none any more."""
    try:
        now = os.stat(path)
    except OSError:
        return None
    return now.st_mtime_ns, now.st_size


def _read(package: bool, path: str) -> tuple[bool, str, str, bytes]:  # noqa: FBT001
    """A module's source and code; again only when the file has changed."""
    now = os.stat(path)
    stamp = now.st_mtime_ns, now.st_size
    known = _read_before.get(path)
    if known is not None and known[0] == stamp:
        return known[1]
    with open(path, "rb") as file:
        data = file.read()
    text = importlib.util.decode_source(data)
    code = compile(data, path, "exec", dont_inherit=True)
    read = (package, path, text, marshal.dumps(code))
    _read_before[path] = stamp, read
    return read


def _project_file(name: str) -> tuple[bool, str] | None:
    """
    Whether it is a package, and where its source is; None for what is not the project's.

    A package without a file of its own is nowhere: "".
    """
    module = sys.modules.get(name)
    if module is not None:
        return _loaded_file(name, module) if is_project(module) else None
    root = name.partition(".")[0]
    if root in sys.stdlib_module_names or root in sys.builtin_module_names:
        return None
    try:
        spec = importlib.util.find_spec(name) if _is_ours(root) else None
    except (ImportError, ValueError, AttributeError):
        return None  # of "from a import b" where b is no module
    package = spec is not None and spec.submodule_search_locations is not None
    if spec is None or not (spec.origin or "").endswith(".py"):
        return (True, "") if package and spec is not None and spec.origin is None else None
    return package, str(spec.origin)


def _loaded_file(name: str, module: types.ModuleType) -> tuple[bool, str]:
    spec, path = getattr(module, "__spec__", None), getattr(module, "__file__", None)
    if path is None:
        return True, ""
    if not path.endswith(".py"):
        raise InvalidTask(
            f"{name!r} is a module of the project without Python source ({path}); install it"
            " into the environment: Environment(packages=...)"
        )
    package = bool(spec is not None and spec.submodule_search_locations is not None)
    return package or path.endswith("__init__.py"), path


def _is_ours(root: str) -> bool:
    """Whether a package that may not be loaded is the project's: its parts are looked for then."""
    module = sys.modules.get(root)
    if module is not None:
        return is_project(module)
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):
        return False
    if spec is None:
        return False
    return _is_outside([spec.origin] if spec.origin else spec.submodule_search_locations)


def is_project(module: types.ModuleType) -> bool:
    """Whether a module is the user's own: of no installed package, and not of Python itself."""
    root = module.__name__.partition(".")[0]
    if root == "saggar" or root in sys.stdlib_module_names:
        return False
    path = getattr(module, "__file__", None)
    return _is_outside([path] if path is not None else getattr(module, "__path__", None))


def is_made_by_hand(name: str) -> bool:
    """Whether a loaded module came of no file and of no importer, so that no other can find it."""
    module = sys.modules.get(name)
    root = sys.modules.get(name.partition(".")[0])
    if module is None or root is None or name == "__main__":
        return False
    if root is not module and not (is_project(root) or is_made_by_hand(root.__name__)):
        return False  # an installed package knows what it does
    return not any(getattr(module, said, None) for said in ("__file__", "__spec__", "__path__"))


def _is_outside(places: Iterable[str] | None) -> bool:
    """Whether one of the places of a module is the project's; a package may have several."""
    return any(not _installed(place) for place in places or ())


@cache
def _installed(path: str) -> bool:
    """Whether a file is below one of the folders that installers write to."""
    real = os.path.realpath(path)
    return any(real.startswith(folder + os.sep) for folder in _folders())


@cache
def _folders() -> tuple[str, ...]:
    named = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    named.update(site.getsitepackages() if hasattr(site, "getsitepackages") else ())
    named.add(site.getusersitepackages())
    return tuple({os.path.realpath(path) for path in named if path})
