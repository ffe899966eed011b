"""What a run may consume, and what is said of one that wanted more."""

import time

from saggar.model.quantity import MiB
from saggar.model.result import Status
from saggar.platform import Platform
from saggar.testing.attacks.scene import Scene
from saggar.testing.conformance.driving import limited, run

NAMED = "import ctypes; ctypes.CDLL(None).prctl(15, b'{}', 0, 0, 0)\n"
"""A name by which a program's processes are found from outside."""
SHORT = {"wall": 0.5, "grace": 0.3}


async def check_time_is_up_when_it_is(platform: Platform, driver: str) -> None:
    """Neither much earlier nor later than was said."""
    start = time.monotonic()
    result = await run(platform, driver, "import time; time.sleep(60)", limits=SHORT)

    assert (result.status, result.limit) == (Status.TIMEOUT, "wall")
    assert 0.45 < result.usage.wall < 2
    assert time.monotonic() - start < 3


async def check_the_end_is_announced(platform: Platform, driver: str) -> None:
    """At the soft deadline there is a KeyboardInterrupt, and time to clean up."""
    code = """
import time
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("cleaned up")
"""
    result = await run(platform, driver, code, limits={"wall": 0.5, "grace": 5})

    assert (result.status, result.stdout) == (Status.TIMEOUT, "cleaned up\n")
    assert result.usage.wall < 2


async def check_the_end_comes_to_those_who_will_not_hear(platform: Platform, driver: str) -> None:
    """At the hard deadline, whatever is ignored."""
    code = """
import signal
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
print("deaf", flush=True)
while True:
    signal.pause()
"""
    result = await run(platform, driver, code, limits=SHORT)

    assert (result.status, result.limit, result.stdout) == (Status.TIMEOUT, "wall", "deaf\n")
    assert 0.75 < result.usage.wall < 3


async def check_children_end_with_their_parent(platform: Platform, driver: str) -> None:
    """At the deadline and at a normal end: no process of a run outlives it."""
    code = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
print("parent", flush=True)
time.sleep({})
"""
    for nap, status in ((0, Status.OK), (60, Status.TIMEOUT)):
        with Scene() as scene:
            program = NAMED.format(scene.token) + code.format(nap)
            result = await run(platform, driver, program, limits=SHORT)

            assert (status, "parent\n") == (result.status, result.stdout)
            assert await scene.survivors() == ()


async def check_the_processor_is_limited(platform: Platform, driver: str) -> None:
    """By what was spent, not by what went by."""
    result = await limited(platform, driver, "cpu", "while True: pass", cpu=0.5, wall=10)

    if result is not None:
        assert (result.status, result.limit) == (Status.TIMEOUT, "cpu")
        assert result.usage.wall < 5


async def check_memory_is_limited(platform: Platform, driver: str) -> None:
    """That of one process."""
    code = "kept = []\nfor _ in range(1000): kept.append(bytearray(b'x') * (1 << 20))"
    result = await limited(platform, driver, "memory", code, memory="64MiB")

    assert result is None or not result.ok
    if result is not None and result.status is not Status.ERROR:
        assert (result.status, result.limit) == (Status.MEMORY, "memory")


async def check_memory_is_limited_for_all_together(platform: Platform, driver: str) -> None:
    """That of ten children, each of which stays below the limit."""
    code = """
import os, time
for _ in range(10):
    if os.fork() == 0:
        kept = bytearray(b"x") * (24 << 20)
        time.sleep(1)
        os._exit(0)
raise SystemExit(any([os.wait()[1] for _ in range(10)]))
"""
    result = await limited(platform, driver, "memory", code, memory="96MiB")

    if result is not None:
        assert (result.status, result.limit) == (Status.MEMORY, "memory")


async def check_processes_are_limited(platform: Platform, driver: str) -> None:
    """The one too many is refused, and the program that asked for it can live with that."""
    code = """
import os, signal
made = 0
for _ in range(200):
    try:
        if os.fork() == 0:
            signal.pause()
    except OSError:
        break
    made += 1
print(made)
"""
    result = await limited(platform, driver, "processes", code, processes=16, wall=10)

    if result is not None:
        assert 10 <= int(result.stdout) <= 16
        assert result.limit in ("processes", None)


async def check_the_disk_is_limited(platform: Platform, driver: str) -> None:
    """In bytes, over all writable folders together."""
    code = """
import tempfile
for place in (".", tempfile.gettempdir()):
    for number in range(8):
        open(f"{place}/{number}", "wb").write(bytes(1 << 20))
"""
    result = await limited(platform, driver, "disk", code, disk="10MiB")

    if result is not None:
        assert (result.status, result.limit) == (Status.ERROR, "disk")


async def check_the_number_of_files_is_limited(platform: Platform, driver: str) -> None:
    """However small they are."""
    code = "for number in range(5000): open(str(number), 'w').close()"
    result = await limited(platform, driver, "inodes", code, inodes=500)

    if result is not None:
        assert (result.status, result.limit) == (Status.ERROR, "disk")


async def check_the_size_of_a_file_is_limited(platform: Platform, driver: str) -> None:
    """That of each."""
    code = "open('large', 'wb').write(bytes(3 << 20))"
    result = await limited(platform, driver, "file_size", code, file_size="2MiB")

    if result is not None:
        assert (result.status, result.limit) == (Status.ERROR, "file_size")


async def check_open_files_are_limited(platform: Platform, driver: str) -> None:
    """The one too many is refused."""
    code = """
kept = []
try:
    while len(kept) < 1000:
        kept.append(open("/dev/null"))
except OSError:
    pass
print(len(kept))
"""
    result = await limited(platform, driver, "open_files", code, open_files=64)

    if result is not None:
        assert 40 <= int(result.stdout) <= 64


async def check_usage_is_what_was_used(platform: Platform, driver: str) -> None:
    """Time, processor and memory within reason; what cannot be measured is not made up."""
    code = """
import time
kept = bytearray(b"x") * (40 << 20)
end = time.process_time() + 0.2
while time.process_time() < end:
    pass
time.sleep(0.2)
"""
    usage = (await run(platform, driver, code)).usage

    assert 0.38 < usage.wall < 5
    assert usage.cpu is None or 0.15 < usage.cpu < 5
    assert usage.memory is None or 35 * MiB < usage.memory < 200 * MiB
