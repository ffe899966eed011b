"""
The walls of the landlock rung: what is left to take away where the kernel refuses namespaces.

No private /proc, no network of its own, no writable space that ends with it; so the filter and
Landlock take more, and every child has a folder, and as root a user id, that nobody else has.
"""

import os

from saggar.boundary import syscalls as sys_
from saggar.boundary.wallplan import WallPlan
from saggar.guest.runner import Ends


def confine(plan: WallPlan, folder: str, uid: int, server: int) -> "tuple[Ends, list[int]]":
    """In the child: walls around `folder`; our ends, and the descriptors for the host."""
    if uid:
        become_another(uid)
    os.stat(os.__file__)  # a library under a private home would fail later, and be a puzzle
    ends = Ends()
    os.setsid()
    bind_to(server)
    os.chdir(folder)  # the rules say "." for it
    work = os.open("work", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if plan.landlock is not None:
        sys_.landlock(*plan.landlock)
    sys_.seccomp(plan.inner_filter)
    os.chdir("work")
    return ends, [*ends.for_host(), work, os.pidfd_open(os.getpid())]


def become_another(uid: int) -> None:
    """A user id of the host's that nobody else has, and no way back."""
    sys_.drop_bounding()
    sys_.prctl(sys_.PR_SET_SECUREBITS, sys_.SECBITS_LOCKED & ~0xC)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    sys_.set_capabilities(0)


def bind_to(server: int) -> None:
    """
    No new privileges, no core, and an end together with the server.

    After the last change of credentials, which clears the signal.
    """
    sys_.prctl(sys_.PR_SET_DUMPABLE, 0)
    sys_.prctl(sys_.PR_SET_NO_NEW_PRIVS, 1)
    sys_.prctl(sys_.PR_SET_PDEATHSIG, 9)
    if os.getppid() != server:
        os._exit(1)
