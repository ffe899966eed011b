"""Attacks on what is collected from a run: files that are no files, names that are no names."""

import os
import signal
import socket
import stat
from contextlib import suppress
from typing import Any

from saggar.model.result import Result, Status
from saggar.testing.attacks.attack import Facts, everywhere
from saggar.testing.attacks.checks import every, exits, held
from saggar.testing.attacks.inside import scene, tries, watch

ALL = {"collect": ("**",)}


def got(*paths: str, skipped: tuple[str, ...] = ()) -> Any:
    """These files came back and no others; of these it is said why they did not."""

    def check(result: Result[Any], _: Facts) -> str | None:
        found = {file.path for file in result.files}
        if found != set(paths):
            return f"collected {sorted(found)}, not {sorted(paths)}"
        missing = set(skipped) - {one.path for one in result.files_skipped}
        return f"nothing said of {sorted(missing)}: {result.files_skipped}" if missing else None

    return check


@everywhere(
    every(held, got("honest.txt", skipped=("result.txt", "far.txt", "folder/deep.txt"))),
    task={"collect": ("*.txt", "result.txt", "folder/deep.txt")},
)
def leave_links_to_the_hosts_files() -> None:
    """Symbolic links, of files and of folders, to what lies outside."""
    tries.append("links")
    with open("honest.txt", "w") as file:
        file.write("honest")
    os.symlink(scene["secrets"][0], "result.txt")
    os.symlink("/etc/passwd", "far.txt")
    os.symlink("/etc", "folder")
    os.symlink("/proc/self/environ", "environ.txt")
    os.symlink("/proc/1/root" + scene["secrets"][0], "magic.txt")


@everywhere(every(held, got("a.txt")), task={"collect": ("*.txt", "out/*.txt")})
def swap_a_folder_for_a_link() -> None:
    """A folder of results that becomes a link to a folder of the host's."""
    tries.append("swap")
    os.mkdir("out")
    with open("out/passwd.txt", "w") as file:
        file.write("bait")
    with open("a.txt", "w") as file:
        file.write("a")
    os.rename("out", "gone")
    os.unlink("gone/passwd.txt")
    os.symlink("/etc", "out")


@everywhere(every(held, got("plain")), task=ALL)
def leave_things_that_are_no_files() -> None:
    """Fifos, sockets and devices, on which a reader hangs or worse."""
    tries.append("things")
    os.mkfifo("fifo")
    try:
        socket.socket(socket.AF_UNIX).bind("socket")
    except OSError as error:
        print("refused", error)
    watch("device", os.mknod, "device", stat.S_IFCHR | 0o666, os.makedev(1, 9))
    with open("plain", "w") as file:
        file.write("x")


def strange_names_are_told(result: Result[Any], _: Facts) -> str | None:
    """What came back has a name that a file can have outside, and bad names are mentioned."""
    for file in result.files:
        if os.path.isabs(file.path) or ".." in file.path.split("/") or "\0" in file.path:
            return f"collected a file named {file.path!r}"
    texts = [
        *(one.path for one in result.files_skipped),
        *(one.reason for one in result.files_skipped),
    ]
    if any(not text.isprintable() for text in texts):
        return f"unprintable words about files: {texts!r}"
    return None if result.files_skipped else "not a word about a name that is not UTF-8"


@everywhere(every(held, strange_names_are_told), task=ALL)
def leave_strange_names() -> None:
    """Newlines, escape sequences, names that are not UTF-8, names that look like options."""
    tries.append("names")
    for name in (
        b"a\nb",
        b"\x1b]0;x\x07",
        b"\xff\xfe",
        b"-rf",
        b"...",
        b"a" * 255,
        b" ",
        "é".encode(),
    ):
        with open(name, "w") as file:
            file.write("x")


@everywhere(every(held, got(), exits(Status.OK)), task=ALL)
def leave_a_deep_tree() -> None:
    """A thousand folders inside each other, which recursion does not survive."""
    tries.append("deep")
    for _ in range(900):
        os.mkdir("d")
        os.chdir("d")
    with open("treasure", "w") as file:
        file.write("x")


def capped(result: Result[Any], _: Facts) -> str | None:
    """Not everything came back, and that is said."""
    return None if result.files_skipped else "dropped files without a word"


@everywhere(
    every(held, capped),
    task=ALL,
    limits={"inodes": 10_000, "disk": "48MiB", "memory": "256MiB", "wall": 6},
)
def leave_a_great_many_files() -> None:
    """Three thousand files with long names."""
    tries.append("many")
    for number in range(3000):
        os.close(os.open(f"{'x' * 200}{number}", os.O_CREAT | os.O_WRONLY))


@everywhere(every(held, capped), task=ALL, limits={"file_size": "1TiB"})
def leave_a_sparse_file() -> None:
    """A file that claims half a terabyte and holds nothing."""
    tries.append("sparse")
    with open("sparse", "wb") as file:
        watch("truncate", os.ftruncate, file.fileno(), 1 << 39)
        if os.fstat(file.fileno()).st_size < 1 << 39:
            os.symlink("/", "instead")


@everywhere(held, task=ALL)
def leave_what_cannot_be_read() -> None:
    """Files and folders without any permission."""
    tries.append("locked")
    os.mkdir("closed")
    with open("closed/x", "w") as file:
        file.write("x")
    with open("locked", "w") as file:
        file.write("x")
    watch("file", os.chmod, "locked", 0)
    watch("folder", os.chmod, "closed", 0)
    watch("all", os.chmod, ".", 0)


@everywhere(every(held, got("steady")), task={"collect": ("steady", "busy")})
def keep_writing_while_they_look() -> None:
    """A child that swaps a result for a link, for as long as it lives."""
    tries.append("race")
    with open("steady", "w") as file:
        file.write("x")
    if os.fork() == 0:
        os.setsid()
        signal.alarm(5)
        while True:
            os.symlink(scene["secrets"][0], "next")
            os.rename("next", "busy")


@everywhere(every(held, got()), task=ALL)
def take_the_folder_away() -> None:
    """Remove or rename the folder that results are read from, and put another in its place."""
    tries.append("away")
    here = os.getcwd()
    watch("rename", os.rename, here, f"{here}-gone")
    watch("remove", os.rmdir, here)
    watch("replace", os.symlink, scene["folder"], here)


def linger() -> bool:
    """Fork twice into a session of its own, deaf to signals; whether this is the one that stays."""
    if os.fork():
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGALRM}:
        signal.signal(number, signal.SIG_IGN)
    signal.alarm(8)
    return True


STILL = {"collect": ("steady", "round-*")}


def stood_still(result: Result[Any], _: Facts) -> str | None:
    """The files are of one moment: two rounds may have met in it, and no more."""
    found = {file.path: file.content for file in result.files}
    if len(found) != 41:
        return f"{len(found)} files came back, not 41"
    rounds = {content for name, content in found.items() if name != "steady"}
    return f"files of {len(rounds)} rounds were collected" if len(rounds) > 2 else None


@everywhere(every(held, stood_still), task=STILL, needs=frozenset({"processes"}))
def go_on_writing_while_they_look() -> None:
    """A daemon that rewrites forty results, round after round, and is still there at the end."""
    tries.append("daemon")
    flags = os.O_WRONLY | os.O_CREAT
    results = [os.open(f"round-{number:02}", flags) for number in range(40)]
    os.close(os.open("steady", flags))
    reading, writing = os.pipe()
    if not linger():
        os.read(reading, 1)  # it is at work
        return
    for turn in range(1, 1 << 30):
        for file in results:
            os.pwrite(file, b"%010d" % turn, 0)
        if turn == 1:
            os.write(writing, b"x")


def never_more_than_a_file(result: Result[Any], _: Facts) -> str | None:
    """`steady` came back, and whatever came back besides holds what this attack wrote."""
    found = {file.path: file.content for file in result.files}
    strange = [name for name, content in found.items() if content not in (b"x", b"steady")]
    if found.get("steady") != b"steady" or strange:
        return f"collected {sorted(found)}, of strange content: {strange}"
    return None


@everywhere(every(held, never_more_than_a_file), task={"collect": ("steady", "out*", "out/*")})
def be_everything_at_once() -> None:
    """A result that is a file, a fifo, a link, a folder, a device by turns, to the very end."""
    tries.append("turns")
    with open("steady", "w") as file:
        file.write("steady")
    reading, writing = os.pipe()
    if not linger():
        os.read(reading, 1)  # it is at work
        return
    for turn in range(1 << 30):
        for make in (plain_file, os.mkfifo, link_to_the_host, folder_of_links, device):
            with suppress(OSError):  # a device cannot be made
                make("next")
            with suppress(OSError):  # there is nothing at first, and a full folder stays
                os.rename("out", f"gone-{turn % 8}")
            with suppress(OSError):
                os.rename("next", "out")
        if turn == 0:
            os.write(writing, b"x")


def plain_file(path: str) -> None:
    """A file as it should be."""
    with open(path, "w") as file:
        file.write("x")


def link_to_the_host(path: str) -> None:
    """A link to a secret."""
    os.symlink(scene["secrets"][0], path)


def folder_of_links(path: str) -> None:
    """A folder with nothing but a link to a secret."""
    os.mkdir(path)
    link_to_the_host(f"{path}/link")


def device(path: str) -> None:
    """A device on which reading never ends."""
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
