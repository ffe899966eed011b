"""
Names and paths that a caller gives, judged by syntax alone.

A tree that a guest wrote is never judged here: links and races make syntax a lie there.
"""

import posixpath

_LONGEST_PATH = 4095
_LONGEST_NAME = 255


def relative(name: str) -> str:
    """`name` without "." parts and doubled slashes; ValueError unless it stays inside."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or name.startswith("/") or name.endswith("/") or ".." in parts or "\0" in name:
        raise ValueError(f"must be a relative path that stays inside the sandbox: {_short(name)}")
    _fits(name, parts)
    return "/".join(parts)


def absolute(path: str) -> str:
    """`path` without ".", ".." and doubled slashes; ValueError unless it starts at the root."""
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"must be an absolute path: {_short(path)}")
    _fits(path, path.split("/"))
    # POSIX keeps a double slash at the front as something special; Linux does not.
    return posixpath.normpath("/" + path.lstrip("/"))


def is_inside(path: str, prefix: str) -> bool:
    """Whether `path` is `prefix` or below it, by whole parts. Both must be `absolute`."""
    return path == prefix or path.startswith(prefix.rstrip("/") + "/")


def utf8(text: str) -> str:
    """`text` itself; ValueError if it cannot be written as UTF-8."""
    # Without a look inside: most text is ASCII, and code can be long.
    if not text.isascii():
        _encoded(text)
    return text


def printable(text: str, what: str) -> str:
    """`text` itself; ValueError if it is empty or holds a control character."""
    if not text or not text.isprintable():
        raise ValueError(f"{what} must be printable and not empty: {_short(text)}")
    return text


def without_nul(text: str) -> str:
    """`text` itself; ValueError if the kernel would cut it at a NUL."""
    if "\0" in text:
        raise ValueError(f"holds a NUL byte: {_short(text)}")
    _encoded(text)
    return text


def _fits(path: str, parts: list[str]) -> None:
    if len(_encoded(path)) > _LONGEST_PATH or any(len(p.encode()) > _LONGEST_NAME for p in parts):
        raise ValueError(f"is longer than a file name can be: {_short(path)}")


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds characters that have no UTF-8 form") from None


def _short(text: str) -> str:
    return repr(text) if len(text) <= 60 else repr(text[:57]) + "..."
