"""
The inner walls: what a forked child does to itself before it may hold anybody's code.

The order is the substance. Mounts while the outer capabilities last; then a user namespace of its
own, so that it has no power over the namespaces it lives in; then nothing but taking away.
"""

import os

from saggar.boundary import syscalls as sys_
from saggar.boundary.wallplan import INNER_UID, WallPlan

MASKED = (
    "kcore",
    "keys",
    "key-users",
    "kmsg",
    "kallsyms",
    "timer_list",
    "sched_debug",
    "interrupts",
)
SPACE = (("work", "/work", 0o700), ("tmp", "/tmp", 0o1777), ("shm", "/dev/shm", 0o1777))
FLAGS = sys_.MS_NOSUID | sys_.MS_NODEV


class Outside:
    """The server's own /proc, kept by descriptor: the one a child sees is mounted read-only."""

    def __init__(self) -> None:
        self.proc = os.open("/proc", os.O_PATH | os.O_CLOEXEC)
        self.sys = os.open("/proc/sys", os.O_PATH | os.O_CLOEXEC)

    def write(self, directory: int, path: str, text: str) -> None:
        """Write one of the kernel's files below a kept directory."""
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def mount_space(plan: WallPlan, uid: int) -> tuple[int, int]:
    """
    One tmpfs for all that the guest may write, so that its size is one number.

    Returns a descriptor of /work and a context by which the host may change the size.
    """
    options = f"mode=0755,size={plan.disk},nr_inodes={plan.inodes}"
    sys_.mount("saggar-space", "/mnt", "tmpfs", FLAGS, options)
    for name, target, _ in SPACE:
        os.mkdir(f"/mnt/{name}", 0o755)
        sys_.mount(f"/mnt/{name}", target, "", sys_.MS_BIND)
    # Opened while it is still ours: afterwards only its owner may.
    work = os.open("/work", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name, _, mode in SPACE:
        os.chmod(f"/mnt/{name}", mode)
        os.chown(f"/mnt/{name}", uid, uid)
    space = sys_.pick_filesystem(work)
    sys_.unmount("/mnt")
    return work, space


def mount_proc() -> None:
    """A /proc of this pid namespace: read-only, without what tells about the host."""
    sys_.mount("proc", "/proc", "proc", FLAGS | sys_.MS_NOEXEC | sys_.MS_RDONLY)
    for name in MASKED:
        if os.path.exists(f"/proc/{name}"):
            sys_.mount("/dev/null", f"/proc/{name}", "", sys_.MS_BIND)


def take_uid(uid: int) -> None:
    """Become `uid` of the outer namespace; its own files in /proc stay reachable."""
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    sys_.prctl(sys_.PR_SET_DUMPABLE, 1)


def own_user_namespace(outside: Outside, uid: int) -> None:
    """A user namespace with one id in it, owning nothing, that can have no children."""
    sys_.unshare(sys_.CLONE_NEWUSER)
    sys_.prctl(sys_.PR_SET_DUMPABLE, 1)
    outside.write(outside.proc, "self/setgroups", "deny")
    outside.write(outside.proc, "self/uid_map", f"{INNER_UID} {uid} 1")
    outside.write(outside.proc, "self/gid_map", f"{INNER_UID} {uid} 1")
    # Per user namespace, and looked up when it is opened: only from here on is it this one's.
    outside.write(outside.sys, "user/max_user_namespaces", "0")


def drop_power() -> None:
    """No capability now or through an exec."""
    sys_.prctl(sys_.PR_SET_SECUREBITS, sys_.SECBITS_LOCKED_NOROOT)
    sys_.prctl(sys_.PR_CAP_AMBIENT, sys_.PR_CAP_AMBIENT_CLEAR_ALL)
    sys_.drop_bounding()
    sys_.set_capabilities(0)


def bind_to(server: int) -> None:
    """
    No new privileges, no core, and an end together with the server, `server` as we see it.

    After the last change of credentials, which clears the signal.
    """
    sys_.prctl(sys_.PR_SET_DUMPABLE, 0)
    sys_.prctl(sys_.PR_SET_NO_NEW_PRIVS, 1)
    sys_.prctl(sys_.PR_SET_PDEATHSIG, 9)
    if os.getppid() != server:
        os._exit(1)


def become_another(uid: int) -> None:
    """Without namespaces: a user id of the host's that nobody else has, and no way back."""
    sys_.drop_bounding()
    sys_.prctl(sys_.PR_SET_SECUREBITS, sys_.SECBITS_LOCKED_NOROOT)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    sys_.set_capabilities(0)


def seal(plan: WallPlan) -> None:
    """Landlock, then the system call filter: nothing after this needs what they take."""
    if plan.landlock is not None:
        sys_.landlock(*plan.landlock)
    sys_.seccomp(plan.inner_filter)
