"""
The outer init: builds the outer walls, starts the fork server behind them, and stands guard.

It stays outside, as the host's own child: it dies with the host (a pidfd tells, whatever forked
siblings keep open), and the fork server, pid 1 of its namespace, takes everything with it.
"""

import _socket
import os
import select
import struct

from saggar.boundary import control as ctl
from saggar.boundary import syscalls as sys_
from saggar.boundary.wallplan import WallPlan
from saggar.guest import root

INSIDE = (
    sys_.CLONE_NEWNS
    | sys_.CLONE_NEWPID
    | sys_.CLONE_NEWIPC
    | sys_.CLONE_NEWUTS
    | sys_.CLONE_NEWCGROUP
)
KEPT = (
    (1 << sys_.CAP_SYS_ADMIN)
    | (1 << sys_.CAP_SETUID)
    | (1 << sys_.CAP_SETGID)
    | (1 << sys_.CAP_SETPCAP)
    | (1 << sys_.CAP_SYS_RESOURCE)
    | (1 << sys_.CAP_SYS_CHROOT)
    | (1 << sys_.CAP_CHOWN)
)


class Descriptors:
    """What the host passed on, as numbers on the command line; and our own end, to be watched."""

    def __init__(self, words: list[str]) -> None:
        self.control, self.supervisor, self.bundle = map(int, words)
        self.plan = -1
        # Held only to be held: the lease of our user ids lasts as long as its last descriptor.
        self.held: list[int] = []
        self.guard = os.pidfd_open(os.getpid())

    def await_plan(self) -> WallPlan:
        """What to build; the host may have known, when it started us, only that it would."""
        control = _socket.socket(fileno=os.dup(self.control))
        _, ancillary, _, _ = control.recvmsg(16, 64)
        if not ancillary:
            os._exit(0)  # the host had nothing to build after all, or is gone
        packed = ancillary[0][2]
        self.plan, *self.held = struct.unpack(f"{len(packed) // 4}i", packed)
        return WallPlan.decode(os.pread(self.plan, 1 << 24, 0))

    def pass_on(self) -> list[str]:
        """What the fork server needs of them, to survive an exec, as words for its command line."""
        passed = (self.control, self.supervisor, self.guard, self.plan, self.bundle, *self.held)
        for fd in passed:
            os.set_inheritable(fd, True)
        return [str(fd) for fd in passed]


def main(words: list[str]) -> None:
    """Build, start, guard. What went wrong goes to the host as one record."""
    fds = Descriptors(words)
    try:
        server = start(fds.await_plan(), fds)
    except Exception as exc:  # the edge: whatever failed here is the host's to report
        complain(fds.control, exc)
        os._exit(1)
    os.close(fds.control)
    guard(server, fds.supervisor)


def start(plan: WallPlan, fds: Descriptors) -> int:
    """The fork server's pid, behind whatever outer walls its rung has."""
    if plan.rung == "landlock":
        return fork_server_without_namespaces(plan, fds)
    sys_.prctl(sys_.PR_SET_CHILD_SUBREAPER, 1)  # the go-between ends; the server becomes ours
    if plan.assemble_outside:
        sys_.unshare(sys_.CLONE_NEWNS)
        root.assemble(plan)
    return go_between(plan, fds)


def go_between(plan: WallPlan, fds: Descriptors) -> int:
    """Fork the process that enters the user namespace and forks the server; give it its ids."""
    entered, mapped, answer = os.pipe(), os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(answer[0])
            server = enter(plan, fds, entered[1], mapped[0])
            os.write(answer[1], str(server).encode())
            os._exit(0)
        except BaseException as exc:  # never unwind into the parent's stack
            complain(fds.control, exc)
            os._exit(1)
    for end in (entered[1], mapped[0], answer[1]):
        os.close(end)
    if os.read(entered[0], 1) == b"":
        os._exit(1)  # the child has complained
    write_maps(child, plan)
    os.write(mapped[1], b"m")
    told = os.read(answer[0], 32)
    os.waitpid(child, 0)
    for end in (entered[0], mapped[1], answer[0]):
        os.close(end)
    if not told:
        os._exit(1)
    return int(told)


def write_maps(pid: int, plan: WallPlan) -> None:
    """Inner ids 0..uids-1 are the leased block; an ordinary user has only his own to give."""
    if plan.uids == 1:
        write(f"/proc/{pid}/setgroups", "deny")
    write(f"/proc/{pid}/uid_map", f"0 {plan.uid} {plan.uids}")
    write(f"/proc/{pid}/gid_map", f"0 {plan.gid} {plan.uids}")


def write(path: str, text: str) -> None:
    """Write one of the kernel's files."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def enter(plan: WallPlan, fds: Descriptors, entered: int, mapped: int) -> int:
    """In the child: into the user namespace, then, owned by it, into all the others."""
    sys_.unshare(sys_.CLONE_NEWUSER)
    os.write(entered, b"e")
    if os.read(mapped, 1) != b"m":
        os._exit(1)
    if plan.uids > 1:
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    sys_.unshare(INSIDE | (0 if plan.network == "host" else sys_.CLONE_NEWNET))
    if not plan.assemble_outside:
        root.assemble(plan)
    server = os.fork()
    if server == 0:
        root.enter(plan)
        become_server(plan, fds)
    return server


def become_server(plan: WallPlan, fds: Descriptors) -> None:
    """
    Exec the fork server, with the few capabilities that building inner walls takes.

    The exec comes after the user namespace is entered: only then does this memory belong to it, and
    the host's user may measure a process that is not dumpable.
    """
    keep = KEPT
    if plan.network == "loopback":
        keep |= 1 << sys_.CAP_NET_ADMIN
    if plan.uids == 1:
        keep |= 1 << sys_.CAP_SETFCAP  # or the kernel lets nobody map our only id, 0, any further
    sys_.drop_bounding(keep)
    sys_.set_capabilities(keep)
    sys_.prctl(sys_.PR_SET_NO_NEW_PRIVS, 1)
    words = ["saggar.guest.forkserver", str(fds.bundle), *fds.pass_on()]
    os.execve(plan.argv[0], [*plan.argv, *words], dict(plan.environment))


def fork_server_without_namespaces(plan: WallPlan, fds: Descriptors) -> int:
    """The landlock rung: nothing to enter, so the server is only another process."""
    server = os.fork()
    if server == 0:
        try:
            sys_.prctl(sys_.PR_SET_CHILD_SUBREAPER, 1)
            sys_.prctl(sys_.PR_SET_NO_NEW_PRIVS, 1)
            words = ["saggar.guest.forkserver", str(fds.bundle), *fds.pass_on()]
            os.execve(plan.argv[0], [*plan.argv, *words], dict(plan.environment))
        except BaseException as exc:  # never unwind into the parent's stack
            complain(fds.control, exc)
            os._exit(1)
    return server


def guard(server: int, supervisor: int) -> None:
    """Wait for the server or for the host to end; the server never outlives the host."""
    watched = select.poll()
    ended = os.pidfd_open(server)
    watched.register(ended, select.POLLIN)
    watched.register(supervisor, select.POLLIN)
    ready = [fd for fd, _ in watched.poll()]
    if ended not in ready:
        os.kill(server, 9)
    _, status = os.waitpid(server, 0)
    os._exit(0 if status == 0 else 1)


def complain(control: int, exc: BaseException) -> None:
    """Say why to the host; when even that fails the host sees the end of the socket."""
    os.write(control, ctl.pack(ctl.FAILED, 0, text=ctl.reason(exc)))
