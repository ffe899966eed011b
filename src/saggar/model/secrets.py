"""
Secrets: values for a program's environment that are shown nowhere else.

A task names them. Their values are in no value that is sent, digested, stored or listed, and what
holds them here says their names when it is printed.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn

from saggar.errors import InvalidTask

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
LONGEST: Final = 64 << 10
"""Bytes of one: the kernel takes no more than twice that in a variable."""


class Secrets:
    """Values by their names. `reveal()` is the one way to them."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        """InvalidTask for what can be no variable; it says which, and never its value."""
        self._values = dict(values or {})
        for name, value in self._values.items():
            check_name(name)
            _check(name, value)

    def __repr__(self) -> str:
        return f"<secrets: {', '.join(self.names) or 'none'}>"

    def __bool__(self) -> bool:
        return bool(self._values)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot leave this process")

    @property
    def names(self) -> tuple[str, ...]:
        """Which there are."""
        return tuple(sorted(self._values))

    def reveal(self) -> dict[str, str]:
        """The values, for whoever puts them into a sandbox."""
        return dict(self._values)


NO_SECRETS: Final = Secrets()


def parted(said: Any) -> tuple[tuple[str, ...], Secrets]:
    """
    What was said of secrets: all their names, and the values of those that came with one.

    Raises:
        InvalidTask: It is neither names nor values by their names.
    """
    if said is None:
        return (), NO_SECRETS
    if isinstance(said, Mapping):
        said = Secrets(said)
    if isinstance(said, Secrets):
        return said.names, said
    if isinstance(said, str) or not isinstance(said, Iterable):
        raise InvalidTask("secrets: wanted names such as ['HF_TOKEN'], or {'HF_TOKEN': value}")
    names = tuple(dict.fromkeys(said))
    for name in names:
        check_name(name)
    return names, NO_SECRETS


def check_name(name: Any) -> None:
    """InvalidTask unless it can be the name of a secret."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        # What was found may be the value, given where its name should stand.
        raise InvalidTask("secrets: wanted the name of a variable such as 'HF_TOKEN', found none")


def _check(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise InvalidTask(f"secrets: {name} must be text, found {type(value).__name__}")
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidTask(f"secrets: {name} holds characters that have no UTF-8 form") from None
    if "\0" in value or length > LONGEST:
        raise InvalidTask(f"secrets: {name} holds a NUL byte, or more than {LONGEST >> 10} KiB")
