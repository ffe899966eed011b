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


def _absolute(name: str, level: int, package: str) -> str:
    if not level:
        return name
    parts = package.split(".")
    base = ".".join(parts[: len(parts) - level + 1])
    return f"{base}.{name}" if name and base else base or name


def bundle(names: Iterable[str], *, without: str = "__main__") -> dict[str, tuple[Any, ...]]:
    """
    The project's own modules among these, and those that they import, as code and source.

    `without` is the module that travels by value.

    Raises:
        InvalidTask: They are too large, or one has no source.
    """
    found: dict[str, tuple[Any, ...]] = {}
    left = [name for name in names if name]
    looked: set[str] = {without, "__main__", "__mp_main__"}
    while left:
        name = left.pop()
        if name in looked:
            continue
        looked.add(name)
        left += [name.rpartition(".")[0]] if "." in name else []
        place = _project_file(name)
        if place is None:
            continue
        package, path, text, data = _read(*place)
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


_read_before: dict[str, tuple[tuple[int, int], tuple[bool, str, str, bytes]]] = {}


def _read(package: bool, path: str) -> tuple[bool, str, str, bytes]:  # noqa: FBT001
    """A module's source and code; again only when the file has changed."""
    now = os.stat(path)
    stamp = (now.st_mtime_ns, now.st_size)
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
    """Whether it is a package, and where its source is; None for what is not the project's."""
    module = sys.modules.get(name)
    if module is not None:
        spec, path = getattr(module, "__spec__", None), getattr(module, "__file__", None)
        if path is None or not is_project(module):
            return None
        if not path.endswith(".py"):
            raise InvalidTask(
                f"{name!r} is a module of the project without Python source ({path}); install it"
                " into the environment: Environment(packages=...)"
            )
        package = bool(spec is not None and spec.submodule_search_locations is not None)
        return package or path.endswith("__init__.py"), path
    root = name.partition(".")[0]
    if root in sys.stdlib_module_names or root in sys.builtin_module_names:
        return None
    try:
        spec = importlib.util.find_spec(name) if _is_ours(root) else None
    except (ImportError, ValueError, AttributeError):
        return None  # of "from a import b" where b is no module
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return spec.submodule_search_locations is not None, spec.origin


def _is_ours(root: str) -> bool:
    """Whether a package that may not be loaded is the project's: its parts are looked for then."""
    module = sys.modules.get(root)
    if module is not None:
        return is_project(module)
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and not _installed(spec.origin)


def is_project(module: types.ModuleType) -> bool:
    """Whether a module is the user's own: of no installed package, and not of Python itself."""
    root = module.__name__.partition(".")[0]
    if root == "saggar" or root in sys.stdlib_module_names:
        return False
    path = getattr(module, "__file__", None)
    return path is not None and not _installed(path)


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
