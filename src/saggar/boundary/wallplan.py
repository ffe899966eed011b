"""
The wall plan: a policy, compiled by the host to what the inside only has to execute.

Plain values that `marshal` can carry. No dataclass and no typing here: those two imports would cost
a fork server more than building its walls does.
"""

import marshal

from saggar.boundary.parts import Parts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

INNER_UID = 1000
"""The user id that guest code sees, whatever the host uses for it."""


class Entry(Parts):
    """One thing in the read-only root: what stands at `target`."""

    __slots__ = ()
    kind: str
    """
    `bind`, `share` (the same, writable), `over` (the same, with what stood there seen through it),
    `device` (a node of the host's /dev), `link`, `file`, or `hide` (an empty directory over it).
    """
    target: str
    source: str
    """The host's path; of a link, what it says; of a file, its content."""

    def __new__(cls, kind: str, target: str, source: str = "") -> "Self":
        """What is hidden has no source."""
        return super().__new__(cls, kind, target, source)


class Landlock(Parts):
    """The rights Landlock takes away, and those that are given back."""

    __slots__ = ()
    fs: int
    net: int
    scoped: int
    rules: "list[tuple[str, int]]"
    """Path and rights."""
    size: int
    """How many bytes of the ruleset's description this kernel knows."""
    flags: int
    """For restricting."""


class WallPlan:
    """Everything a fork server and its children need to know about their walls."""

    rung: str
    """`jail`, or `landlock` where the kernel refuses namespaces."""
    argv: tuple[str, ...]
    """The fork server's interpreter as it is called inside, with its options."""
    entries: tuple[Entry, ...]
    staging: str
    """
    The host's directory over which the root is put together; on the landlock rung, the one in which
    each child gets a folder of its own.
    """
    uid: int
    gid: int
    """The first host ids behind the walls."""
    uids: int
    """How many of them: 1 for an ordinary user, who has no more than his own."""
    assemble_outside: bool
    """Put the root together before the user namespace: root may read what the mapped id may not."""
    network: str
    """`none`, `loopback` or `host`."""
    outer_filter: bytes
    inner_filter: bytes
    landlock: Landlock | None
    disk: int
    inodes: int
    """The writable space a child is parked with; made what its task asks for at the claim."""
    rlimits: tuple[tuple[int, int, int], ...]
    """Resource limits that are the same for all children: resource, soft, hard."""
    entrances: int
    """How many cgroups a child enters, through descriptors that come with the request for it."""
    environment: tuple[tuple[str, str], ...]
    preload: tuple[str, ...]
    """Modules the fork server imports for all its children."""
    site: tuple[str, ...]
    """Directories inside in which they are found."""
    names_threads: bool
    """Whether /proc may be written to as far as its files let one: CUDA names its threads there."""

    def __init__(self, **values: object) -> None:
        if values.keys() != WallPlan.__annotations__.keys():
            raise TypeError(f"a wall plan has exactly {', '.join(WallPlan.__annotations__)}")
        self.__dict__.update(values)

    def encode(self) -> bytes:
        """This plan as bytes that `decode` reads on any supported Python."""
        plain = dict(self.__dict__)
        plain["entries"] = [tuple(entry) for entry in self.entries]
        plain["landlock"] = self.landlock and tuple(self.landlock)
        return marshal.dumps(plain, 2)

    @classmethod
    def decode(cls, data: bytes) -> "WallPlan":
        """The plan the host wrote; never call this on what came from a guest."""
        plain = marshal.loads(data)
        plain["entries"] = tuple(Entry(*entry) for entry in plain["entries"])
        plain["landlock"] = plain["landlock"] and Landlock(*plain["landlock"])
        return cls(**plain)
