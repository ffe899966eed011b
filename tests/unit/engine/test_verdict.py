"""The verdict: every row of the table, every pair of rows, and what holds for all facts."""

from dataclasses import fields, replace
from itertools import combinations
from signal import SIGINT, SIGKILL, SIGRTMIN, SIGSEGV, SIGXCPU, SIGXFSZ

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saggar.engine.verdict import Facts, Verdict, judge
from saggar.model.result import Status

FINE = Facts(ready=True, exit_code=0)

# Each row: what makes it true, and the verdict it leads to when nothing else is true.
# Their order is the precedence that design and documentation promise.
ROWS = [
    ({"cancelled": True}, Status.CANCELLED, None),
    ({"broken": "mount refused"}, Status.FAULT, None),
    ({"ready": False}, Status.FAULT, None),
    ({"wall_spent": True}, Status.TIMEOUT, "wall"),
    ({"cpu_spent": True}, Status.TIMEOUT, "cpu"),
    ({"oom_kills": 1}, Status.MEMORY, "memory"),
    ({"memory_spent": True}, Status.MEMORY, "memory"),
    ({"output_spent": True}, Status.OUTPUT, "output"),
    ({"exit_code": None, "signal": int(SIGSEGV)}, Status.KILLED, None),
    ({"refused_forks": 3}, Status.ERROR, "processes"),
    ({"disk_full": True}, Status.ERROR, "disk"),
    ({"sigxfsz": True}, Status.ERROR, "file_size"),
    ({"claimed_error": True}, Status.ERROR, None),
]


@pytest.mark.parametrize(("facts", "status", "limit"), ROWS)
def test_each_row_alone_decides(facts, status, limit):
    verdict = judge(replace(FINE, **facts))

    assert (status, limit) == (verdict.status, verdict.limit)


@pytest.mark.parametrize(("above", "below"), list(combinations(ROWS, 2)))
def test_of_two_facts_the_upper_row_decides(above, below):
    facts, status, limit = above
    verdict = judge(replace(FINE, **{**below[0], **facts}))

    assert (status, limit) == (verdict.status, verdict.limit)


def test_a_program_that_exits_with_zero_is_ok():
    assert Verdict(Status.OK, None, 0, None) == judge(FINE)


def test_a_program_that_exits_otherwise_is_an_error_with_its_code():
    assert Verdict(Status.ERROR, None, 3, None) == judge(replace(FINE, exit_code=3))


def test_the_closed_facts_are_a_fault():
    assert Status.FAULT == judge(Facts()).status


def test_a_runner_that_answered_and_was_killed_afterwards_is_ok():
    facts = Facts(ready=True, answered=True, claimed_exit=0, killed_by_us=True)

    assert Verdict(Status.OK, None, 0, None) == judge(facts)


def test_a_claimed_exit_code_is_kept_when_the_runner_was_killed_after_it():
    facts = Facts(ready=True, answered=True, claimed_exit=7, killed_by_us=True)

    assert Verdict(Status.ERROR, None, 7, None) == judge(facts)


def test_a_claim_cannot_hide_what_waitid_said():
    facts = Facts(ready=True, answered=True, claimed_exit=0, exit_code=9)

    assert Verdict(Status.ERROR, None, 9, None) == judge(facts)


def test_a_claim_without_a_done_frame_counts_for_nothing():
    facts = Facts(ready=True, claimed_exit=0, killed_by_us=True)

    assert Verdict(Status.ERROR, None, None, None) == judge(facts)


def test_an_exit_with_zero_on_our_own_kill_ladder_stays_a_timeout():
    """The program caught the interrupt of the soft deadline and ended in good order."""
    assert Verdict(Status.TIMEOUT, "wall", 0, None) == judge(replace(FINE, wall_spent=True))


def test_a_guest_that_broke_its_channel_is_an_error_and_no_fault():
    """Faults are retried; a guest must not be able to ask for that."""
    facts = Facts(ready=True, killed_by_us=True, signal=int(SIGKILL))

    assert Verdict(Status.ERROR, None, None, "SIGKILL") == judge(facts)


def test_sigkill_that_nobody_of_ours_sent_is_killed():
    facts = Facts(ready=True, signal=int(SIGKILL))

    assert Verdict(Status.KILLED, None, None, "SIGKILL") == judge(facts)


def test_sigkill_with_the_processor_time_spent_is_a_timeout():
    facts = Facts(ready=True, signal=int(SIGKILL), cpu_spent=True)

    assert Verdict(Status.TIMEOUT, "cpu", None, "SIGKILL") == judge(facts)


def test_sigxcpu_is_a_timeout_by_itself():
    facts = Facts(ready=True, signal=int(SIGXCPU))

    assert Verdict(Status.TIMEOUT, "cpu", None, "SIGXCPU") == judge(facts)


def test_sigxfsz_is_a_file_grown_too_large_and_not_a_stranger():
    facts = Facts(ready=True, signal=int(SIGXFSZ))

    assert Verdict(Status.ERROR, "file_size", None, "SIGXFSZ") == judge(facts)


def test_a_crash_just_before_our_kill_is_still_a_crash():
    facts = Facts(ready=True, signal=int(SIGSEGV), killed_by_us=True)

    assert Status.KILLED == judge(facts).status


def test_an_exit_code_that_looks_like_a_signal_is_only_an_exit_code():
    assert Verdict(Status.ERROR, None, 137, None) == judge(replace(FINE, exit_code=137))


def test_an_interrupt_of_its_own_is_killed_under_its_name():
    facts = Facts(ready=True, signal=int(SIGINT))

    assert Verdict(Status.KILLED, None, None, "SIGINT") == judge(facts)


@pytest.mark.parametrize(
    ("number", "name"), [(int(SIGRTMIN), "SIGRTMIN"), (int(SIGRTMIN) + 3, "SIG37"), (99, "SIG99")]
)
def test_every_signal_number_has_some_name(number, name):
    assert name == judge(Facts(ready=True, signal=number)).signal


CODES = st.none() | st.integers(0, 255)
ANY_FACTS = st.builds(
    Facts,
    **{field.name: st.booleans() for field in fields(Facts) if field.type in {bool, "bool"}},
    broken=st.none() | st.text(),
    oom_kills=st.integers(0, 3),
    refused_forks=st.integers(0, 3),
    exit_code=CODES,
    claimed_exit=CODES,
    signal=st.none() | st.integers(1, 64),
)


@given(ANY_FACTS)
def test_every_combination_of_facts_has_a_verdict(facts):
    assert isinstance(judge(facts).status, Status)


@given(ANY_FACTS)
def test_a_fault_is_exactly_what_is_ours(facts):
    ours = not facts.cancelled and (not facts.ready or facts.broken is not None)

    assert ours == (judge(facts).status is Status.FAULT)


@given(ANY_FACTS)
def test_ok_means_an_exit_with_zero_and_nothing_else(facts):
    verdict = judge(facts)
    ok = verdict.status is Status.OK

    assert not ok or (verdict.limit, verdict.exit_code, verdict.signal) == (None, 0, None)


@given(ANY_FACTS)
def test_a_limit_is_named_when_and_only_when_one_was_met(facts):
    verdict = judge(facts)
    met = {Status.TIMEOUT, Status.MEMORY, Status.OUTPUT}
    unlimited = {Status.OK, Status.KILLED, Status.CANCELLED, Status.FAULT}

    assert verdict.status not in met or verdict.limit is not None
    assert verdict.status not in unlimited or verdict.limit is None


@given(ANY_FACTS, CODES, st.booleans(), st.booleans())
def test_what_the_guest_claims_moves_the_verdict_only_between_ok_and_error(
    facts, claimed_exit, claimed_error, answered
):
    lied = replace(facts, claimed_exit=claimed_exit, claimed_error=claimed_error, answered=answered)
    before, after = judge(facts).status, judge(lied).status

    assert before == after or {before, after} == {Status.OK, Status.ERROR}
