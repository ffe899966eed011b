"""
What every test may ask for: the marker of its suite, the tools it needs, the user it runs as.

What is missing skips on a developer's machine and fails where CI is set: a wall that was never
tested must not look like one that held.
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SUITES = ("unit", "integration", "conformance", "containers", "escape", "chaos", "bench")
ORDINARY = "saggar-test"


# A shell that starts us in the background has us ignore Ctrl-C, and all that we start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def missing(what: str) -> None:
    """Leave this test: quietly here, as a failure in CI."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"{what}; CI must provide it", pytrace=False)
    pytest.skip(what)


def require(*tools: str) -> None:
    """Every tool is on PATH, or this test is left."""
    absent = [tool for tool in tools if shutil.which(tool) is None]
    if absent:
        missing(f"not on PATH: {', '.join(absent)}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for suite in SUITES:
            if item.path.is_relative_to(ROOT / "tests" / suite):
                item.add_marker(suite)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        require(*marker.args)
    if item.get_closest_marker("root") and os.geteuid() != 0:
        missing("needs uid 0")
    if item.get_closest_marker("gpu"):
        from saggar.drivers import gpu

        if reason := gpu.lacking(gpu.look(), 1):
            pytest.skip(f"no GPU can be passed: {reason}")


@pytest.fixture
def needs() -> Callable[..., None]:
    """`needs("bwrap")` inside a test, for a tool that only some of its cases use."""
    return require


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True)
class OrdinaryUser:
    """Somebody without privileges, with a Python they can read and Saggar installed in it."""

    name: str
    home: Path
    python: Path
    options: dict[str, Any]
    """What `subprocess` needs to start something as this user."""

    def run(self, *argv: str | Path, timeout: float = 50) -> subprocess.CompletedProcess[str]:
        """A program run to its end as this user, in an environment of its own."""
        return subprocess.run(
            argv, **self.options, timeout=timeout, capture_output=True, text=True, check=False
        )


def readable_interpreter(options: dict[str, Any]) -> str:
    """A Python new enough that this user can start: root's own is often under a 0700 home."""
    names = ["python3", *(f"python3.{minor}" for minor in range(11, 15))]
    folders = [*os.get_exec_path(), "/usr/bin", "/usr/local/bin"]
    found = [os.path.join(folder, name) for name in names for folder in folders]
    probe = ["-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    for path in [os.path.realpath(sys.executable), *filter(os.path.exists, found)]:
        try:
            run = subprocess.run([path, *probe], **options, capture_output=True, check=False)
        except PermissionError:
            continue
        if run.returncode == 0:
            return path
    missing("no Python >= 3.11 that an ordinary user can read")
    raise AssertionError


@pytest.fixture(scope="session")
def ordinary_user() -> Iterator[OrdinaryUser]:
    """
    `ordinary_user.run(ordinary_user.python, "-c", code)`: Saggar as somebody without privileges.

    As root that is the user `saggar-test` (useradd saggar-test) with a virtual environment of
    its own outside root's home; otherwise it is whoever runs the tests.
    """
    if os.geteuid() != 0:
        home = Path.home()
        entry = pwd.getpwuid(os.geteuid())
        yield OrdinaryUser(entry.pw_name, home, Path(sys.executable), {"cwd": home})
        return
    try:
        entry = pwd.getpwnam(ORDINARY)
    except KeyError:
        missing(f"no user {ORDINARY}; useradd {ORDINARY}")
    folder = Path(tempfile.mkdtemp(prefix="saggar-ordinary-"))
    try:
        yield install_for(entry, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def install_for(entry: pwd.struct_passwd, folder: Path) -> OrdinaryUser:
    """A virtual environment under `folder` that this user can read, with Saggar in it."""
    home = folder / "home"
    home.mkdir()
    folder.chmod(0o755)
    os.chown(home, entry.pw_uid, entry.pw_gid)
    options = {
        "user": entry.pw_uid,
        "group": entry.pw_gid,
        "extra_groups": [],
        "umask": 0o022,
        "cwd": home,
        "env": {"HOME": str(home), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
    }
    python = folder / "venv" / "bin" / "python"
    uv = (str(ROOT / "scripts" / "uv"), "--quiet")
    base = readable_interpreter(options)
    subprocess.run([*uv, "venv", "--python", base, str(folder / "venv")], check=True, umask=0o022)
    subprocess.run(
        [*uv, "pip", "install", "--link-mode=copy", "--python", str(python), str(ROOT)],
        check=True,
        umask=0o022,
    )
    return OrdinaryUser(entry.pw_name, home, python, options)
