"""What a program reads and writes."""

import hashlib
import time

from saggar.model.event import Output
from saggar.model.quantity import MiB
from saggar.model.result import Status
from saggar.platform import Platform
from saggar.testing.conformance.driving import output, policy, run


async def check_what_is_printed_comes_back(platform: Platform, driver: str) -> None:
    """One line, whole, and nothing else."""
    result = await run(platform, driver, "print(6 * 7)")

    assert (result.status, result.stdout_bytes, result.stderr_bytes) == (Status.OK, b"42\n", b"")
    assert (result.exit_code, result.limit, result.truncated) == (0, None, False)


async def check_silence_is_empty(platform: Platform, driver: str) -> None:
    """No output at all, from no code at all."""
    for code in ("", "pass", "# nothing\n"):
        result = await run(platform, driver, code)

        assert (result.status, result.stdout_bytes, result.stderr_bytes) == (Status.OK, b"", b"")


async def check_the_streams_are_told_apart(platform: Platform, driver: str) -> None:
    """Standard output and standard error are two things."""
    code = "import sys; print('out'); print('err', file=sys.stderr); print('out again')"
    result = await run(platform, driver, code)

    assert (result.stdout, result.stderr) == ("out\nout again\n", "err\n")


async def check_python_children_and_c_keep_their_order(platform: Platform, driver: str) -> None:
    """Four ways to write to the same stream, in the order in which they happened."""
    code = """
import ctypes, os, subprocess
print("python")
subprocess.run(["sh", "-c", "echo child"])
os.write(1, b"system call\\n")
libc = ctypes.CDLL(None)
libc.puts(b"c")
libc.fflush(None)
print("python again")
"""
    expected = ["python", "child", "system call", "c", "python again"]

    assert expected == (await output(platform, driver, code)).splitlines()


async def check_what_c_holds_back_is_not_lost(platform: Platform, driver: str) -> None:
    """A C library's buffer is flushed at the end, as a process's end would do it."""
    code = "import ctypes; ctypes.CDLL(None).printf(b'held back')"

    assert await output(platform, driver, code) == "held back"


async def check_text_of_every_kind_survives(platform: Platform, driver: str) -> None:
    """Scripts, signs and control characters, in code and in output."""
    text = "naïve 漢字 🏺 \u202e \x1b[1m \t"

    assert f"{text}\n" == await output(platform, driver, f"print({text!r})")
    assert f"{text}\n" == await output(platform, driver, f"print('''{text}''')")


async def check_bytes_that_are_no_text_survive(platform: Platform, driver: str) -> None:
    """All 256 of them, unchanged, and as text they do no harm."""
    code = "import sys; sys.stdout.buffer.write(bytes(range(256)))"
    result = await run(platform, driver, code)

    assert bytes(range(256)) == result.stdout_bytes
    assert "\ufffd" in result.stdout


async def check_output_below_its_limit_is_whole(platform: Platform, driver: str) -> None:
    """Half a megabyte at once, and then an error: all of it was said."""
    code = "import sys; sys.stdout.write('x' * 500_000); raise ValueError('after')"
    result = await run(platform, driver, code, limits={"output": "1MiB"})

    assert (len(result.stdout_bytes), result.truncated) == (500_000, False)
    assert "ValueError: after" in result.stderr


async def check_output_past_its_limit_ends_the_run(platform: Platform, driver: str) -> None:
    """The cap holds for both streams together, and the cut is told."""
    code = "import sys\nwhile True: sys.stdout.write('x' * 9999); sys.stderr.write('y' * 9999)"
    result = await run(platform, driver, code, limits={"output": "100KiB"})

    kept = len(result.stdout_bytes) + len(result.stderr_bytes)

    assert (result.status, result.limit, result.truncated) == (Status.OUTPUT, "output", True)
    assert kept <= 100 * 1024


async def check_a_large_input_arrives_whole(platform: Platform, driver: str) -> None:
    """Eight megabytes on stdin."""
    data = hashlib.sha256(b"seed").digest() * (8 * MiB // 32)
    code = "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"

    expected = hashlib.sha256(data).hexdigest()

    assert expected == (await output(platform, driver, code, stdin=data)).strip()


async def check_the_input_ends(platform: Platform, driver: str) -> None:
    """A program that reads to the end comes to it, with input and without."""
    code = "import sys; print(repr(sys.stdin.read()))"

    assert await output(platform, driver, code) == "''\n"
    assert await output(platform, driver, code, stdin=b"a\nb") == "'a\\nb'\n"


async def check_input_may_be_ignored(platform: Platform, driver: str) -> None:
    """A program that does not read its eight megabytes ends no later for it."""
    start = time.monotonic()

    assert await output(platform, driver, "print('done')", stdin=bytes(8 * MiB)) == "done\n"
    assert time.monotonic() - start < 5


async def check_output_comes_while_the_program_runs(platform: Platform, driver: str) -> None:
    """The first line is there before the program ends, not with its end."""
    code = "import time; print('first', flush=True); time.sleep(0.4); print('last')"
    wanted = await policy(platform, driver)
    heard = [
        (time.monotonic(), event.data)
        async for event in platform.events(code, driver=driver, policy=wanted)
        if isinstance(event, Output)
    ]

    assert [data for _, data in heard] == [b"first\n", b"last\n"]
    assert heard[1][0] - heard[0][0] > 0.3
