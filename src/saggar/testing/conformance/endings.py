"""How a program ends, and what is said of it."""

from saggar.errors import InvalidTask
from saggar.model.program import Command
from saggar.model.result import Status
from saggar.platform import Platform
from saggar.testing.conformance.driving import run


async def check_exit_codes_are_kept(platform: Platform, driver: str) -> None:
    """By exit and past it, from nothing to the largest."""
    for code in (0, 1, 42, 255):
        for program in (f"raise SystemExit({code})", f"import os; os._exit({code})"):
            result = await run(platform, driver, program)

            assert code == result.exit_code, program
            assert (Status.OK if code == 0 else Status.ERROR) is result.status, program
            assert (result.limit, result.signal) == (None, None), program


async def check_every_way_to_exit(platform: Platform, driver: str) -> None:
    """What the interpreter makes of what `sys.exit` is given."""
    for given, code, said in (
        ("", 0, ""),
        ("None", 0, ""),
        ("True", 1, ""),
        ("256", 0, ""),
        ("-1", 255, ""),
        ("'farewell'", 1, "farewell\n"),
        ("[1, 2]", 1, "[1, 2]\n"),
    ):
        result = await run(platform, driver, f"import sys; sys.exit({given})")

        assert (code, said) == (result.exit_code, result.stderr), given


async def check_exit_handlers_and_threads_run_to_their_end(platform: Platform, driver: str) -> None:
    """In the interpreter's order: the program, its threads, its exit handlers."""
    code = """
import atexit, threading, time
atexit.register(print, "handler")
threading.Thread(target=lambda: (time.sleep(0.05), print("thread"))).start()
print("program")
"""
    result = await run(platform, driver, code)

    assert result.stdout == "program\nthread\nhandler\n"


async def check_a_signal_is_named(platform: Platform, driver: str) -> None:
    """Ended by a signal that nobody of ours sent."""
    for name in ("SIGTERM", "SIGKILL", "SIGSEGV", "SIGABRT"):
        code = f"import os, signal; os.kill(os.getpid(), signal.{name})"
        result = await run(platform, driver, code)

        assert (Status.KILLED, name, None) == (result.status, result.signal, result.limit)


async def check_an_exception_is_told_as_its_author_would_see_it(
    platform: Platform, driver: str
) -> None:
    """Type, message and traceback, with the program's own lines and none of ours."""
    code = "def inner():\n    return 1 / 0\n\n\ndef outer():\n    inner()\n\n\nouter()\n"
    result = await run(platform, driver, code)

    assert (result.status, result.exit_code) == (Status.ERROR, 1)
    assert result.error is not None
    assert (result.error.type, result.error.message) == ("ZeroDivisionError", "division by zero")
    for text in (result.stderr, result.error.traceback):
        assert "line 2, in inner" in text
        assert "return 1 / 0" in text
        assert text.count("  File ") == 3, text
        assert "/saggar/" not in text


async def check_a_syntax_error_is_the_programs_own(platform: Platform, driver: str) -> None:
    """It is told with its line, and nothing ran."""
    result = await run(platform, driver, "print('before')\nif True print('x')\n")

    assert (result.status, result.stdout_bytes) == (Status.ERROR, b"")
    assert result.error is not None
    assert result.error.type == "SyntaxError"
    assert "line 2" in result.stderr


async def check_endless_recursion_is_an_error(platform: Platform, driver: str) -> None:
    """Python's own limit, told in a traceback of a length one can read."""
    result = await run(platform, driver, "def f(): f()\nf()")

    assert Status.ERROR is result.status
    assert result.error is not None
    assert result.error.type == "RecursionError"
    assert len(result.stderr_bytes) < 100_000


async def check_code_that_is_no_text_is_refused(platform: Platform, driver: str) -> None:
    """Before anything is started, or by the interpreter; never by a fault of ours."""
    for code in (b"print('\xff')", "print(1)\0", "\ud800"):
        try:
            result = await run(platform, driver, code)
        except InvalidTask:
            continue
        assert Status.ERROR is result.status, code


async def check_long_code_runs(platform: Platform, driver: str) -> None:
    """Ten megabytes of it, in long lines and in short ones."""
    code = f"x = '{'y' * 9_000_000}'\n" + "z = 1\n" * 170_000 + "print(len(x))"
    result = await run(platform, driver, code)

    assert result.stdout == "9000000\n"


async def check_a_command_runs(platform: Platform, driver: str) -> None:
    """Programs of the system, with their exit codes."""
    result = await run(platform, driver, Command(argv=("sh", "-c", "echo $((6 * 7)); exit 3")))

    assert (result.stdout, result.exit_code, result.status) == ("42\n", 3, Status.ERROR)


async def check_a_command_that_does_not_exist_is_an_error(platform: Platform, driver: str) -> None:
    """The guest's failure, not ours: a result with the shell's code for it."""
    result = await run(platform, driver, Command(argv=("no-such-program-anywhere", "--x")))

    assert (result.status, result.exit_code) == (Status.ERROR, 127)
