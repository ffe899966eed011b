"""Methods that their class marks for the beginning or the end of an instance, inside."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal


def marker(when: "Literal['enter', 'exit']") -> "Callable[[Any], Any]":
    """The decorator that marks them."""

    def mark(method: "Any") -> "Any":
        method.__saggar_hook__ = when
        return method

    return mark


def marked(kind: type, when: "Literal['enter', 'exit']") -> "list[str]":
    """Their names, those of base classes first."""
    named: dict[str, None] = {}
    for each in reversed(kind.__mro__):
        for name, member in vars(each).items():
            if getattr(member, "__saggar_hook__", None) == when:
                named.setdefault(name)
    return list(named)
