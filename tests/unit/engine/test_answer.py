"""A program's answer, out of its events and into the end of its run."""

import pytest

from saggar.engine.answer import answered
from saggar.model.event import Finished, Output, Started, afold
from saggar.model.result import ErrorInfo, Status

GOOD = b'{"ok":true,"output":[1,2]}\n'
BAD = b'{"ok":false,"error":{"message":"no","code":"EXECUTION","details":"line 1"}}\n'


def said(*data, stream="stdout"):
    return [Output(stream=stream, data=piece) for piece in data]


async def told(*events, status=Status.OK, largest=1 << 20, **end):
    async def all_of_them():
        yield Started(isolation="jail")
        for event in events:
            yield event
        yield Finished(status=status, isolation="jail", **end)

    return await afold(answered(all_of_them(), largest))


async def test_the_output_is_the_value_and_no_output():
    result = await told(*said(GOOD[:5], GOOD[5:]), *said(b"log\n", stream="stderr"))

    assert (Status.OK, [1, 2]) == (result.status, result.value)
    assert ("", "log\n") == (result.stdout, result.stderr)


async def test_an_error_is_the_error_of_the_run():
    result = await told(*said(BAD))

    assert (Status.ERROR, None) == (result.status, result.value)
    assert ErrorInfo(type="EXECUTION", message="no", traceback="line 1") == result.error


@pytest.mark.parametrize(
    ("data", "why"),
    [(b"", "wrote no answer"), (GOOD + GOOD, "there are two answers"), (b"hi", "is not JSON")],
)
async def test_what_is_no_answer_is_an_error_of_the_run(data, why):
    result = await told(*said(data))

    assert Status.ERROR == result.status
    assert result.error is not None
    assert "InvalidAnswer" == result.error.type
    assert why in result.error.message


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ({"exit_code": 3}, "with exit code 3 before it had answered"),
        ({"status": Status.KILLED, "signal": "SIGSEGV"}, "by SIGSEGV before it had answered"),
    ],
)
async def test_an_end_without_an_answer_is_a_crash(end, why):
    result = await told(**{"status": Status.ERROR, **end})

    assert end.get("status", Status.ERROR) == result.status
    assert result.error is not None
    assert ("CRASH", f"the program was ended {why}") == (result.error.type, result.error.message)


async def test_an_answer_of_a_program_that_fails_afterwards_does_not_count():
    result = await told(*said(GOOD), status=Status.ERROR, exit_code=3)

    assert result.value is None
    assert result.error is not None
    assert "after it had answered" in result.error.message


async def test_its_own_error_says_more_than_its_exit_code():
    result = await told(*said(BAD), status=Status.ERROR, exit_code=1)

    assert result.error is not None
    assert "EXECUTION" == result.error.type


@pytest.mark.parametrize("status", [Status.TIMEOUT, Status.MEMORY])
async def test_a_limit_goes_before_an_answer(status):
    result = await told(*said(GOOD), status=status, limit="wall")

    assert (status, None, None) == (result.status, result.value, result.error)


async def test_an_answer_that_is_cut_off_is_too_large():
    result = await told(*said(b"x" * 1000), status=Status.OUTPUT, limit="output")

    assert Status.OUTPUT == result.status
    assert result.error is not None
    assert "OUTPUT_TOO_LARGE" == result.error.type
    assert 700 > len(result.error.message)


async def test_a_large_answer_is_read_beside_the_loop():
    result = await told(*said(b'{"ok":true,"output":"' + b"x" * 200_000 + b'"}'))

    assert 200_000 == len(result.value)


async def test_what_could_not_even_start_keeps_its_own_error():
    found = ErrorInfo(type="FileNotFoundError", message="node: No such file or directory")
    result = await told(status=Status.ERROR, exit_code=127, error=found)

    assert found == result.error
