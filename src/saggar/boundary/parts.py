"""
Tuples whose parts have names.

What `collections.namedtuple` is, for interpreters that are waited for: that import alone takes two
milliseconds of the twelve in which they start.
"""

from _operator import itemgetter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    _Tuple = tuple[Any, ...]
else:
    _Tuple = tuple


class Parts(_Tuple):
    """A tuple with a name for each part: a subclass annotates them, in order."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        for number, name in enumerate(cls.__annotations__):
            setattr(cls, name, property(itemgetter(number)))

    def __new__(cls, *parts: object) -> "Self":
        """One part for each name."""
        if len(parts) != len(cls.__annotations__):
            raise TypeError(f"{cls.__name__} has exactly {', '.join(cls.__annotations__)}")
        return tuple.__new__(cls, parts)
