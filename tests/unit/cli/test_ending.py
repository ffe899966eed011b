import pytest

from saggar.cli.ending import exit_code, not_collected, verdict
from saggar.model.limits import LIMIT_NAMES, Limits
from saggar.model.result import ErrorInfo, Outcome, Skipped, Usage


def outcome(status, **fields):
    return Outcome(status=status, isolation="jail", usage=Usage(wall=0.0123), **fields)


@pytest.mark.parametrize(
    ("code", "status", "own"),
    [
        (0, "ok", 0),
        (3, "error", 3),
        (1, "error", None),
        (1, "error", 0),
        (124, "timeout", 130),
        (137, "memory", None),
        (137, "output", None),
        (137, "killed", None),
        (130, "cancelled", None),
        (70, "fault", None),
    ],
)
def test_the_exit_code_is_the_programs_unless_something_else_ended_it(code, status, own):
    assert code == exit_code(outcome(status, exit_code=own))


def test_a_good_end_is_short():
    line = verdict(
        outcome("ok", exit_code=0).replace(usage=Usage(wall=0.5, memory=1 << 20)), Limits()
    )

    assert "ok · 500 ms · peak 1 MiB · jail" == line


def test_the_limit_is_named_with_its_value():
    line = verdict(outcome("timeout", limit="wall", exit_code=130), Limits(wall="2s"))

    assert "timeout · limit wall (2 s) · 12.3 ms · jail" == line


@pytest.mark.parametrize("limit", LIMIT_NAMES)
def test_every_limit_can_be_shown(limit):
    assert f"limit {limit} (" in verdict(outcome("error", limit=limit), Limits())


def test_an_error_shows_its_exit_code():
    assert "error · exit code 3 · 12.3 ms · jail" == verdict(
        outcome("error", exit_code=3), Limits()
    )


def test_a_signal_is_named():
    assert "killed · SIGSEGV · 12.3 ms · jail" == verdict(
        outcome("killed", signal="SIGSEGV"), Limits()
    )


def test_a_fault_says_what_broke():
    line = verdict(outcome("fault", error=ErrorInfo(type="x", message="no walls")), Limits())

    assert "fault · no walls · 12.3 ms · jail" == line


def test_files_are_named_or_counted():
    assert verdict(outcome("ok"), Limits(), ["a", "b"]).endswith("· wrote a, b")
    assert verdict(outcome("ok"), Limits(), ["a"] * 4).endswith("· wrote 4 files")


def test_each_file_that_is_missing_gets_a_line():
    assert ["not collected: x: is a fifo"] == not_collected([Skipped(path="x", reason="is a fifo")])
