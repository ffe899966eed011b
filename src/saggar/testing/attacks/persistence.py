"""Attacks on the next run: whatever one leaves behind must not be there for another."""

import ctypes
import json
import os
import random
import socket
import sys
import uuid
from typing import Any

from saggar.model.policy import Network, Rung
from saggar.model.result import Result
from saggar.testing.attacks.attack import Facts, attack
from saggar.testing.attacks.checks import every, held
from saggar.testing.attacks.endings import leave_a_daemon
from saggar.testing.attacks.inside import attempt, escaped, libc, pids, scene, syscall, tries, watch

PLACES = ("/tmp", "/work", "/dev/shm", "/var/tmp", "/run", "/dev/mqueue", "/home", "/mnt", "/opt")


def leave_files() -> None:
    """Write wherever that is possible."""
    for place in (*PLACES, os.path.expanduser("~"), os.getcwd(), *sys.path):
        for name in (scene["token"], f".{scene['token']}", f"{scene['token']}.py"):
            try:
                with open(os.path.join(place, name), "w") as file:
                    file.write("left")
            except OSError as error:
                print("refused", place, error)
    tries.append("write")


@attack(held, first=leave_files)
def find_files_of_another_run() -> None:
    """Look for files of an earlier run in every place that can be written."""
    tries.append("look")
    for place in (*PLACES, os.path.expanduser("~"), os.getcwd()):
        for folder, _, names in os.walk(place):
            if any(scene["token"] in name for name in names):
                escaped(f"files of another run in {folder}")


def leave_start_up_files() -> None:
    """Write what Python and shells read when they start."""
    home = os.path.expanduser("~")
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    marked = f"import os; os.environ['SAGGAR_LEFT'] = {scene['token']!r}\n"
    for path in (
        f"{home}/.local/lib/{version}/site-packages/usercustomize.py",
        f"{home}/.local/lib/{version}/site-packages/left.pth",
        f"{home}/.bashrc",
        f"{home}/sitecustomize.py",
        "/tmp/sitecustomize.py",
        f"{sys.prefix}/lib/{version}/site-packages/left.pth",
        f"{os.path.dirname(os.__file__)}/sitecustomize.py",
    ):
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(marked)
        except OSError as error:
            print("refused", path, error)
    tries.append("write")


@attack(held, first=leave_start_up_files)
def start_up_differently() -> None:
    """Look whether an earlier run changed how interpreters start."""
    tries.append("look")
    if "SAGGAR_LEFT" in os.environ or "sitecustomize" in sys.modules:
        escaped("start-up files of another run were read")


def leave_changed_modules() -> None:
    """Change the interpreter itself: modules, builtins, environment, limits, signal handlers."""
    import builtins
    import signal

    builtins.left = scene["token"]  # type: ignore[attr-defined]
    json.left = scene["token"]  # type: ignore[attr-defined]
    sys.modules["left"] = json
    os.environ["SAGGAR_LEFT"] = scene["token"]
    sys.path.insert(0, "/tmp/left")
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.umask(0)
    random.seed(1)
    tries.append("change")


@attack(held, first=leave_changed_modules)
def find_changed_modules() -> None:
    """Look for what an earlier run changed in the interpreter."""
    import builtins
    import signal

    tries.append("look")
    if hasattr(builtins, "left") or hasattr(json, "left") or "left" in sys.modules:
        escaped("modules of another run")
    if "SAGGAR_LEFT" in os.environ or "/tmp/left" in sys.path:
        escaped("environment of another run")
    if signal.getsignal(signal.SIGUSR1) != signal.SIG_DFL or os.umask(0o022) != 0o022:
        escaped("signal handlers or umask of another run")


def leave_kernel_objects() -> None:
    """System V segments, semaphores and queues, POSIX queues, keys, names of sockets."""
    for make in (libc.shmget, libc.semget):
        make(scene["key"], 8, 0o1666)
    libc.msgget(scene["key"], 0o1666)
    libc.mq_open(f"/{scene['token']}".encode(), 0o102, 0o666, None)
    for name in ("add_key",):
        try:
            syscall(name, b"user", scene["token"].encode(), b"left", 4, -4)
        except OSError as error:
            print("refused", error)
    tries.append("make")


@attack(held, first=leave_kernel_objects)
def find_kernel_objects() -> None:
    """Look for kernel objects of an earlier run by their names."""
    attempt("shared memory", found, libc.shmget(scene["key"], 0, 0))
    attempt("semaphores", found, libc.semget(scene["key"], 0, 0))
    attempt("messages", found, libc.msgget(scene["key"], 0))
    attempt("queue", found, libc.mq_open(f"/{scene['token']}".encode(), os.O_RDONLY))
    attempt("key", syscall, "request_key", b"user", scene["token"].encode(), None, -4)


def found(number: int) -> int:
    """The number of a kernel object, or an error where there is none."""
    if number < 0:
        raise OSError(ctypes.get_errno(), "none")
    return number


@attack(held, first=leave_a_daemon, network=Network.LOOPBACK, needs=frozenset({"processes"}))
def find_processes_of_another_run() -> None:
    """Look for a daemon that an earlier run left behind."""
    tries.append("look")
    for who in pids():
        try:
            with open(f"/proc/{who}/comm") as file:
                name = file.read().strip()
        except OSError:
            continue
        if name == scene["token"] and who != os.getppid():
            escaped(f"process {who} of another run")


def listen_and_leave() -> None:
    """A daemon that keeps listening after its run."""
    one = socket.socket(socket.AF_INET)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("127.0.0.1", 47012))
    one.listen(8)
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(f"\0{scene['token']}-left")
    unix.listen(8)
    tries.append("listen")
    if os.fork() == 0:
        os.setsid()
        watch("wait", one.accept)


@attack(
    held,
    first=listen_and_leave,
    network=Network.LOOPBACK,
    stopped_from=Rung.JAIL,
    needs=frozenset({"processes"}),
)
def find_sockets_of_another_run() -> None:
    """Connect to where an earlier run listened, in networks that are used again."""
    for family, address in (
        (socket.AF_INET, ("127.0.0.1", 47012)),
        (socket.AF_UNIX, f"\0{scene['token']}-left"),
    ):
        with socket.socket(family) as one:
            one.settimeout(0.2)
            attempt(f"{address}", one.connect, address)


def draw() -> None:
    """Say what this run's dice say."""
    tries.append("draw")
    import secrets
    import tempfile

    drawn = [random.random(), uuid.uuid4().hex, secrets.token_hex(8), os.urandom(8).hex()]
    print("DRAWN", json.dumps([*drawn, os.path.basename(tempfile.mktemp())]))


def drawn_afresh(result: Result[Any], facts: Facts) -> str | None:
    """Two runs of one fork server drew different numbers."""
    both = [run.stdout.partition("DRAWN ")[2].splitlines()[0] for run in (result, *facts.earlier)]
    same = set(json.loads(both[0])) & set(json.loads(both[1]))
    return f"two runs drew the same numbers: {same}" if same else None


@attack(every(held, drawn_afresh), first=draw)
def guess_the_next_number() -> None:
    """Draw random numbers in two runs: neither may tell the other's."""
    draw()


def reconfigure() -> None:
    """Write every setting of the namespaces it stands in that lets itself be written."""
    tries.append("settings")
    for top in ("/proc/sys/net", "/proc/sys/kernel", "/proc/sys/fs/mqueue", "/proc/sys/user"):
        for folder, _, names in os.walk(top):
            for name in names:
                path = f"{folder}/{name}"
                try:
                    with open(path, "r+") as file:
                        file.write(file.read())
                except (OSError, ValueError):
                    continue
                escaped(f"{path} can be written")


@attack(held, first=reconfigure, network=Network.LOOPBACK)
def find_settings_of_another_run() -> None:
    """Look whether settings that a run can write are there for the next one."""
    reconfigure()


def look_for_ports() -> None:
    """Say so if there are sockets before the first one was made."""
    tries.append("look")
    with open("/proc/net/tcp") as table:
        found = table.readlines()[1:]
    if found:
        escaped(f"{len(found)} sockets are there before the first one: {found[0]}")


def use_up_the_ports() -> None:
    """Listen on as many ports as can be, and leave connections that the kernel remembers."""
    look_for_ports()
    kept = []
    try:
        for _ in range(100):
            one = socket.socket(socket.AF_INET)
            one.bind(("127.0.0.1", 0))
            one.listen(1)
            kept.append(one)
    except OSError as error:
        print("no more", error)
    listener = socket.socket(socket.AF_INET)
    listener.bind(("127.0.0.1", 47013))
    listener.listen(64)
    for _ in range(300):
        with socket.create_connection(("127.0.0.1", 47013)) as one:
            listener.accept()[0].close()  # whoever closes first is remembered
            one.recv(1)
    with open("/proc/net/tcp") as table:
        print("left", len(table.readlines()) - 1)
    tries.append("ports")


@attack(
    held,
    first=use_up_the_ports,
    network=Network.LOOPBACK,
    stopped_from=Rung.JAIL,
    limits={"open_files": 256},
)
def find_the_ports_of_another_run() -> None:
    """Bind where an earlier run was bound; look for what the kernel remembers of it."""
    look_for_ports()
    one = socket.socket(socket.AF_INET)
    try:
        one.bind(("127.0.0.1", 47013))
        one.listen(1)
    except OSError as error:
        escaped(f"a port is still taken: {error}")


def leave_descriptors_under_way() -> None:
    """Sockets that only messages hold, which hold each other: no process has them any more."""
    tries.append("send")
    try:
        for number in range(8):
            kept = [socket.socket(socket.AF_UNIX), *socket.socketpair()]
            kept[0].bind(f"\0{scene['token']}-{number}")
            kept[0].listen(8)
            all_of_them = [1, *(one.fileno() for one in kept)]
            for one in kept[1:]:
                for _ in range(3):
                    socket.send_fds(one, [b"x"], all_of_them)
    except OSError as error:
        print("refused", error)


@attack(held, first=leave_descriptors_under_way, stopped_from=Rung.JAIL)
def find_descriptors_under_way() -> None:
    """Look for names of sockets that an earlier run sent to itself before it ended."""
    tries.append("look")
    with open("/proc/net/unix") as table:
        if scene["token"] in table.read():
            escaped("sockets of another run")
    for number in range(8):
        with socket.socket(socket.AF_UNIX) as one:
            attempt(f"name {number}", one.connect, f"\0{scene['token']}-{number}")
