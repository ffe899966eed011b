"""
The inner walls of a jail: what a forked child does to itself before it may hold anybody's code.

The order is the substance. Mounts while the outer capabilities last; then a user namespace of its
own, so that it has no power over the namespaces it lives in; then nothing but taking away; in the
end it says that it stands. One script of system calls, laid out before the fork.
"""

import ctypes
import os
import struct

from saggar.boundary import control as ctl
from saggar.boundary import syscalls as sys_
from saggar.boundary.wallplan import INNER_UID, WallPlan
from saggar.guest.script import Result, Script

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
SPACE = ((b"work", b"/work", 0o700), (b"tmp", b"/tmp", 0o1777), (b"shm", b"/dev/shm", 0o1777))
FLAGS = sys_.MS_NOSUID | sys_.MS_NODEV
OPEN = os.O_CLOEXEC
PIPE_BYTES = 1 << 18
SIG_UNBLOCK, SIG_CHLD = 1, 17
AT_FDCWD = -100

CONTROL, PROC, SYS = 3, 4, 5
"""Where the server keeps its socket, and the parts of its own /proc that children write to."""

# A child closes all others first, so every descriptor it opens has the lowest free number.
WORK, SPACE_FD, SCRATCH = 6, 7, 8
CHANNEL_HOST, CHANNEL, STDIN, STDIN_HOST, STDOUT_HOST, STDOUT, STDERR_HOST, STDERR = range(8, 16)
OWN, INIT, RULESET, RULE = range(16, 20)
ENTRANCES = 32
"""Where the server puts the descriptors that lead into a child's cgroups."""


class JailWalls:
    """The script that every child of one fork server runs; between two runs only its id changes."""

    def __init__(self, plan: WallPlan) -> None:
        self._plan = plan
        self._script = Script()
        self._mount_options = ctypes.create_string_buffer(128)
        self._uid_map = ctypes.create_string_buffer(32)
        self._record = ctypes.create_string_buffer(ctl.pack(ctl.PARKED, 0, text="/work"))
        self._take_uid()
        self._mount_space()
        self._mount_proc()
        self._own_user_namespace()
        self._drop_power()
        self._open_ends()
        self._seal()
        self._hand_over()
        self._script.compile()

    def build(self, serial: int, uid: int) -> None:
        """In the child: all of it. From the last call on the host may talk to us."""
        plan = self._plan
        options = f"mode=0755,uid={uid},gid={uid},size={plan.disk},nr_inodes={plan.inodes}"
        self._mount_options.value = options.encode()
        self._uid_map.value = f"{INNER_UID} {uid} 1".ljust(31).encode()
        for call in self._ids:
            for place in range(3):
                self._script.change(call, place, uid)
        struct.pack_into("<i", self._record, 4, serial)
        self._script.run()

    def _take_uid(self) -> None:
        """
        Into its cgroups, then an id of the block; the capabilities stay, as the server has asked.

        Everything below is then made as its owner, the pipes too: or it could not reopen them.
        """
        add = self._script.add
        # By itself, while it has a single thread: the host would have to wait for every core.
        for number in range(self._plan.entrances):
            add("write", ENTRANCES + number, b"0", 1)
        add("unshare", sys_.CLONE_NEWCGROUP)  # only now is its root the group it is in
        add("rt_sigprocmask", SIG_UNBLOCK, struct.pack("Q", 1 << (SIG_CHLD - 1)), 0, 8)
        add("close_range", SYS + 1, 0x7FFFFFFF, 0)
        self._ids = (add("setresgid", 0, 0, 0), add("setresuid", 0, 0, 0))
        # Cleared by the change of ids; without it our own files in /proc would not be ours.
        add("prctl", sys_.PR_SET_DUMPABLE, 1)

    def _mount_space(self) -> None:
        """One tmpfs for all that the guest may write, so that its size is one number."""
        add = self._script.add
        add("mount", b"saggar-space", b"/mnt", b"tmpfs", FLAGS, self._mount_options)
        add("umask", 0)
        for name, target, mode in SPACE:
            add("mkdirat", AT_FDCWD, b"/mnt/" + name, mode)
            add("mount", b"/mnt/" + name, target, b"", sys_.MS_BIND, 0)
        add("umask", 0o022)
        self._open(b"/work", os.O_RDONLY | os.O_DIRECTORY)
        add("fspick", WORK, b"", sys_.FSPICK_CLOEXEC | sys_.FSPICK_EMPTY_PATH)
        add("umount2", b"/mnt", sys_.MNT_DETACH)

    def _mount_proc(self) -> None:
        """A /proc of this pid namespace: read-only, without what tells about the host."""
        flags = FLAGS | sys_.MS_NOEXEC
        if not self._plan.names_threads:
            flags |= sys_.MS_RDONLY
        self._script.add("mount", b"proc", b"/proc", b"proc", flags, 0)
        for name in filter(lambda name: os.path.exists(f"/proc/{name}"), MASKED):
            path = f"/proc/{name}".encode()
            self._script.add("mount", b"/dev/null", path, b"", sys_.MS_BIND, 0)

    def _own_user_namespace(self) -> None:
        """A user namespace with one id in it, owning nothing, that can have no children."""
        self._script.add("unshare", sys_.CLONE_NEWUSER)
        self._script.add("prctl", sys_.PR_SET_DUMPABLE, 1)
        self._write(PROC, b"self/setgroups", b"deny")
        self._write(PROC, b"self/uid_map", self._uid_map)
        self._write(PROC, b"self/gid_map", self._uid_map)
        # Per user namespace, and looked up when it is opened: only from here on is it this one's.
        self._write(SYS, b"user/max_user_namespaces", b"0")

    def _drop_power(self) -> None:
        """No capability now or through an exec, no core, and an end together with the server."""
        add = self._script.add
        add("prctl", sys_.PR_SET_SECUREBITS, sys_.SECBITS_LOCKED)
        add("prctl", sys_.PR_CAP_AMBIENT, sys_.PR_CAP_AMBIENT_CLEAR_ALL)
        with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
            last = int(file.read())
        for capability in range(last + 1):
            add("prctl", sys_.PR_CAPBSET_DROP, capability)
        add("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))
        add("prctl", sys_.PR_SET_DUMPABLE, 0)
        add("prctl", sys_.PR_SET_NO_NEW_PRIVS, 1)
        # After the last change of credentials, which clears it.
        add("prctl", sys_.PR_SET_PDEATHSIG, 9)
        add("chdir", b"/work")

    def _open_ends(self) -> None:
        """The channel, the pipes, and the two processes by which the host knows us."""
        add = self._script.add
        add("socketpair", 1, 1 | OPEN, 0, bytes(8))
        for _ in ("stdin", "stdout", "stderr"):
            add("pipe2", bytes(8), OPEN)
        # More than a user's pipes may have in all is refused; the default size works as well.
        add("fcntl", STDOUT, 1031, PIPE_BYTES, expected=True)
        add("pidfd_open", 2, 0)
        add("pidfd_open", 1, 0)

    def _seal(self) -> None:
        """Landlock, then the system call filter: what is left to do needs nothing they take."""
        add = self._script.add
        if self._plan.landlock is not None:
            taken = self._plan.landlock
            ruleset = struct.pack("3Q", taken.fs, taken.net, taken.scoped)
            add("landlock_create_ruleset", ruleset, taken.size, 0)
            for path, rights in taken.rules:
                if os.path.exists(path):
                    allowed = rights if os.path.isdir(path) else rights & sys_.FILE_RIGHTS
                    self._open(path.encode(), os.O_PATH)
                    add("landlock_add_rule", RULESET, 1, struct.pack("=Qi", allowed, RULE), 0)
                    add("close", RULE)
            add("landlock_restrict_self", RULESET, taken.flags)
        self._filter = ctypes.create_string_buffer(self._plan.inner_filter)
        length = len(self._plan.inner_filter) // 8
        program = struct.pack("HxxxxxxQ", length, ctypes.addressof(self._filter))
        add("seccomp", 1, 0, program)

    def _hand_over(self) -> None:
        """What the host needs, in one message; then 0 to 3 are ours and there are no others."""
        handed = (CHANNEL_HOST, STDIN_HOST, STDOUT_HOST, STDERR_HOST, WORK, OWN, SPACE_FD, INIT)
        size = 16 + 4 * len(handed)
        rights = ctypes.create_string_buffer(struct.pack(f"Qii{len(handed)}i", size, 1, 1, *handed))
        parts = struct.pack("QQ", ctypes.addressof(self._record), len(self._record) - 1)
        vector = ctypes.create_string_buffer(parts)
        where = (ctypes.addressof(vector), 1, ctypes.addressof(rights), size)
        self._kept = (rights, vector)
        self._script.add("sendmsg", CONTROL, struct.pack("QQQQQQQ", 0, 0, *where, 0), 0)
        for number, end in enumerate((STDIN, STDOUT, STDERR)):
            self._script.add("dup3", end, number, 0)
        self._script.add("dup3", CHANNEL, CONTROL, OPEN)
        self._script.add("close_range", CONTROL + 1, 0x7FFFFFFF, 0)

    def _open(self, path: bytes, flags: int, directory: int = AT_FDCWD) -> Result:
        return self._script.add("openat", directory, path, flags | OPEN, 0)

    def _write(self, directory: int, path: bytes, content: object) -> None:
        """Write one of the kernel's files, which take all of it at once."""
        size = len(content) if isinstance(content, bytes) else 31
        self._open(path, os.O_WRONLY, directory)
        self._script.add("write", SCRATCH, content, size)
        self._script.add("close", SCRATCH)
