"""What a container said is hearsay: how it ended, and what its schema allows, is found out here."""

import json
from typing import Any

import pytest

from saggar.errors import (
    ExecutionFailed,
    ExecutionTimeout,
    InvalidInput,
    InvalidOutput,
    PolicyDenied,
)
from saggar.functions.container import ContainerExecutor
from saggar.model.policy import OUR_IMAGES
from saggar.model.result import Result, Status

IMAGE = "somebody/image:1"


def ended(said: object, status: Status = Status.OK, **more: Any) -> Result[Any]:
    stdout = said if isinstance(said, bytes) else json.dumps(said).encode()
    return Result(status=status, stdout_bytes=stdout, isolation="container", **more)


def refusal(code: str) -> dict[str, Any]:
    return {"ok": False, "error": {"message": "says who?", "code": code, "details": ""}}


@pytest.mark.parametrize("code", ["TIMEOUT", "INPUT_VALIDATION", "OOM", "SOMETHING"])
def test_what_only_we_can_know_is_not_believed(code):
    with pytest.raises(ExecutionFailed, match=f"execution failed: {code}: says who") as told:
        ContainerExecutor(IMAGE).judge(ended(refusal(code)))

    assert not isinstance(told.value, ExecutionTimeout | InvalidInput)


def test_what_the_function_raised_is_told_as_it_is():
    with pytest.raises(ExecutionFailed, match=r"^execution failed: says who\?$"):
        ContainerExecutor(IMAGE).judge(ended(refusal("EXECUTION")))


def test_an_answer_of_a_program_that_then_failed_is_none():
    answer = {"ok": True, "output": 1}
    with pytest.raises(ExecutionFailed, match="CRASH: the program was ended after it had answered"):
        ContainerExecutor(IMAGE).judge(ended(answer, Status.ERROR, exit_code=7))


def test_the_time_of_a_call_is_over_when_our_clock_says_so():
    with pytest.raises(ExecutionTimeout, match="execution timed out after 3s"):
        ContainerExecutor(IMAGE, timeout=3).judge(ended(b"", Status.TIMEOUT, limit="wall"))


def test_an_answer_is_checked_here_whatever_the_image_has_checked():
    executor = ContainerExecutor[Any, int](IMAGE)

    assert 1 == executor.judge(ended({"ok": True, "output": 1}))
    with pytest.raises(InvalidOutput, match='output validation failed: "x" is not of type'):
        executor.judge(ended({"ok": True, "output": "x"}))


@pytest.mark.parametrize("image", OUR_IMAGES)
def test_nothing_is_built_under_a_name_that_every_policy_allows(image, tmp_path):
    with pytest.raises(PolicyDenied, match=r"build: .* is not built here"):
        ContainerExecutor(image, build=tmp_path)


def test_nothing_is_built_where_an_operator_has_set_a_ceiling(tmp_path, monkeypatch):
    """The engine runs a Dockerfile before any policy is asked."""
    monkeypatch.setenv("SAGGAR_CEILING", "{}")
    with pytest.raises(PolicyDenied, match=r"build it beforehand, .*Policy\(images="):
        ContainerExecutor(IMAGE, build=tmp_path)
