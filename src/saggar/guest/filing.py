"""
What is done with files in a live sandbox, by a process of its own: with the rights of whoever lives
there, and on his time. Content goes over stdin and stdout, the answer over the channel.
"""

import json
import os
import stat
import sys

CHANNEL = 3
MOST = 100_000
KINDS = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "folder"), (stat.S_ISLNK, "link"))

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Head = dict[str, Any]


def main(head: "Head") -> None:
    """Do the one thing, say how it went, and end."""
    answer: Head
    try:
        answer = {"done": ACTIONS[head["action"]](head)}
    except Exception as exc:  # the edge: what cannot be done is said
        number = getattr(exc, "errno", None) or 0
        answer = {"errno": number, "message": getattr(exc, "strerror", None) or str(exc)}
    data = memoryview(json.dumps(answer).encode("utf-8", "surrogateescape"))
    try:
        while data:
            data = data[os.write(CHANNEL, data) :]
    except OSError:
        pass  # the host does not wait for it any more
    os._exit(0)


def read(head: "Head") -> None:
    """Its bytes to stdout; never one that makes us wait, or has no end."""
    fd = os.open(head["path"], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise OSError(22, "not a regular file")
    while chunk := os.read(fd, 1 << 18):
        out(chunk)


def out(data: bytes) -> None:
    """All of it to the host."""
    left = memoryview(data)
    while left:
        left = left[os.write(1, left) :]


def write(head: "Head") -> None:
    """What comes over stdin, into a new file or over an old one."""
    folder = os.path.dirname(head["path"])
    if folder:
        os.makedirs(folder, 0o755, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK
    os.umask(0)
    fd = os.open(head["path"], flags, head["mode"])
    while chunk := os.read(0, 1 << 18):
        left = memoryview(chunk)
        while left:
            left = left[os.write(fd, left) :]
    os.close(fd)


def describe(path: str, name: str) -> "list[object]":
    """What there is to say of one entry."""
    found = os.lstat(path)
    kind = next((word for test, word in KINDS if test(found.st_mode)), "other")
    return [name, kind, found.st_size, stat.S_IMODE(found.st_mode), found.st_mtime]


def list_(head: "Head") -> "list[list[object]]":
    """The entries of a folder, by name."""
    found = []
    for name in sorted(os.listdir(head["path"]))[:MOST]:
        try:
            found.append(describe(os.path.join(head["path"], name), name))
        except FileNotFoundError:
            pass  # gone since
    return found


def stat_(head: "Head") -> "list[object]":
    """One entry."""
    return describe(head["path"], head["path"])


def move(head: "Head") -> None:
    """Another name for it; what stands there goes, as `mv` has it."""
    import shutil

    try:
        os.replace(head["path"], head["target"])
    except OSError as exc:
        if exc.errno != 18:  # EXDEV: between /work and /tmp, say
            raise
        shutil.move(head["path"], head["target"])


def remove(head: "Head") -> None:
    """A file, an empty folder, or a whole tree where that was said."""
    import shutil

    path = head["path"]
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
    elif head["recursive"]:
        shutil.rmtree(path)
    else:
        os.rmdir(path)


def make(head: "Head") -> None:
    """A folder, and those above it."""
    os.umask(0o022)
    os.makedirs(head["path"], 0o755, exist_ok=True)


def pack(head: "Head") -> None:
    """A tree to stdout, as a tar."""
    import tarfile

    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        if not stat.S_ISDIR(os.stat(head["path"]).st_mode):
            raise OSError(20, "not a folder")
        tar.add(head["path"], arcname=".")
    sys.stdout.flush()


def unpack(head: "Head") -> None:
    """A tree from stdin; the host made it, but nothing in it leads out of the folder either way."""
    import tarfile

    safe: Head = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    os.umask(0o022)
    os.makedirs(head["path"], 0o755, exist_ok=True)
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
        for member in tar:
            if member.isdir() or member.isreg():
                tar.extract(member, head["path"], set_attrs=True, numeric_owner=True, **safe)


ACTIONS = {
    "read": read,
    "write": write,
    "list": list_,
    "stat": stat_,
    "move": move,
    "remove": remove,
    "make": make,
    "pack": pack,
    "unpack": unpack,
}
