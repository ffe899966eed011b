"""A host without room, processes or descriptors: we say so, and go on when there is some again."""

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.family import Family
from tests.chaos.hosts import hear, host
from tests.conftest import missing

TRY = """
OPTIONS = {}
import contextlib, importlib, pkgutil
for module in pkgutil.walk_packages(saggar.__path__, "saggar."):
    if not module.name.startswith(("saggar.guest", "saggar.testing", "saggar.__main__")):
        with contextlib.suppress(ModuleNotFoundError):  # of an extra that this one lacks
            importlib.import_module(module.name)  # what is not loaded yet needs a descriptor, too

def attempt(name):
    try:
        result = saggar.run("print('well')", **OPTIONS)
        said = result.stdout.strip() or f"{result.status}/{result.limit}"
    except saggar.PlatformError as refusal:
        said = "PlatformError" if str(refusal) else "silence"
    say(f"{name} {said}")
"""
DISK = (
    TRY
    + """
import tempfile
folder = os.environ["TMPDIR"]
small = os.statvfs(folder)
# Whoever cannot use it would be given another one, and fill that.
assert folder == tempfile.gettempdir() and small.f_blocks * small.f_frsize <= 1 << 16
def fill():
    try:
        with open(folder + "/fill", "wb", 0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        return
def fill_names():
    try:
        for number in range(9999):
            os.close(os.open(f"{folder}/fill{number}", os.O_WRONLY | os.O_CREAT))
    except OSError:
        return
BEFORE_THAT
fill()
fill_names()
attempt("full")
for name in os.listdir(folder):
    if name.startswith("fill"):
        os.unlink(f"{folder}/{name}")
attempt("again")
"""
)
PIDS = (
    TRY
    + """
import resource
BEFORE_THAT
hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
attempt("full")
resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
attempt("again")
"""
)
GROUP = (
    TRY
    + """
import glob
def processes():
    # Below it are the groups of the sandboxes.
    lines = []
    for path in glob.glob(GROUP + "/**/tasks", recursive=True) + glob.glob(
        GROUP + "/**/cgroup.threads", recursive=True
    ):
        with open(path) as file:
            lines += file.read().split()
    return len(lines)
def allow(number):
    with open(GROUP + "/pids.max", "w") as file:
        file.write(str(number))
with open(GROUP + "/cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
BEFORE_THAT
allow(processes() + SPARE)
attempt("full")
allow("max")
attempt("again")
"""
)
DESCRIPTORS = (
    TRY
    + """
import resource
BEFORE_THAT
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + SPARE, hard))
attempt("full")
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
attempt("again")
"""
)
BEFORE = pytest.mark.parametrize("before", ["", "attempt('first')"], ids=["cold", "warm"])


def story(process) -> dict[str, str]:
    heard = b""
    while more := hear(process):
        heard += more
    return dict(line.split() for line in heard.decode().splitlines())


@BEFORE
@pytest.mark.root
@pytest.mark.needs("unshare")
def test_a_full_disk_is_told_and_the_next_run_works(family: Family, tmp_path, before: str):
    """Neither blocks nor names are left in the host's temporary folder."""
    code = DISK.replace("BEFORE_THAT", before)
    with host(on_a_small_disk(tmp_path, [sys.executable]), code) as process:
        told = story(process)

    assert told["full"] in ("well", "PlatformError")
    assert "well" == told["again"]
    assert [] == family.left()


STATE = """
from saggar.config import Settings
from saggar import platform
platform.Platform.__init__.__defaults__ = (Settings(runtime_dir=os.environ["TMPDIR"] + "/state"),)
os.mkdir(os.environ["TMPDIR"] + "/state", 0o700)
"""


@BEFORE
@pytest.mark.root
@pytest.mark.needs("unshare")
def test_a_full_state_directory_is_told_and_the_next_run_works(
    family: Family, tmp_path, before: str
):
    """Neither blocks nor names are left where leases of user ids are kept."""
    code = DISK.replace("BEFORE_THAT", STATE + before)
    with host(on_a_small_disk(tmp_path, [sys.executable]), code) as process:
        told = story(process)

    assert told["full"] in ("well", "PlatformError")
    assert "well" == told["again"]
    assert [] == family.left()


@BEFORE
@pytest.mark.root
@pytest.mark.needs("unshare", "setpriv")
def test_a_full_disk_is_told_where_work_folders_lie_on_it(
    family: Family, ordinary_user, before: str
):
    """Without namespaces a run works in a folder of the host's: the program itself has no room."""
    uid, gid = (str(ordinary_user.options[name]) for name in ("user", "group"))
    argv = ["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups"]
    argv += [str(ordinary_user.python), "-c", CORNERED]
    code = DISK.replace("BEFORE_THAT", LANDLOCK + before)
    with host(on_a_small_disk(ordinary_user.home, argv), code) as process:
        told = story(process)

    assert told["full"] in ("well", "PlatformError", "error/disk")
    assert "well" == told["again"]
    assert [] == family.left()


LANDLOCK = """
from saggar.model.limits import LIMIT_NAMES
OPTIONS["policy"] = saggar.Policy(isolation="landlock", best_effort=LIMIT_NAMES)
"""
CORNERED = (Path(__file__).parent.parent / "escape" / "cornered.py").read_text()


def on_a_small_disk(folder: Path, argv: list[str]) -> tuple[str, dict[str, Any]]:
    """How `argv` is started with a temporary folder of 64 KiB and 64 names, for `host`."""
    small = folder / "small"
    small.mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o size=64k,nr_inodes=64,mode=1777 tmpfs {small}"
    start = folder / "python"
    command = shlex.join(["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", *argv])
    start.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    start.chmod(0o755)
    return str(start), {"env": {**os.environ, "TMPDIR": str(small)}, "cwd": "/"}


@BEFORE
def test_no_processes_left_is_told_and_the_next_run_works(
    family: Family, ordinary_user, before: str
):
    """An ordinary user who may start nothing more. Root is not counted."""
    with host(
        (str(ordinary_user.python), ordinary_user.options), PIDS.replace("BEFORE_THAT", before)
    ) as one:
        told = story(one)

    assert told["full"] in ("well", "PlatformError")
    assert "well" == told["again"]
    assert [] == family.left()


@pytest.fixture
def group() -> Iterator[str]:
    """A control group of our own that counts processes."""
    place = Path(pids_folder()) / f"saggar-test-{os.getpid()}"
    try:
        place.mkdir()
    except OSError as error:
        missing(f"no control group can be made: {error}")
    try:
        if not (place / "pids.max").exists():
            missing("processes are not counted in control groups here")
        yield str(place)
    finally:
        for folder, _, _ in os.walk(place, topdown=False):
            os.rmdir(folder)


def pids_folder() -> str:
    """The folder of our own group where processes are counted, in either hierarchy."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = {
        name: path
        for line in lines
        for _, names, path in [line.split(":", 2)]
        for name in names.split(",")
    }
    return f"/sys/fs/cgroup/pids{own['pids']}" if "pids" in own else f"/sys/fs/cgroup{own['']}"


@BEFORE
@pytest.mark.parametrize("spare", [0, 1, 2, 3, 5])
@pytest.mark.root
def test_a_full_control_group_is_told_and_the_next_run_works(
    family: Family, group: str, before: str, spare: int
):
    """The host may start so many processes more and no others, at whichever step they give out."""
    code = GROUP.replace("GROUP", repr(group)).replace("SPARE", str(spare))
    with host((sys.executable, {}), code.replace("BEFORE_THAT", before)) as process:
        told = story(process)
        process.wait()

    assert told["full"] in ("well", "PlatformError")
    assert "well" == told["again"]
    assert [] == family.left()


@BEFORE
@pytest.mark.parametrize("spare", [0, 2, 5, 12, 20])
def test_no_descriptors_left_is_told_and_the_next_run_works(
    family: Family, before: str, spare: int
):
    """At whichever step of a run they give out."""
    with host(
        (sys.executable, {}),
        DESCRIPTORS.replace("BEFORE_THAT", before).replace("SPARE", str(spare)),
    ) as process:
        told = story(process)

    assert told["full"] in ("well", "PlatformError")
    assert "well" == told["again"]
    assert [] == family.left()
