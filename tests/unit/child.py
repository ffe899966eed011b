"""Work that a test does in a process of its own, because nothing could undo it in this one."""

import os
import pickle
import signal
import warnings
from collections.abc import Callable
from typing import Any

from tests.conftest import missing

from saggar.boundary import syscalls as sys_


def in_child(work: Callable[[], Any]) -> Any:
    """What `work` returns in a forked child; what it raises there is raised here."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        # Of threads that some other test has left; the child uses nothing they could hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _report(work, write)
    os.close(write)
    with open(read, "rb") as pipe:
        told = pipe.read()
    status = os.waitpid(pid, 0)[1]
    if not told:
        raise ChildProcessError(_ended(status))
    returned, raised = pickle.loads(told)
    if raised is not None:
        raise raised
    return returned


def with_own_mounts(work: Callable[[], Any]) -> Any:
    """The same, in a mount namespace of its own in which the child may mount."""
    try:
        in_child(enter_own_mounts)
    except OSError as exc:
        missing(f"cannot have mounts of one's own here: {exc}")

    def inside() -> Any:
        enter_own_mounts()
        return work()

    return in_child(inside)


def enter_own_mounts() -> None:
    """Mounts of our own; for an ordinary user in a user namespace in which he is root."""
    uid, gid = os.geteuid(), os.getegid()
    sys_.unshare(sys_.CLONE_NEWNS | (sys_.CLONE_NEWUSER if uid else 0))
    if uid:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"0 {uid} 1"),
            ("gid_map", f"0 {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    sys_.mount("none", "/", "", sys_.MS_REC | sys_.MS_PRIVATE)


def _report(work: Callable[[], Any], write: int) -> None:
    """In the child, which never returns: nothing of the test's may run twice."""
    try:
        try:
            told: tuple[Any, Any] = work(), None
        except Exception as exc:  # noqa: BLE001 - it is the parent's to judge
            told = None, exc
        os.write(write, pickle.dumps(told))
    finally:
        os._exit(0)


def _ended(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit {os.WEXITSTATUS(status)}"
