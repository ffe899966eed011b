"""What a program finds around it."""

import json
import os

from saggar.model.policy import Rung
from saggar.platform import Platform
from saggar.testing.conformance.driving import capabilities, output


async def check_arguments_arrive_as_they_are(platform: Platform, driver: str) -> None:
    """Spaces, quotes, newlines, options, nothing at all."""
    args = ["", " a  b ", "'\"`$HOME", "a\nb", "--help", "-", "é漢", "x" * 10_000]
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"

    assert args == json.loads(await output(platform, driver, code, args=args))


async def check_the_environment_is_the_tasks(platform: Platform, driver: str) -> None:
    """What the task says is there; what the host's process has is not."""
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    os.environ["SAGGAR_CONFORMANCE"] = "the host's"
    try:
        found = json.loads(
            await output(platform, driver, code, env={"A": "b c=d", "E": "", "L": "x" * 100_000})
        )
    finally:
        del os.environ["SAGGAR_CONFORMANCE"]

    assert (found["A"], found["E"], len(found["L"])) == ("b c=d", "", 100_000)
    assert "SAGGAR_CONFORMANCE" not in found
    assert {"HOME", "USER", "PATH", "LANG", "TZ"} <= found.keys()


async def check_the_environment_can_be_overruled(platform: Platform, driver: str) -> None:
    """A task may have a home and a language of its own."""
    code = "import os; print(os.environ['HOME'], os.environ['LANG'])"
    env = {"HOME": "/elsewhere", "LANG": "C"}

    assert await output(platform, driver, code, env=env) == "/elsewhere C\n"


async def check_home_is_a_place_to_write(platform: Platform, driver: str) -> None:
    """The working folder, the home and the temporary folder: writable, empty, umask 022."""
    code = """
import os, stat, tempfile
for place in (".", os.path.expanduser("~"), tempfile.gettempdir()):
    path = os.path.join(place, "probe")
    with open(path, "w") as file:
        file.write("x")
    print(oct(stat.S_IMODE(os.stat(path).st_mode)))
    os.remove(path)
print(os.path.samefile(".", os.path.expanduser("~")))
"""

    assert await output(platform, driver, code) == "0o644\n0o644\n0o644\nTrue\n"


async def check_text_is_utf_8(platform: Platform, driver: str) -> None:
    """For files, names and streams alike."""
    code = """
import locale, sys
print(sys.stdout.encoding, sys.getfilesystemencoding(), locale.getpreferredencoding())
"""

    words = (await output(platform, driver, code)).lower().replace("-", "").split()

    assert words == ["utf8"] * 3


async def check_the_program_is_main(platform: Platform, driver: str) -> None:
    """Its name, its file, and modules that lie beside it."""
    code = "import beside, os; print(__name__, os.path.basename(__file__), beside.value)"
    files = {"beside.py": "value = 7"}

    assert await output(platform, driver, code, files=files) == "__main__ main.py 7\n"


async def check_the_standard_library_works(platform: Platform, driver: str) -> None:
    """Threads, subprocesses, pools, databases, temporary files, sockets between processes."""
    code = """
import multiprocessing, sqlite3, subprocess, sys, tempfile, threading
from concurrent.futures import ThreadPoolExecutor

def square(n):
    return n * n

with ThreadPoolExecutor(2) as pool:
    print(list(pool.map(square, range(3))))
print(subprocess.run([sys.executable, "-c", "print('sub')"], capture_output=True).stdout)
print(sqlite3.connect(":memory:").execute("select 6 * 7").fetchone())
with tempfile.TemporaryFile() as file:
    print(file.write(b"abc"))
print(multiprocessing.Pipe()[0].writable)
"""
    expected = ["[0, 1, 4]", "b'sub\\n'", "(42,)", "3", "True"]

    assert expected == (await output(platform, driver, code)).splitlines()


async def check_pools_of_processes_work(platform: Platform, driver: str) -> None:
    """Their locks are files in /dev/shm, which Landlock alone cannot give to one run only."""
    if (await capabilities(platform, driver)).rung == Rung.LANDLOCK:
        return
    code = """
import multiprocessing

def square(n):
    return n * n

with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(square, [4, 5]))
"""

    assert await output(platform, driver, code) == "[16, 25]\n"


async def check_the_streams_have_names(platform: Platform, driver: str) -> None:
    """/dev/stdin, /dev/stdout and /dev/stderr can be opened, by Python and by a shell."""
    code = """
import subprocess
print(open("/dev/stdin").read(), flush=True)
open("/dev/stdout", "w").write("by name\\n")
subprocess.run(["sh", "-c", "echo shell > /dev/stdout"])
"""

    assert await output(platform, driver, code, stdin=b"in") == "in\nby name\nshell\n"


async def check_it_is_nobody_in_particular(platform: Platform, driver: str) -> None:
    """Behind a wall: not root, no capabilities, no way to gain any, an unremarkable name."""
    if (await capabilities(platform, driver)).rung == Rung.PROCESS:
        return
    code = """
import ctypes, os
libc = ctypes.CDLL(None)
print(os.getuid() != 0, os.getgid() != 0, 0 in os.getgroups(), libc.prctl(39, 0, 0, 0, 0))
"""

    assert await output(platform, driver, code) == "True True False 1\n"


async def check_randomness_differs_between_runs(platform: Platform, driver: str) -> None:
    """Runs that share an ancestor do not share its dice."""
    code = "import random, uuid; print(random.random(), uuid.uuid4(), random.getrandbits(64))"
    drawn = [await output(platform, driver, code) for _ in range(3)]

    assert len({word for line in drawn for word in line.split()}) == 9
