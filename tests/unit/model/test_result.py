import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saggar.errors import GuestError, InvalidTask
from saggar.model import Display, ErrorInfo, File, Result, Skipped, Status, Usage

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
RESULTS: st.SearchStrategy[Result[Any]] = st.builds(
    Result,
    status=st.sampled_from(Status),
    limit=st.none() | st.just("memory"),
    exit_code=st.none() | st.integers(0, 255),
    signal=st.none() | st.just("SIGKILL"),
    truncated=st.booleans(),
    value=st.none() | st.integers() | st.lists(TEXT) | st.dictionaries(TEXT, st.booleans()),
    stdout_bytes=st.binary() | TEXT.map(str.encode),
    stderr_bytes=st.binary() | TEXT.map(str.encode),
    displays=st.lists(st.builds(Display, data=st.dictionaries(TEXT, TEXT)), max_size=2),
    files=st.lists(st.builds(File, path=st.just("a"), content=st.binary()), max_size=2),
    files_skipped=st.just([Skipped(path="a", reason="too large")]),
    error=st.none() | st.builds(ErrorInfo, type=TEXT, message=TEXT),
    usage=st.builds(Usage, wall=st.floats(0, 10), memory=st.none() | st.integers(0, 1 << 40)),
    isolation=st.just("jail"),
)


def result(status="ok", **fields):
    return Result(status=status, isolation="jail", **fields)


@given(RESULTS)
def test_a_result_comes_back_from_json_as_it_was(result):
    assert result == Result.model_validate_json(result.model_dump_json())


@given(RESULTS)
def test_a_result_comes_back_from_its_dump_as_it_was(result):
    assert result == Result.model_validate(result.model_dump())


def test_json_has_output_as_text():
    dump = json.loads(result(stdout_bytes="é\n".encode()).model_dump_json())

    assert "é\n" == dump["stdout"]
    assert not {"stdout_bytes", "stdout_base64", "stderr_base64"} & set(dump)


def test_json_has_the_bytes_only_where_text_would_lose_them():
    dump = json.loads(result(stdout_bytes=b"\xff", stderr_bytes=b"x").model_dump_json())

    assert ("\ufffd", "_w==") == (dump["stdout"], dump["stdout_base64"])
    assert "stderr_base64" not in dump


def test_the_schema_of_a_result_names_what_its_json_has():
    properties = Result.model_json_schema(mode="serialization")["properties"]

    assert {"status", "stdout", "stderr", "stdout_base64", "files"} <= set(properties)
    assert "stdout_bytes" not in properties


@pytest.mark.parametrize(
    "lie", [{"stdout": 1}, {"stdout_base64": "a"}, {"stdout_base64": 1}, {"x": 1}]
)
def test_a_dump_that_was_tampered_with_is_refused(lie):
    with pytest.raises(InvalidTask, match=r"^result"):
        result(**lie)


def test_only_ok_is_ok():
    assert [Status.OK] == [status for status in Status if result(status).ok]


def test_the_value_of_a_good_result_unwraps():
    assert 42 == result(value=42).unwrap()


@pytest.mark.parametrize(
    ("message", "failed"),
    [
        ("ValueError: no", result("error", error=ErrorInfo(type="ValueError", message="no"))),
        ("error, exit code 3", result("error", exit_code=3)),
        ("timeout (wall)", result("timeout", limit="wall")),
        (
            "timeout (wall)",
            result("timeout", limit="wall", error=ErrorInfo(type="KeyboardInterrupt")),
        ),
        (
            "OSError: no room",
            result("error", limit="disk", error=ErrorInfo(type="OSError", message="no room")),
        ),
        ("killed, ended by SIGSEGV", result("killed", signal="SIGSEGV")),
        ("cancelled", result("cancelled")),
    ],
)
def test_unwrapping_a_failure_raises_what_it_was(message, failed):
    with pytest.raises(GuestError) as caught:
        failed.unwrap()

    assert message == str(caught.value)
    assert failed is caught.value.result
    assert failed == pickle.loads(pickle.dumps(caught.value)).result


def test_output_that_is_not_utf8_is_shown_with_marks():
    assert "a\ufffdb" == result(stdout_bytes=b"a\xffb").stdout


def test_a_result_of_a_type_checks_its_value():
    assert 1 == Result[int](status="ok", isolation="jail", value=1).unwrap()

    with pytest.raises(InvalidTask, match=r"^result\.value: must be a valid integer"):
        Result[int](status="ok", isolation="jail", value="one")
