"""
The order: one task as it goes over the channel, narrowed to what the inside has to know.

Like the wall plan it is plain values that `marshal` carries, and a class without dataclasses.
"""

import marshal


class Order:
    """What a runner is told to do, once."""

    argv: tuple[str, ...] | None
    """A program to become; None: run `code`."""
    code: str
    filename: str
    """What the code is called, and the file in the work folder that it is put in."""
    entry: str | None
    """The function of the code to call with the input; None: the code is a script."""
    input: bytes | None
    """JSON for the entry function; what a body of ours is given."""
    want_value: bool
    args: tuple[str, ...]
    env: dict[str, str]
    """All of the environment, not what is added to it."""
    cwd: str
    site: tuple[str, ...]
    files: tuple[tuple[str, bytes, int], ...]
    """Path, content and mode of what is placed in the work folder first."""
    rlimits: tuple[tuple[int, int, int], ...]
    """Resource, soft and hard limit."""
    largest: int
    """Bytes that one value or one display may have."""
    body: str | None
    """One of our own modules that takes the order, and `input` with it, in place of a program."""
    stays: bool
    """Whether this is no program, but a sandbox in which many may come and go: see `keeper`."""

    def __init__(self, **values: object) -> None:
        if values.keys() != Order.__annotations__.keys():
            raise TypeError(f"an order has exactly {', '.join(Order.__annotations__)}")
        self.__dict__.update(values)

    def encode(self) -> bytes:
        """This order as bytes that `decode` reads on any supported Python."""
        return marshal.dumps(self.__dict__, 2)

    @classmethod
    def decode(cls, data: bytes) -> "Order":
        """The order the host wrote; never call this on what came from a guest."""
        return cls(**marshal.loads(data))
