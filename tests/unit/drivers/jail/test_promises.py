import math
import os
import platform
import subprocess
import sys

import pytest

from saggar.drivers.jail import landlock, promises
from saggar.drivers.jail.hierarchies import Finding
from saggar.drivers.jail.promises import ALWAYS, MACHINES, supports, unconfined, unsupported
from saggar.model.limits import LIMIT_NAMES, Limits
from saggar.model.policy import Network, Rung

NOWHERE = Finding(enforced=False, how="", why_not="nothing can be written here", recipes=())
NOTHING = dict.fromkeys(("memory", "processes", "cpu_share", "cpu"), NOWHERE)
HERE = Finding(enforced=True, how="a cgroup", why_not="", recipes=())


@pytest.mark.parametrize("rung", [Rung.JAIL, Rung.LANDLOCK])
@pytest.mark.parametrize("cgroups", [NOTHING, dict.fromkeys(NOTHING, HERE)])
def test_every_limit_is_promised_or_there_is_a_reason_why_not(rung, cgroups):
    found = supports(rung, Limits(), cgroups)

    assert set(LIMIT_NAMES) == found.keys()
    for support in found.values():
        assert support.enforced is bool(support.how)
        assert support.enforced is not bool(support.why_not)


def test_some_limits_need_nothing_of_the_machine():
    found = supports(Rung.LANDLOCK, Limits(), NOTHING)

    assert ALWAYS == {name: found[name].how for name in ALWAYS}


def test_a_cgroup_keeps_what_it_can():
    found = supports(Rung.JAIL, Limits(), dict.fromkeys(NOTHING, HERE))

    assert {"a cgroup"} == {found[name].how for name in ("memory", "processes", "cpu_share")}
    assert ALWAYS["cpu"] == found["cpu"].how


def test_without_a_cgroup_memory_is_looked_at_instead():
    assert "every 50 ms" in supports(Rung.JAIL, Limits(), NOTHING)["memory"].how


@pytest.mark.parametrize(("rung", "kept"), [(Rung.JAIL, True), (Rung.LANDLOCK, False)])
def test_the_disk_is_limited_where_it_is_a_mount_of_our_own(rung, kept):
    found = supports(rung, Limits(), NOTHING)

    assert [kept, kept] == [found[name].enforced for name in ("disk", "inodes")]


def test_processes_are_counted_by_user_where_there_is_a_user_of_their_own():
    jail, bare = (supports(rung, Limits(), NOTHING) for rung in (Rung.JAIL, Rung.LANDLOCK))

    assert jail["processes"].enforced
    assert (os.geteuid() == 0) is bare["processes"].enforced


def test_whole_cores_can_be_named_and_a_part_of_one_takes_a_cgroup():
    cores = len(os.sched_getaffinity(0))
    for share, kept in ((1, True), (cores, True), (cores + 0.5, True), (0.5, False)):
        found = supports(Rung.JAIL, Limits(cpu_share=share), NOTHING)["cpu_share"]

        assert kept is found.enforced
        assert kept or math.ceil(share) != share
        assert kept or found.why_not.endswith("nothing can be written here")


def test_a_loopback_of_its_own_takes_a_namespace():
    assert "takes a network namespace" in unconfined(Network.LOOPBACK)


def test_landlock_alone_is_enough_for_root_and_needs_scopes_for_anybody_else():
    said = unconfined(Network.NONE)
    if not landlock.abi():
        assert "Landlock is off" in said
    elif os.geteuid() == 0 or landlock.abi() >= promises.SCOPED:
        assert "" == said
    else:
        assert f"it takes {promises.SCOPED}" in said


def test_this_machine_is_one_of_those_it_is_written_for():
    assert ("" == unsupported()) is (platform.machine() in MACHINES)


@pytest.mark.needs("setarch")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="it pretends to be i686")
def test_another_machine_is_refused_by_its_name():
    """As one sees it who runs a 32-bit system on a 64-bit kernel."""
    code = """
import asyncio
from saggar import DriverUnavailable, Platform
async def main():
    async with Platform() as platform:
        print((await platform.probe())["jail"].reasons)
        try:
            await platform.run("print(1)")
        except DriverUnavailable as exc:
            print(exc)
asyncio.run(main())
"""
    argv = ["setarch", "i686", sys.executable, "-W", "error", "-c", code]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    reason = "its filters are written for x86_64 and aarch64, not i686"

    assert "" == ran.stderr
    assert [f"('{reason}',)", f"jail cannot be had here: {reason}"] == ran.stdout.splitlines()


def test_another_system_is_refused_by_its_name(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")

    assert "its walls are the Linux kernel's, and this is Darwin" == unsupported()
