import pytest

from saggar.drivers.process.promises import admit, shortcomings, sufficient, supports
from saggar.errors import DriverUnavailable
from saggar.model.limits import LIMIT_NAMES
from saggar.model.policy import Network, Policy, Rung

UNKEPT = {"cpu_share", "memory", "processes", "disk", "inodes"}


def refused(policy):
    with pytest.raises(DriverUnavailable) as caught:
        admit(policy)
    return str(caught.value)


def test_every_limit_is_either_kept_by_something_or_not_for_a_reason():
    found = supports()

    assert set(LIMIT_NAMES) == found.keys()
    assert all(support.how for support in found.values() if support.enforced)
    assert all(support.why_not for support in found.values() if not support.enforced)


def test_what_takes_a_control_group_or_a_file_system_of_its_own_is_not_kept():
    assert {name for name, support in supports().items() if not support.enforced} == UNKEPT


def test_it_says_that_it_builds_no_walls():
    assert "builds no walls" in shortcomings()[0]


def test_the_closed_policy_is_told_at_once_all_that_it_asks_for_in_vain():
    said = refused(Policy())

    assert "isolation 'jail'" in said
    assert "network 'none'" in said
    assert "limits on cpu_share, disk, inodes, memory, processes;" in said


def test_the_policy_that_a_refusal_names_is_admitted():
    said = refused(Policy())
    named = eval(said.partition("run with ")[2], {"Policy": Policy})

    admit(named)
    assert sufficient() == named


@pytest.mark.parametrize("network", [Network.NONE, Network.LOOPBACK])
def test_a_network_that_is_not_the_hosts_is_refused(network):
    assert f"network '{network}'" in refused(sufficient().replace(network=network))


@pytest.mark.parametrize("rung", [rung for rung in Rung if rung > Rung.PROCESS])
def test_a_floor_above_it_is_refused(rung):
    assert f"isolation '{rung}'" in refused(sufficient().replace(isolation=rung))


@pytest.mark.parametrize("name", sorted(UNKEPT))
def test_a_limit_that_is_insisted_on_is_refused_and_the_others_are_not_named(name):
    said = refused(sufficient().replace(best_effort=frozenset(UNKEPT - {name})))

    assert f"cannot keep limits on {name};" in said


def test_more_best_effort_than_needed_does_no_harm():
    admit(sufficient().replace(best_effort=frozenset(LIMIT_NAMES)))
