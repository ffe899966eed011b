import marshal

import pytest

from saggar.boundary.wallplan import Entry, Landlock, WallPlan

PLAIN = {
    "rung": "jail",
    "argv": ("/usr/bin/python3", "-I"),
    "entries": (Entry("bind", "/usr", "/usr"), Entry("hide", "/usr/lib/python3")),
    "staging": "/sys",
    "uid": 100000,
    "gid": 100000,
    "uids": 1024,
    "assemble_outside": True,
    "network": "none",
    "outer_filter": bytes(range(16)),
    "inner_filter": b"",
    "landlock": Landlock(1, 2, 3, [("/tmp", 7)], 24, 0),
    "disk": 1 << 40,
    "inodes": 10_000,
    "rlimits": ((4, 0, 0),),
    "entrances": 3,
    "environment": (("HOME", "/work"),),
    "preload": ("json",),
    "site": (),
    "names_threads": False,
}


@pytest.mark.parametrize("change", [{}, {"landlock": None}, {"entries": ()}])
def test_a_plan_comes_back_as_it_was(change):
    plan = WallPlan(**PLAIN | change)

    assert vars(plan) == vars(WallPlan.decode(plan.encode()))


def test_entries_and_landlock_come_back_with_their_names():
    plan = WallPlan.decode(WallPlan(**PLAIN).encode())

    assert ("bind", "/usr", "") == (
        plan.entries[0].kind,
        plan.entries[0].source,
        plan.entries[1].source,
    )
    assert plan.landlock is not None
    assert [("/tmp", 7)] == plan.landlock.rules


@pytest.mark.parametrize("change", [{"uids": ...}, {"doors": 1}])
def test_a_field_too_few_or_too_many_is_refused_with_what_there_is(change):
    fields = {name: value for name, value in (PLAIN | change).items() if value is not ...}

    with pytest.raises(TypeError, match="exactly rung, argv, entries, staging, uid, gid, uids"):
        WallPlan(**fields)


def test_the_encoding_is_one_that_every_supported_python_reads():
    plan = WallPlan(**PLAIN)

    assert plan.encode() == marshal.dumps(marshal.loads(plan.encode()), 2)
