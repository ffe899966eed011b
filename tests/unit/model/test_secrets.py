"""Secrets: held where they are needed, and shown by what holds them as names."""

import pickle

import pytest

from saggar.errors import InvalidTask
from saggar.model.secrets import NO_SECRETS, Secrets, parted

VALUE = "sesame-of-this-test"


def test_what_holds_values_says_their_names():
    held = Secrets({"B": VALUE, "A": VALUE})

    assert "<secrets: A, B>" == repr(held) == str(held)
    assert {"A": VALUE, "B": VALUE} == held.reveal()
    assert not NO_SECRETS


def test_values_do_not_leave_the_process():
    with pytest.raises(TypeError, match="cannot leave this process"):
        pickle.dumps(Secrets({"A": VALUE}))


def test_names_come_without_values_and_values_with_their_names():
    assert (("B", "A"), NO_SECRETS) == parted(["B", "A", "B"])
    assert ("A", "B") == parted({"B": VALUE, "A": VALUE})[0]
    assert ((), NO_SECRETS) == parted(None)


@pytest.mark.parametrize(
    "said",
    [
        VALUE,
        [f"A={VALUE}"],
        {f"{VALUE} ": "1"},
        {"A": VALUE.encode()},
        {"A": f"{VALUE}\0"},
        {"A": f"{VALUE}\ud800"},
        {"A": VALUE * 10_000},
        7,
        [7],
    ],
)
def test_no_complaint_repeats_what_may_be_a_value(said):
    with pytest.raises(InvalidTask) as found:
        parted(said)

    assert VALUE not in str(found.value)
