"""
The read-only root: put together from the plan's entries, then made the only one there is.

Its own file because it runs at two moments: as host root before the user namespace is entered
(whose mapped id may not be able to read a prefix under a 0700 home), and inside it for an ordinary
user.
"""

import _socket
import os

from saggar.boundary import syscalls as sys_
from saggar.boundary.wallplan import Entry, WallPlan

POINTS = ("proc", "dev", "dev/shm", "tmp", "work", "mnt", "var", "var/empty", "run")
"""Directories of the root that something is mounted on, now or per child."""

LINKS = {
    "dev/fd": "/proc/self/fd",
    "dev/stdin": "/proc/self/fd/0",
    "dev/stdout": "/proc/self/fd/1",
    "dev/stderr": "/proc/self/fd/2",
}
AT_FDCWD = -100
SHARED = sys_.MOUNT_ATTR_NOSUID | sys_.MOUNT_ATTR_NODEV
SEALED = sys_.MOUNT_ATTR_RDONLY | sys_.MOUNT_ATTR_NOSUID | sys_.MOUNT_ATTR_NODEV

ATTRIBUTES = {
    "bind": SEALED,
    "share": SHARED,
    "device": sys_.MOUNT_ATTR_NOSUID | sys_.MOUNT_ATTR_NOEXEC,
}


def assemble(plan: WallPlan) -> None:
    """Build the tree over the staging directory, in a mount namespace of our own."""
    # Private first: nothing mounted from here on may reach the host.
    sys_.mount("none", "/", "", sys_.MS_REC | sys_.MS_PRIVATE)
    # Relative to the staging directory: entries are the host's paths, ours must not hide them. What
    # is below it all the same is opened before it is hidden.
    below = [entry for entry in plan.entries if entry.source.startswith(f"{plan.staging}/")]
    held = {entry.target: opened(entry.source) for entry in below if entry.kind == "bind"}
    flags = sys_.MS_NOSUID | sys_.MS_NODEV
    sys_.mount("saggar-root", plan.staging, "tmpfs", flags, "mode=0755,size=4m,nr_inodes=4096")
    old_umask = os.umask(0o022)
    for point in POINTS:
        os.makedirs(f"{plan.staging}/{point}", exist_ok=True)
    for name, target in LINKS.items():
        os.symlink(target, f"{plan.staging}/{name}")
    for entry in plan.entries:
        place(entry, plan.staging, held.pop(entry.target, -1))
    os.umask(old_umask)


def opened(source: str) -> int:
    """A descriptor of a host path, through no link: who may write beside it could change one."""
    return sys_.openat2(AT_FDCWD, source.encode(), os.O_PATH, sys_.RESOLVE_NO_SYMLINKS)


def place(entry: Entry, staging: str, held: int = -1) -> None:
    """Put one entry where it belongs; `held` is its source where that cannot be seen any more."""
    target = staging + entry.target
    if entry.kind == "hide":
        hide(staging, target)
        return
    if entry.kind == "over":
        lay_over(entry, target)
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if entry.kind == "link":
        os.symlink(entry.source, target)
    elif entry.kind == "file":
        with open(target, "w", encoding="utf-8") as file:
            file.write(entry.source)
    else:
        bind(entry, target, held)


def bind(entry: Entry, target: str, held: int = -1) -> None:
    """A host path with all that is mounted below it, as much of it usable as its kind says."""
    fd = opened(entry.source) if held < 0 else held
    try:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            os.makedirs(target, exist_ok=True)
        elif not os.path.exists(target):
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        sys_.mount(f"/proc/self/fd/{fd}", target, "", sys_.MS_BIND | sys_.MS_REC)
    finally:
        os.close(fd)
    sys_.mount_setattr(target, ATTRIBUTES[entry.kind])


def lay_over(entry: Entry, target: str) -> None:
    """A host path over what stands at the target: of what both have, the upper one is seen."""
    upper = sys_.openat2(AT_FDCWD, entry.source.encode(), os.O_PATH, sys_.RESOLVE_NO_SYMLINKS)
    lower = os.open(target, os.O_PATH | os.O_CLOEXEC)
    try:
        # By descriptor here too, and because a path may hold what separates options.
        folders = f"lowerdir=/proc/self/fd/{upper}:/proc/self/fd/{lower}"
        sys_.mount("saggar-over", target, "overlay", sys_.MS_NOSUID | sys_.MS_NODEV, folders)
    except OSError:
        return  # a kernel that has none, or not for us: what is below goes on as it was
    finally:
        os.close(upper)
        os.close(lower)
    sys_.mount_setattr(target, SEALED)


def hide(staging: str, target: str) -> None:
    """An empty directory over one that a bind brought along; nothing to do where there is none."""
    if os.path.isdir(target):
        sys_.mount(f"{staging}/var/empty", target, "", sys_.MS_BIND)
        sys_.mount_setattr(target, SEALED, 0)


def enter(plan: WallPlan) -> None:
    """As pid 1 of the new namespaces: a /proc of our own, then the root becomes the root."""
    # Not masked: a masked /proc here would make every inner proc mount fail.
    flags = sys_.MS_NOSUID | sys_.MS_NODEV | sys_.MS_NOEXEC
    sys_.mount("proc", f"{plan.staging}/proc", "proc", flags)
    # Bound onto itself: mounts made before the user namespace are locked, pivot_root refuses those.
    sys_.mount(plan.staging, plan.staging, "", sys_.MS_BIND | sys_.MS_REC)
    os.chdir(plan.staging)
    sys_.pivot_root(".", ".")
    sys_.unmount(".")
    os.chdir("/")
    sys_.mount_setattr("/", sys_.MOUNT_ATTR_RDONLY, 0)
    _socket.sethostname("saggar")
