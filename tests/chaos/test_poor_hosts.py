"""A host without room, processes or descriptors: we say so, and go on when there is some again."""

import os
import shutil
import sys

import pytest
from tests.chaos.family import Family
from tests.chaos.hosts import hear, host

TRY = """
import importlib, pkgutil
for module in pkgutil.walk_packages(saggar.__path__, "saggar."):
    if not module.name.startswith(("saggar.guest", "saggar.testing", "saggar.__main__")):
        importlib.import_module(module.name)  # what is not loaded yet needs a descriptor, too

def attempt(name):
    try:
        said = saggar.run("print('well')").stdout.strip()
    except saggar.PlatformError as refusal:
        said = "PlatformError" if str(refusal) else "silence"
    say(f"{name} {said}")
"""
DISK = (
    TRY
    + """
import tempfile
folder = tempfile.gettempdir()
def fill():
    fd = os.open(folder + "/fill", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(fd, bytes(4096))
    except OSError:
        return
BEFORE_THAT
fill()
attempt("full")
os.unlink(folder + "/fill")
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
def test_a_full_disk_is_told_and_the_next_run_works(family: Family, tmp_path, before: str):
    """The host's temporary folder is a file system of 64 KiB."""
    small = tmp_path / "small"
    small.mkdir()
    shell = f'mount -t tmpfs -o size=64k,nr_inodes=64 tmpfs {small} && exec "$@"'
    unshare = shutil.which("unshare") or pytest.skip("unshare is not there")
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexec {unshare} -m sh -c '{shell}' sh {sys.executable} \"$@\"\n")
    python.chmod(0o755)
    environment = {**os.environ, "TMPDIR": str(small)}
    with host((str(python), {"env": environment}), DISK.replace("BEFORE_THAT", before)) as process:
        told = story(process)

    assert told["full"] in ("well", "PlatformError")
    assert "well" == told["again"]
    assert [] == family.left()


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
