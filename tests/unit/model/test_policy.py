import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from saggar.errors import InvalidTask, PolicyDenied
from saggar.model import (
    ALL_KINDS,
    LIMIT_NAMES,
    Code,
    CodeKind,
    Command,
    Environment,
    Inline,
    Limits,
    Mount,
    Named,
    Network,
    Pickled,
    Policy,
    Program,
    Rung,
    Task,
)
from saggar.model.paths import is_inside

PREFIXES = st.lists(
    st.sampled_from(["/", "/a", "/a/b", "/a/b/c", "/a-b", "/ab", "/c", "/a/../c"]), max_size=4
)
POLICIES = st.builds(
    Policy,
    isolation=st.sampled_from(Rung),
    limits=st.builds(
        Limits,
        wall=st.integers(1, 3),
        memory=st.integers(1 << 20, (1 << 20) + 2),
        processes=st.integers(1, 3),
    ),
    network=st.sampled_from(Network),
    mounts=PREFIXES,
    images=st.lists(st.sampled_from(["one", "two", "three"]), unique=True),
    host_packages=st.booleans(),
    accept=st.frozensets(st.sampled_from(CodeKind), min_size=1),
    best_effort=st.frozensets(st.sampled_from(LIMIT_NAMES)),
    gpu=st.integers(0, 2),
)
PROBES = ["/", "/a", "/a/b", "/a/b/c", "/a/b/c/d", "/a/x", "/a-b", "/a-b/x", "/ab", "/c", "/c/x"]


def allows(wide, narrow):
    """Whether everything that `narrow` lets pass would pass `wide` too."""
    return (
        narrow.isolation >= wide.isolation
        and all(getattr(narrow.limits, n) <= getattr(wide.limits, n) for n in LIMIT_NAMES)
        and narrow.network <= wide.network
        and all(any(is_inside(mount, other) for other in wide.mounts) for mount in narrow.mounts)
        and set(narrow.images) <= set(wide.images)
        and narrow.host_packages <= wide.host_packages
        and narrow.accept <= wide.accept
        and narrow.best_effort <= wide.best_effort
        and narrow.gpu <= wide.gpu
    )


def narrowed(policy, ceiling):
    """`policy` within `ceiling`, for those pairs that have one."""
    assume(policy.network <= ceiling.network and policy.gpu <= ceiling.gpu)
    assume(policy.accept & ceiling.accept)
    return policy.within(ceiling)


def can_mount(policy, path):
    return any(is_inside(path, prefix) for prefix in policy.mounts)


@given(POLICIES, POLICIES)
def test_within_never_widens(policy, ceiling):
    within = narrowed(policy, ceiling)

    assert allows(policy, within)
    assert allows(ceiling, within)


@given(POLICIES, POLICIES)
def test_within_is_idempotent(policy, ceiling):
    within = narrowed(policy, ceiling)

    assert within == within.within(ceiling) == within.within(policy)


@given(POLICIES, POLICIES)
def test_within_keeps_every_path_that_both_allow(policy, ceiling):
    within = narrowed(policy, ceiling)

    assert all(
        (can_mount(policy, path) and can_mount(ceiling, path)) == can_mount(within, path)
        for path in PROBES
    )


@given(POLICIES)
def test_a_policy_within_itself_is_itself(policy):
    assert policy is policy.within(policy)


def test_the_closed_policy_within_the_closed_policy_is_closed():
    assert Policy() == Policy().within(Policy())


@given(POLICIES)
def test_a_policy_comes_back_from_json_as_it_was(policy):
    assert policy == Policy.model_validate_json(policy.model_dump_json())


def test_json_of_a_policy_has_one_order():
    text = Policy(best_effort={"wall", "cpu", "disk"}).model_dump_json()

    assert '"best_effort":["cpu","disk","wall"]' in text
    assert '"accept":["command","inline","named","pickled"]' in text


def test_network_cannot_be_narrowed():
    with pytest.raises(PolicyDenied, match=r"^policy\.network: host was asked for, at most none"):
        Policy(network=Network.HOST).within(Policy())


def test_gpus_are_given_or_refused_and_never_left_out():
    with pytest.raises(PolicyDenied, match=r"^policy\.gpu: 2 was asked for, at most 1 is allowed"):
        Policy(gpu=2).within(Policy(gpu=1))

    assert 1 == Policy(gpu=1).within(Policy(gpu=4)).gpu


def test_code_forms_of_which_none_is_left_are_denied():
    with pytest.raises(PolicyDenied, match=r"^policy\.accept: inline was asked for, only named"):
        Policy(accept={"inline"}).within(Policy(accept={"named"}))


def test_rungs_and_networks_have_an_order():
    assert Rung.PROCESS < Rung.LANDLOCK < Rung.JAIL < Rung.CONTAINER < Rung.GVISOR
    assert Network.NONE < Network.LOOPBACK < Network.HOST
    assert Rung.JAIL <= Rung.JAIL
    assert Rung.JAIL >= "landlock"


def test_prefixes_have_one_spelling():
    policy = Policy(mounts=("/data/b", "/data//b/c", "/data-x", "/data/b/../b"))

    assert ("/data/b", "/data-x") == policy.mounts


@pytest.mark.parametrize(
    "fields",
    [
        {"accept": set()},
        {"accept": {"magic"}},
        {"best_effort": {"memry"}},
        {"mounts": ("data",)},
        {"images": ("",)},
        {"network": "wifi"},
        {"isolation": "none"},
        {"host_packages": "perhaps"},
    ],
)
def test_a_policy_that_means_nothing_is_refused(fields):
    with pytest.raises(InvalidTask, match=r"^policy\."):
        Policy(**fields)


def task(code="pass", **fields):
    return Task.of(code, environment=Environment(**fields))


def test_the_closed_policy_admits_plain_code():
    Policy().admit(Task.of("print(1)"))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Inline(text=""), "inline"),
        (Pickled(payload=b""), "pickled"),
        (Command(argv=("ls",)), "command"),
    ],
)
def test_production_mode_admits_named_programs_only(code: Code, kind):
    policy = Policy(accept={"named"})
    policy.admit(Task.of(Program(code=Named(name="report"))))

    with pytest.raises(
        PolicyDenied,
        match=rf"^program\.code\.kind: {kind} was asked for, the policy allows named;"
        rf" allow it with Policy\(accept={{'{kind}', \.\.\.}}\)$",
    ):
        policy.admit(Task.of(code))


@pytest.mark.parametrize(
    ("field", "asked", "remedy", "fields"),
    [
        ("host_packages", "True", "host_packages=True", {"host_packages": True}),
        ("mounts", "/d/a", "mounts=('/d/a',)", {"mounts": [Mount(source="/d/a", target="/a")]}),
        ("root", "/srv/root", "mounts=('/srv/root',)", {"root": "/srv/root"}),
        ("python", "/opt/python3", "mounts=('/opt/python3',)", {"python": "/opt/python3"}),
    ],
)
def test_a_refusal_says_what_was_asked_and_the_way_out(field, asked, remedy, fields):
    with pytest.raises(PolicyDenied) as caught:
        Policy().admit(task(**fields))

    assert str(caught.value) == (
        f"environment.{field}: {asked} was asked for, the policy allows none;"
        f" allow it with Policy({remedy})"
    )


@pytest.mark.parametrize("source", ["/database", "/data/../etc", "/", "/dat", "//etc//data"])
def test_a_mount_beside_its_prefix_is_denied(source):
    with pytest.raises(PolicyDenied, match="the policy allows /data"):
        Policy(mounts=("/data",)).admit(task(mounts=(Mount(source=source, target="/x"),)))


@pytest.mark.parametrize("source", ["/data", "/data/", "/data/a/../b", "//data/x"])
def test_a_mount_inside_its_prefix_is_admitted(source):
    Policy(mounts=("/data",)).admit(task(mounts=(Mount(source=source, target="/x"),)))


def test_an_interpreter_that_every_sandbox_sees_anyway_needs_no_leave():
    Policy().admit(task(python="/usr/bin/python3"))
    Policy().admit(task(python="3.12"))


def test_the_default_accepts_every_form_of_code():
    assert ALL_KINDS == Policy().accept


def test_a_mount_is_writable_only_where_the_policy_shares():
    mount = Mount(source="/data/in", target="/in", read_only=False)
    task = Task.of("pass", environment=Environment(mounts=(mount,)))

    with pytest.raises(PolicyDenied, match=r"shares=\('/data/in',\)"):
        Policy(mounts=("/data",)).admit(task)
    Policy(mounts=("/data",), shares=("/data",)).admit(task)


def using(image):
    return Task.of("pass", environment=Environment(image=image))


@pytest.mark.parametrize("image", ["saggar/runner-node:latest", "one", "team/app:1"])
def test_our_own_runners_and_the_images_that_a_policy_names_may_be_used(image):
    Policy(images=("one", "team/*")).admit(using(image))


@pytest.mark.parametrize("image", ["ones", "team", "other/team/app", "saggar/base"])
def test_any_other_image_is_refused_with_the_policy_that_would_allow_it(image):
    with pytest.raises(PolicyDenied, match=rf"allow it with Policy\(images=\('{image}',\)\)"):
        Policy(images=("one", "team/*")).admit(using(image))


@pytest.mark.parametrize(
    ("ours", "theirs", "both"),
    [
        (("a/*",), ("a/b",), ("a/b",)),
        (("a/b",), ("a/*",), ("a/b",)),
        (("a/*",), ("a/b*", "c"), ("a/b*",)),
        (("a",), ("b",), ()),
        (("*",), (), ()),
    ],
)
def test_of_two_policies_images_what_both_allow_is_left(ours, theirs, both):
    assert both == Policy(images=ours).within(Policy(images=theirs)).images


def test_who_a_container_runs_as_is_the_policys_to_say():
    task = Task.of("pass", environment=Environment(user=33))

    with pytest.raises(PolicyDenied, match=r"environment\.user: 33 .*Policy\(users=\{33\}\)"):
        Policy().admit(task)
    Policy(users=frozenset({33})).admit(task)
    assert frozenset() == Policy(users=frozenset({33})).within(Policy()).users
