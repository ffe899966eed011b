"""
Functions and classes of foreign requests, inside: source text, pickled arguments, a pickled answer.

The host reads this file as text and sends it along; it is never imported there. What it answers is
a plain dictionary, whatever the user's code does: a failure is one of its words.
"""

import asyncio
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import io
import json
import linecache
import logging
import os
import sys
import tempfile
import traceback
import types

# Of the same folder; the host sends them along, by these names.
import saggar_hooks  # type: ignore[import-not-found]
import saggar_lifting  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal

    Said = dict[str, Any]

HOME = "remote_code"
"""The module that the user's code is in. What it defines pickles by value: nobody else has it."""
MOST_LOG = 1 << 20
MOST_TEXT = 1 << 17


class Missing(Exception):
    """What was asked for is not in the code; its text is all there is to say."""


class Worker:
    """Does what requests say; a class's one instance, and imported modules, stay for the next."""

    def __init__(self, hashes: "dict[str, str] | None" = None) -> None:
        """With `hashes`, those of all files of a baked folder: what differs is not imported."""
        self._object: Any = None
        self._hashes = hashes
        self._loaded: dict[tuple[str, str], Any] = {}
        self._signatures: dict[tuple[str, str, str], Any] = {}
        self._runner = asyncio.Runner()

    def perform(self, said: "Said") -> "Said":
        """One request, and what came of it."""
        log = Log(said.get("log_level") or "INFO")
        answer: Said = {"success": False, "made": self._object is not None}
        try:
            with log:
                found = self._awaited(self._found(said))
                answer.update(lowered(found, said), success=True)
        except KeyboardInterrupt:
            raise
        except Missing as exc:
            answer["error"] = answer["text"] = str(exc).encode()
        except BaseException as exc:  # SystemExit as well: the next request finds us alive
            answer["error"] = told(exc)
        answer["made"] = self._object is not None
        answer["log"] = log.text()
        return answer

    def _found(self, said: "Said") -> object:
        if said["kind"] == "function":
            function = self._callable(said)
            args, named = self._arguments(said, "args", "kwargs", function)
            return function(*args, **named)
        if self._object is None:
            kind = self._callable(said)
            args, named = self._arguments(said, "made_args", "made_kwargs", kind)
            made = kind(*args, **named)
            self._hooks(made, "enter")
            self._object = made
        method = self._method(said)
        args, named = self._arguments(said, "args", "kwargs", method)
        return method(*args, **named)

    def _method(self, said: "Said") -> "Any":
        """A method; of what was baked one that it has for others to call."""
        name, kind = said["method"], type(self._object)
        method = getattr(self._object, name, None) if callable_of(kind, name, said) else None
        if method is None:
            raise Missing(f"Method '{name}' not found in class '{kind.__name__}'")
        return method

    def _arguments(
        self, said: "Said", args: str, named: str, thing: "Any"
    ) -> "tuple[list[Any], dict[str, Any]]":
        """Arguments, of what was baked as it is annotated: its callers have its schema."""
        found = unpacked(said, args, named)
        if "module" not in said or said["format"] != "json":
            return found
        key = args, said["name"], said["method"] if said["kind"] == "class" else ""
        if key not in self._signatures:
            hinted = getattr(thing, "__init__", None) if isinstance(thing, type) else None
            self._signatures[key] = saggar_lifting.Signature(thing, hinted)
        lifted: tuple[list[Any], dict[str, Any]] = self._signatures[key].lifted(*found)
        return lifted

    def leave(self) -> None:
        """The end of the sandbox, and so of what is in it."""
        if self._object is not None:
            self._hooks(self._object, "exit")

    def _hooks(self, made: object, when: "Literal['enter', 'exit']") -> None:
        for name in saggar_hooks.marked(type(made), when):
            hook: Callable[[], Any] = getattr(made, name)
            self._awaited(hook())

    def _callable(self, said: "Said") -> "Any":
        """A name of the code that came along, or of a module that was there before."""
        if "module" in said:
            return self._imported(said)
        furnish(said.get("modules") or {})
        found = executed(said["code"], said["name"])
        if found is None:
            what = "Function" if said["kind"] == "function" else "Class"
            raise Missing(f"{what} '{said['name']}' not found in the provided code")
        return found

    def _imported(self, said: "Said") -> "Any":
        module, name = said["module"], said["name"]
        if (module, name) in self._loaded:
            return self._loaded[module, name]
        installed(module.partition(".")[0], said["folders"], self._hashes)
        try:
            found: Any = importlib.import_module(module)
        except ImportError as exc:
            raise ImportError(f"Failed to import baked module '{module}': {exc}") from exc
        for part in name.split("."):
            within = isinstance(found, types.ModuleType) and found.__name__ != module
            if within or not hasattr(found, part):
                raise Missing(f"Callable '{name}' not found in module '{module}'")
            found = getattr(found, part)
        self._loaded[module, name] = found
        return found

    def _awaited(self, found: "Any") -> object:
        """On one loop, for as long as the object lives."""
        if not inspect.isawaitable(found):
            return found

        async def awaited() -> object:
            return await found

        return self._runner.run(awaited())


Worker.leave.__saggar_hook__ = "exit"  # type: ignore[attr-defined]  # nobody has a decorator here


def callable_of(kind: type, name: str, said: "Said") -> bool:
    """Whether a class has such a method for clients; what came as text is its client's own."""
    if "module" not in said:
        return True
    member = inspect.getattr_static(kind, name, None)
    hook = getattr(member, "__saggar_hook__", None) is not None
    private = name.startswith("_") and name != "__call__"
    return not hook and not private and not isinstance(member, property)


class Baked(importlib.machinery.SourceFileLoader):
    """Source of a baked folder as it was hashed; byte code that lies beside it is not read."""

    root = ""
    hashes: "dict[str, str] | None" = None

    def get_code(self, fullname: str) -> types.CodeType:
        """What is compiled is what was compared."""
        path = self.get_filename(fullname)
        return self.source_to_code(checked(path, self.root, self.hashes), path)


class BakedExtension(importlib.machinery.ExtensionFileLoader):
    """The same of what a compiler made."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """Load it, if it is what was hashed."""
        checked(str(self.path), Baked.root, Baked.hashes)
        return super().create_module(spec)


def checked(path: str, root: str, hashes: "dict[str, str] | None") -> bytes:
    """What is in a file. ImportError if it has another hash than it should have."""
    with open(path, "rb") as file:
        data = file.read()
    if hashes is not None:
        name = os.path.relpath(path, root)
        if hashes.get(name) != f"sha256:{hashlib.sha256(data).hexdigest()}":
            raise ImportError(f"{name} is not what was baked")
    return data


def finder(path: str) -> "Any":
    """Of folders of the baked one, and of no other."""
    if path != Baked.root and not path.startswith(Baked.root + os.sep):
        raise ImportError(f"{path} was not baked")
    source = Baked, importlib.machinery.SOURCE_SUFFIXES
    built = BakedExtension, importlib.machinery.EXTENSION_SUFFIXES
    return importlib.machinery.FileFinder(path, built, source)


def installed(package: str, folders: "list[str]", hashes: "dict[str, str] | None") -> None:
    """
    A package in the first of these folders that is there, whatever that is called.

    Made by hand: what is around the folder need not be readable, so no finder would find it.
    """
    if package in sys.modules:
        return
    folder = next((one for one in folders if os.path.isdir(one)), folders[-1])
    Baked.root, Baked.hashes = folder, hashes
    sys.path_hooks.insert(0, finder)
    for known in [one for one in sys.path_importer_cache if one.startswith(folder)]:
        del sys.path_importer_cache[known]
    if folder not in sys.path:
        sys.path.insert(0, folder)  # for modules of it that import each other by their own names
    first = os.path.join(folder, "__init__.py")
    spec = importlib.util.spec_from_file_location(
        package, first, loader=Baked(package, first), submodule_search_locations=[folder]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"no package can be made of {folder}")
    found = sys.modules[package] = importlib.util.module_from_spec(spec)
    if os.path.isfile(first):
        spec.loader.exec_module(found)


def perform(said: "Said") -> "Said":
    """One request of which nothing stays."""
    return Worker().perform(said)


class Log:
    """What the root logger is told meanwhile."""

    def __init__(self, level: str) -> None:
        self._written = io.StringIO()
        self._handler = logging.StreamHandler(self._written)
        self._level = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)

    def __enter__(self) -> None:
        root = logging.getLogger()
        root.addHandler(self._handler)
        root.setLevel(self._level)

    def __exit__(self, *exc: object) -> None:
        logging.getLogger().removeHandler(self._handler)

    def text(self) -> bytes:
        """The end of it."""
        return self._written.getvalue()[-MOST_LOG:].encode(errors="replace")


def unpacked(said: "Said", args: str, named: str) -> "tuple[list[Any], dict[str, Any]]":
    """Arguments: plain ones, or each of them pickled."""
    if said["format"] == "json":
        return list(said[args]), dict(said[named])
    if not said[args] and not said[named]:
        return [], {}
    import base64

    import cloudpickle

    def load(text: str) -> object:
        return cloudpickle.loads(base64.b64decode(text))

    return [load(one) for one in said[args]], {key: load(one) for key, one in said[named].items()}


def lowered(found: object, said: "Said") -> "Said":
    """An answer as bytes: the host reads JSON, and passes a pickle on unread."""
    if said["format"] == "json" and "module" in said:
        return {"json": saggar_lifting.lowered(found)}
    if said["format"] == "json":
        return {"json": json.dumps(found, allow_nan=False).encode()}
    import cloudpickle

    if HOME in sys.modules:
        cloudpickle.register_pickle_by_value(sys.modules[HOME])
    return {"result": cloudpickle.dumps(found)}


def executed(code: str, name: str) -> "Any":
    """What the code calls by this name; None if it calls nothing so."""
    filename = f"<{name}>"
    linecache.cache[filename] = (len(code), None, code.splitlines(keepends=True), filename)
    module = sys.modules[HOME] = types.ModuleType(HOME)
    exec(compile(code, filename, "exec", dont_inherit=True), module.__dict__)
    return module.__dict__.get(name)


def furnish(modules: "dict[str, str]") -> None:
    """Modules that came as text, to be imported from a folder of their own."""
    if not modules:
        return
    folder = tempfile.mkdtemp(prefix="modules-")
    for name, text in modules.items():
        path = os.path.normpath(os.path.join(folder, name))
        if not path.startswith(folder + os.sep):
            raise ValueError(f"the module {name!r:.80} is outside of its folder")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    sys.path.insert(0, folder)


def told(exc: BaseException) -> bytes:
    """An exception as clients know it: its text, and its traceback from the user's code on."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") == __name__:
        trace = trace.tb_next
    try:
        shown = "".join(traceback.format_exception(type(exc), exc, trace))
        message = str(exc)
    except BaseException as broken:  # an exception class of the user's whose own methods raise
        shown = message = f"<unprintable: {type(broken).__name__}>"
    return f"{message[:MOST_TEXT]}\n{shown[-MOST_TEXT:]}".encode(errors="replace")
