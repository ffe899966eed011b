"""Attacks on the kernel itself: calls that a program in a box has no business with."""

import ctypes
import mmap
import os
import signal
import subprocess
import sys
import threading

from saggar.testing.attacks.attack import attack
from saggar.testing.attacks.checks import held
from saggar.testing.attacks.inside import (
    REFUSALS,
    apart,
    denied,
    escaped,
    numbered,
    syscall,
    tries,
)

X86 = frozenset({"x86_64"})
NEW = {
    "time": 0x80,
    "mount": 0x20000,
    "cgroup": 0x2000000,
    "uts": 0x4000000,
    "ipc": 0x8000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}


@attack(held)
def mount_file_systems() -> None:
    """Mount, remount, move and unmount, by the old calls and by the new ones."""
    here, tmpfs = b"/tmp", b"tmpfs"
    denied("mount", tmpfs, here, tmpfs, 0, None)
    denied("mount", b"/", here, None, 4096, None)
    denied("mount", None, b"/", None, 32 | 4096, None)
    denied("mount", b"proc", here, b"proc", 0, None)
    denied("umount2", b"/proc", 2)
    denied("umount2", b"/tmp", 2)
    denied("fsopen", tmpfs, 0)
    denied("fsmount", -1, 0, 0)
    denied("fsconfig", -1, 0, None, None, 0)
    denied("fspick", -100, b"/tmp", 0)
    denied("open_tree", -100, b"/", 1)
    denied("move_mount", -1, b"", -100, here, 4)
    denied("mount_setattr", -100, b"/", 0, None, 0)


@attack(held)
def change_the_root() -> None:
    """Break out the classical way: a new root, and up from there."""
    denied("pivot_root", b".", b".")
    denied("chroot", b".")


@attack(held)
def make_namespaces() -> None:
    """Become mighty in a namespace of its own, by every call that makes one."""
    for flag in NEW.values():
        denied("unshare", flag)
    for flag in [*NEW.values()][1:]:  # clone(2) has other uses for the bit of time
        denied("clone", flag | signal.SIGCHLD, 0, 0, 0, 0)
    arguments = (ctypes.c_uint64 * 11)(NEW["user"], 0, 0, 0, signal.SIGCHLD)
    denied("clone3", ctypes.byref(arguments), ctypes.sizeof(arguments))


@attack(held)
def join_namespaces() -> None:
    """Enter namespaces: its own, pid 1's, by file and by pidfd."""
    for kind in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
        for who in ("self", "1"):
            try:
                fd = os.open(f"/proc/{who}/ns/{kind}", os.O_RDONLY)
            except OSError:
                fd = -1
            denied("setns", fd, 0)
    try:
        fd = os.pidfd_open(os.getpid())
    except OSError:
        fd = -1
    denied("setns", fd, NEW["mount"])


@attack(held)
def load_code_into_the_kernel() -> None:
    """Modules, programs for the kernel's machine, another kernel."""
    attribute = ctypes.create_string_buffer(128)
    denied("bpf", 5, ctypes.byref(attribute), 128)
    denied("bpf", 0, ctypes.byref(attribute), 128)
    denied("init_module", None, 0, b"")
    denied("finit_module", -1, b"", 0)
    denied("delete_module", b"saggar_no_such_module", 0)
    denied("kexec_load", 0, 0, None, 0)
    denied("kexec_file_load", -1, -1, 0, b"", 0)


@attack(held)
def use_the_rings() -> None:
    """io_uring, which does what filters never see."""
    parameters = ctypes.create_string_buffer(120)
    denied("io_uring_setup", 4, ctypes.byref(parameters))
    denied("io_uring_enter", -1, 0, 0, 0, None, 0)
    denied("io_uring_register", -1, 0, None, 0)


@attack(held)
def watch_the_kernel() -> None:
    """Performance counters, faults in user space, file notices, the log."""
    attribute = ctypes.create_string_buffer(128)
    denied("perf_event_open", ctypes.byref(attribute), 0, -1, -1, 0)
    denied("userfaultfd", 0)
    denied("userfaultfd", 1)
    denied("fanotify_init", 0, 0)
    denied("syslog", 3, ctypes.byref(attribute), 128)
    denied("lookup_dcookie", 0, ctypes.byref(attribute), 128)


@attack(held)
def use_keyrings() -> None:
    """Keep keys, find those of others."""
    denied("add_key", b"user", b"saggar", b"x", 1, -2)
    denied("request_key", b"user", b"saggar", None, -2)
    denied("keyctl", 0, -3, 1)
    denied("keyctl", 1, None)


@attack(held)
def command_the_machine() -> None:
    """Reboot, swap, accounting, quotas, hanging up. With arguments that would do nothing."""
    denied("reboot", 0, 0, 0, None)
    denied("swapon", b"/nonexistent", 0)
    denied("swapoff", b"/nonexistent")
    denied("acct", b"/nonexistent")
    denied("quotactl", 0x80000700, b"/nonexistent", 0, None)
    denied("quotactl_fd", -1, 0x80000700, 0, None)
    denied("vhangup")


@attack(held)
def set_the_clock() -> None:
    """Change the time, to what it is: nothing would be hurt."""
    import time

    now = (ctypes.c_long * 2)(int(time.time()), 0)
    denied("settimeofday", ctypes.byref(now), None)
    denied("clock_settime", 0, ctypes.byref(now))
    change = (ctypes.c_long * 26)(0x8000)
    denied("adjtimex", ctypes.byref(change))
    denied("clock_adjtime", 0, ctypes.byref(change))


@attack(held)
def rename_the_machine() -> None:
    """Set host and domain names."""
    name = os.uname().nodename.encode()
    denied("sethostname", name, len(name))
    denied("setdomainname", name, len(name))


@attack(held)
def touch_hardware() -> None:
    """Ports, segment tables, memory placement of others."""
    for name in ("iopl", "ioperm", "modify_ldt"):
        denied(name, 3, 0, 0)
    denied("move_pages", 0, 0, None, None, None, 0)
    denied("migrate_pages", 1, 0, None, None)


@attack(held)
def change_personality() -> None:
    """Switch off address randomisation, switch on what old systems allowed."""
    for flags in (0x0040000, 0x0400000, 0x0100000, 8):
        denied("personality", flags)


@attack(held)
def open_by_handle() -> None:
    """Open the host's root by the number of its inode, as a famous escape from containers did."""
    handle = (ctypes.c_uint32 * 4)(8, 1, 2, 0)
    for fd in (os.open("/", os.O_PATH), os.open(sys.executable, os.O_RDONLY), -100):
        denied("open_by_handle_at", fd, ctypes.byref(handle), 0)


@attack(held)
def call_what_is_not_known_yet() -> None:
    """Numbers above every list: what a later kernel brings must be closed by default."""
    for number in (500, 512, 547, 600, 1023, 4096):
        tries.append(str(number))
        try:
            numbered(number, 0, 0, 0, 0, 0, 0)
        except OSError as error:
            if error.errno in REFUSALS:
                continue
            escaped(f"call {number} reached the kernel: {error}")
        else:
            escaped(f"call {number} answered")


def machine_code(code: bytes) -> int:
    """Run these instructions as a function without arguments; what it returns."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    got = int(function())
    if got < 0:
        raise OSError(-got, os.strerror(-got))
    return got


def foreign(what: str, code: bytes) -> None:
    """Make a call in another machine's way: it must die of it, or be told there is no such call."""
    tries.append(what)
    if apart(lambda: machine_code(code)) == 0:
        escaped(f"{what} reached the kernel")


@attack(held, machines=X86)
def call_as_a_32_bit_program() -> None:
    """Call by interrupt 0x80, where numbers mean other calls: getpid, then unshare."""
    foreign("getpid", b"\xb8\x14\x00\x00\x00\xcd\x80\x48\x98\xc3")
    unshare_user = b"\xbb\x00\x00\x00\x10\xb8\x36\x01\x00\x00\xcd\x80\x48\x98\xc3"
    foreign("unshare", b"\x53" + unshare_user[:-1] + b"\x5b\xc3")


@attack(held, machines=X86)
def call_as_an_x32_program() -> None:
    """Call with the x32 bit set, which filters that compare numbers do not expect."""
    foreign("getpid", b"\xb8\x27\x00\x00\x40\x0f\x05\xc3")
    foreign("unshare", b"\xbf\x00\x00\x00\x10\xb8\x10\x01\x00\x40\x0f\x05\xc3")


@attack(held, machines=X86)
def hide_bits_above_the_number() -> None:
    """Call with rubbish in the upper half of the number, which the kernel ignores."""
    foreign("unshare", b"\xbf\x00\x00\x00\x10\x48\xb8\x10\x01\x00\x00\x01\x00\x00\x00\x0f\x05\xc3")


@attack(held)
def shed_the_filter_in_a_child() -> None:
    """Try again after a fork, in a thread, and after exec: walls must be inherited."""
    tries.append("inherit")
    if apart(lambda: syscall("personality", 0x40000)) == 0:
        escaped("a forked child may change its personality")
    thread = threading.Thread(target=denied, args=("personality", 0x40000))
    thread.start()
    thread.join()
    code = "import ctypes; raise SystemExit(ctypes.CDLL(None).personality(0x40000) < 0)"
    if subprocess.run([sys.executable, "-I", "-S", "-c", code], check=False).returncode == 0:
        escaped("an exec'd program may change its personality")
