"""The filters: by reading them for every number there is, and by meeting them in a child."""

import ctypes
import errno
import itertools
import mmap
import os
import platform
import socket
import subprocess
import sys
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.drivers.jail.confined import Program, behind, call, judge

from saggar.boundary import syscalls
from saggar.drivers.jail import seccomp
from saggar.drivers.jail.bpf import If, argument
from saggar.drivers.jail.seccomp import ABSENT, ALLOW, FORBIDDEN, KILL, NO_FAMILY, refuse
from saggar.drivers.jail.syscall_table import NUMBERS

MACHINES = tuple(NUMBERS)
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
FOREIGN = (0x40000003, 0x40000028, 0, 0xFFFFFFFF)  # i386, arm, nothing, everything
X32 = 0x40000000
NETWORKS = ("none", "loopback", "host")
GUESTS = tuple(product(("jail", "container", "landlock"), NETWORKS))
HERE = platform.machine()

on_x86 = pytest.mark.skipif(HERE != "x86_64", reason="a trap of x86-64")


def filters(machine):
    """Every filter there is for a machine, with the policy it was made from."""
    yield seccomp.outer_policy(), seccomp.outer_filter(machine)
    for rung, network in GUESTS:
        for memory, shares in itertools.product((True, False), repeat=2):
            options = {"memory_enforced": memory, "shares": shares}
            yield (
                seccomp.inner_policy(network, rung, **options),
                seccomp.inner_filter(machine, network, rung, **options),
            )


def declared(policy, machine, words):
    """What the policy says about a call, without any tree."""
    number = words[0]
    if words[4] != ARCHITECTURE[machine]:
        return KILL
    if machine == "x86_64" and X32 <= number < 0xFFFFFFFF:
        return KILL
    for name, known in NUMBERS[machine].items():
        if known == number:
            return judge(policy.get(name, ALLOW), words)
    return ABSENT


def interesting(decision):
    """Every value a decision turns on, and its neighbours, in every word that it reads."""
    found: dict[int, set[int]] = {}
    pending = [decision]
    while pending:
        test = pending.pop()
        if isinstance(test, If):
            near = {
                test.value - 1,
                test.value,
                test.value + 1,
                test.value << 1,
                test.value | 0x80800,
            }
            found.setdefault(test.word.offset, {0, 0xFFFFFFFF}).update(v % 2**32 for v in near)
            pending += [test.yes, test.no]
    return found


def calls(machine, policy):
    """Every number that is known or near one that is, with the arguments that matter to it."""
    by_number = {number: name for name, number in NUMBERS[machine].items()}
    wild = (X32, X32 + 1, X32 + 512, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
    for number in (*range(600), *wild):
        values = interesting(policy.get(by_number.get(number, ""), ALLOW))
        for chosen in product(*values.values()):
            yield {0: number, 4: ARCHITECTURE[machine], **dict(zip(values, chosen, strict=True))}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_tree_says_of_every_number_what_the_policy_says(machine):
    for policy, packed in filters(machine):
        program = Program(packed)
        wrong = [
            w for w in calls(machine, policy) if declared(policy, machine, w) != program.run(w)
        ]

        assert [] == wrong


@given(
    st.sampled_from(MACHINES),
    st.sampled_from(GUESTS),
    st.integers(0, 2**32 - 1) | st.integers(0, 500),
    st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 70), min_size=12, max_size=12),
)
def test_so_it_does_of_any_call_at_all(machine, guest, number, halves):
    rung, network = guest
    words = {0: number, 4: ARCHITECTURE[machine]}
    words |= {16 + 4 * place: half for place, half in enumerate(halves)}
    program = Program(seccomp.inner_filter(machine, network, rung))

    assert declared(seccomp.inner_policy(network, rung), machine, words) == program.run(words)


@pytest.mark.parametrize("machine", MACHINES)
def test_whatever_the_fork_server_is_refused_its_children_are(machine):
    outer = Program(seccomp.outer_filter(machine))
    refused = [w for w in calls(machine, seccomp.outer_policy()) if outer.run(w) != ALLOW]
    for rung, network in GUESTS:
        inner = Program(seccomp.inner_filter(machine, network, rung))

        assert [] == [words for words in refused if inner.run(words) == ALLOW]


@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_refused_with_a_network_is_refused_without(machine):
    for rung in ("jail", "landlock"):
        none, loopback, host = (
            Program(seccomp.inner_filter(machine, network, rung)) for network in NETWORKS
        )
        for words in calls(machine, seccomp.inner_policy("host", rung)):
            if host.run(words) != ALLOW:
                assert loopback.run(words) != ALLOW
            if loopback.run(words) != ALLOW:
                assert none.run(words) != ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_the_landlock_rung_allows_nothing_that_the_jail_refuses(machine):
    for network in NETWORKS:
        jail, landlock = (
            Program(seccomp.inner_filter(machine, network, rung)) for rung in ("jail", "landlock")
        )
        for words in calls(machine, seccomp.inner_policy(network, "jail")):
            if jail.run(words) != ALLOW:
                assert landlock.run(words) != ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_another_architecture_is_killed_whatever_it_calls(machine):
    for _, packed in filters(machine):
        program = Program(packed)
        verdicts = {program.run({0: n, 4: arch}) for n in (0, 1, 59, 221) for arch in FOREIGN}

        assert {KILL} == verdicts


@pytest.mark.parametrize("machine", MACHINES)
def test_a_number_that_is_not_in_the_table_does_not_exist(machine):
    highest = max(NUMBERS[machine].values())
    unknown = sorted({*range(highest + 200), 10_000} - set(NUMBERS[machine].values()))
    for _, packed in filters(machine):
        program = Program(packed)

        assert {ABSENT} == {program.run({0: n, 4: ARCHITECTURE[machine]}) for n in unknown}


def test_every_name_in_a_policy_is_the_name_of_a_call():
    known = set(NUMBERS["x86_64"]) | set(NUMBERS["aarch64"])
    for rung, network in GUESTS:
        assert set() == set(seccomp.inner_policy(network, rung, memory_enforced=False)) - known


@pytest.mark.parametrize("machine", MACHINES)
def test_a_number_is_found_in_few_steps(machine):
    """Loading a filter costs what the kernel executes of it, once for every number it has."""
    for _, packed in filters(machine):
        program = Program(packed)
        traces = [program.trace({0: n, 4: ARCHITECTURE[machine]})[1] for n in range(472)]
        steps = [
            sum(code & 7 == 5 for code, _ in until_an_argument_is_read(trace)) for trace in traces
        ]

        assert max(steps) <= 12
        assert sum(steps) / len(steps) <= 7.5
        assert len(program.code) <= 200


def until_an_argument_is_read(trace):
    for code, value in trace:
        if code == 0x20 and value >= 16:
            return
        yield code, value


@pytest.mark.parametrize("machine", ["riscv64", "i686", ""])
def test_a_machine_without_a_table_gets_no_filter(machine):
    with pytest.raises(ValueError, match="no filter for"):
        seccomp.outer_filter(machine)


@pytest.mark.parametrize(("network", "rung"), [("all", "jail"), ("none", "process"), ("", "")])
def test_a_wall_nobody_knows_gets_no_filter(network, rung):
    with pytest.raises(ValueError, match="no filter for"):
        seccomp.inner_filter("x86_64", network, rung)


def verdict(network, rung, name, *arguments, machine="x86_64", **options):
    """What a guest's filter says of one call by name."""
    program = Program(seccomp.inner_filter(machine, network, rung, **options))
    words = {0: NUMBERS[machine][name], 4: ARCHITECTURE[machine]}
    return program.run(words | {16 + 8 * n: value for n, value in enumerate(arguments)})


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("network", "arguments", "expected"),
    [
        ("none", (socket.AF_UNIX, 1, 0), ALLOW),
        ("none", (socket.AF_UNIX, 2 | 0x80800, 0), ALLOW),
        ("none", (socket.AF_UNIX, 3, 0), FORBIDDEN),
        ("none", (socket.AF_INET, 1, 0), NO_FAMILY),
        ("none", (socket.AF_INET6, 2, 0), NO_FAMILY),
        ("loopback", (socket.AF_INET, 1, 6), ALLOW),
        ("loopback", (socket.AF_INET6, 2 | 0x80800, 17), ALLOW),
        ("host", (socket.AF_INET, 3, 1), FORBIDDEN),  # raw
        ("host", (socket.AF_INET, 10, 0), FORBIDDEN),  # SOCK_PACKET
        ("host", (socket.AF_INET, 1, 132), refuse(errno.EPROTONOSUPPORT)),  # SCTP
        ("host", (socket.AF_INET, 2, 1), refuse(errno.EPROTONOSUPPORT)),  # ping
        ("host", (socket.AF_INET, 1, 17), refuse(errno.EPROTONOSUPPORT)),
        ("none", (socket.AF_NETLINK, 3, 0), NO_FAMILY),
        ("loopback", (socket.AF_NETLINK, 3, 0), refuse(errno.EOPNOTSUPP)),
        ("host", (socket.AF_NETLINK, 3, 0), refuse(errno.EOPNOTSUPP)),
        ("host", (socket.AF_PACKET, 3, 0), NO_FAMILY),
        ("host", (socket.AF_VSOCK, 1, 0), NO_FAMILY),
        ("host", (socket.AF_ALG, 5, 0), NO_FAMILY),
        ("host", (45, 1, 0), NO_FAMILY),
    ],
)
def test_a_jail_has_the_sockets_of_its_network(machine, network, arguments, expected):
    assert expected == verdict(network, "jail", "socket", *arguments, machine=machine)


@pytest.mark.parametrize("network", NETWORKS)
def test_without_namespaces_there_are_no_unix_sockets_but_connected_pairs(network):
    """A pair of datagram sockets may each still send to any path of the host."""
    assert NO_FAMILY == verdict(network, "landlock", "socket", socket.AF_UNIX, 1, 0)
    assert ALLOW == verdict(network, "landlock", "socketpair", socket.AF_UNIX, 1 | 0x80000, 0)
    assert FORBIDDEN == verdict(network, "landlock", "socketpair", socket.AF_UNIX, 2, 0)
    assert FORBIDDEN == verdict(network, "landlock", "socketpair", socket.AF_UNIX, 3, 0)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (0x11, ALLOW),  # fork
        (0x4111, ALLOW),  # vfork
        (0x3D0F00, ALLOW),  # a thread
        *((1 << bit | 0x11, FORBIDDEN) for bit in (17, 25, 26, 27, 28, 29, 30)),
        (0x8011, FORBIDDEN),  # a sibling
    ],
)
def test_a_guest_forks_into_no_namespace(flags, expected):
    assert expected == verdict("none", "jail", "clone", flags)


@pytest.mark.parametrize(("level", "option"), [(0, 64), (0, 0xFFFFFFFF), (41, 64), (41, 80)])
@pytest.mark.parametrize("name", ["setsockopt", "getsockopt"])
def test_the_packet_filter_is_not_reached_through_socket_options(name, level, option):
    assert refuse(errno.ENOPROTOOPT) == verdict("host", "jail", name, 3, level, option)


def test_ordinary_socket_options_are_left_alone():
    for level, option in ((0, 1), (41, 26), (socket.SOL_SOCKET, 70), (6, 1)):
        assert ALLOW == verdict("host", "jail", "setsockopt", 3, level, option)


def test_only_oneself_can_be_slowed_where_others_can_be_named():
    assert ALLOW == verdict("none", "landlock", "setpriority", 0, 0, 10)
    assert FORBIDDEN == verdict("none", "landlock", "setpriority", 0, 17, 10)
    assert FORBIDDEN == verdict("none", "landlock", "setpriority", 2, 0, 10)
    assert ALLOW == verdict("none", "landlock", "prlimit64", 0, 7)
    assert FORBIDDEN == verdict("none", "landlock", "prlimit64", 17, 7)


@pytest.mark.parametrize("rung", ["jail", "landlock"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("fchmod", (3, 0o4755)),
        ("fchmodat", (-100, 0, 0o2755)),
        ("fchmodat2", (-100, 0, 0o6755, 0)),
        ("mknodat", (-100, 0, 0o104755, 0)),
        ("openat", (-100, 0, os.O_CREAT | os.O_WRONLY, 0o4755)),
        ("openat", (-100, 0, os.O_TMPFILE | os.O_WRONLY, 0o4755)),
    ],
)
def test_nothing_that_runs_as_its_owner_is_left_in_a_folder_of_the_hosts(rung, name, arguments):
    assert FORBIDDEN == verdict("none", rung, name, *arguments, shares=True)


def test_a_mode_is_not_looked_at_where_no_file_is_made():
    assert ALLOW == verdict("none", "jail", "openat", -100, 0, os.O_RDONLY, 0o7777, shares=True)
    assert ALLOW == verdict("none", "jail", "fchmodat", -100, 0, 0o1755, shares=True)


def test_memory_that_a_watchdog_cannot_see_is_refused_where_only_a_watchdog_looks():
    assert ALLOW == verdict("none", "jail", "memfd_create")
    assert ABSENT == verdict("none", "jail", "memfd_create", memory_enforced=False)
    assert ABSENT == verdict("none", "jail", "shmget", memory_enforced=False)


# What other people's programs cannot do without; lists of the forbidden have hit some before.
NEEDED = """
    rseq set_robust_list membarrier mprotect execve execveat futex futex_wait memfd_create prctl
    arch_prctl seccomp landlock_restrict_self statx getrandom kill tgkill pidfd_open shmget
    fchmodat2 mseal copy_file_range splice name_to_handle_at sched_getaffinity setsid prlimit64
    map_shadow_stack rseq_slice_yield uretprobe timer_create chmod
"""


def test_ordinary_calls_are_allowed_in_a_jail():
    refused = [name for name in NEEDED.split() if verdict("none", "jail", name) != ALLOW]

    assert [] == refused


def jailed(network="none", rung="jail"):
    packed = seccomp.inner_filter(HERE, network, rung)
    return lambda: syscalls.seccomp(packed)


def served():
    syscalls.seccomp(seccomp.outer_filter(HERE))


def number(name):
    return NUMBERS[HERE][name]


NEWUSER = 0x10000000
ATTEMPTS = {
    "netlink": (lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW), "EAFNOSUPPORT"),
    "vsock": (lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM), "EAFNOSUPPORT"),
    "alg": (lambda: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET), "EAFNOSUPPORT"),
    "packet": (lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW), "EAFNOSUPPORT"),
    "internet": (lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM), "EAFNOSUPPORT"),
    "unix": (lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).close(), "ok"),
    "unshare": (lambda: call(number("unshare"), NEWUSER), "EPERM"),
    "clone": (lambda: call(number("clone"), NEWUSER | 17, 0, 0, 0, 0), "EPERM"),
    "sibling": (lambda: call(number("clone"), 0x8000 | 17, 0, 0, 0, 0), "EPERM"),
    "clone3": (lambda: call(number("clone3"), 0, 0), "ENOSYS"),
    "setns": (lambda: call(number("setns"), 0, 0), "EPERM"),
    "mount": (lambda: call(number("mount"), 0, 0, 0, 0, 0), "EPERM"),
    "fsopen": (lambda: call(number("fsopen"), 0, 0), "ENOSYS"),
    "keyctl": (lambda: call(number("keyctl"), 0, -3, 0), "EPERM"),
    "ptrace": (lambda: call(number("ptrace"), 0, 0, 0, 0), "EPERM"),
    "bpf": (lambda: call(number("bpf"), 0, 0, 0), "EPERM"),
    "io_uring": (lambda: call(number("io_uring_setup"), 1, 0), "ENOSYS"),
    "userfaultfd": (lambda: call(number("userfaultfd"), 1), "EPERM"),
    "perf": (lambda: call(number("perf_event_open"), 0, 0, 0, 0, 0), "EPERM"),
    "personality": (lambda: call(number("personality"), 0x0040000), "EPERM"),
    "query": (lambda: call(number("personality"), 0xFFFFFFFF), "ok"),
    "cores": (lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)), "EPERM"),
    "unknown": (lambda: call(10_000), "ENOSYS"),
    "no call": (lambda: call(-1), "ENOSYS"),
}


@pytest.mark.parametrize(("attempt", "expected"), ATTEMPTS.values(), ids=ATTEMPTS)
def test_in_a_jail(attempt, expected):
    assert expected == behind(jailed(), attempt)


def test_high_halves_do_not_smuggle_a_flag_past():
    """The kernel reads the lower half of clone's flags; so do we, whatever is above."""
    flags = 0x5A5A << 32 | NEWUSER | 17

    assert "EPERM" == behind(jailed(), lambda: call(number("clone"), flags, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("network", "expected"), [("none", "EAFNOSUPPORT"), ("loopback", "ok"), ("host", "ok")]
)
def test_internet_sockets_come_with_a_network(network, expected):
    def attempt():
        for family in (socket.AF_INET, socket.AF_INET6):
            socket.socket(family, socket.SOCK_DGRAM).close()

    assert expected == behind(jailed(network), attempt)


def test_no_rule_of_the_packet_filter_is_read():
    def attempt():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.getsockopt(socket.IPPROTO_IP, 64, 84)

    assert "ENOPROTOOPT" == behind(jailed("host"), attempt)


@on_x86
def test_the_x32_form_of_a_call_kills():
    assert "SIGSYS" == behind(jailed(), lambda: call(X32 | 39))


@on_x86
def test_a_call_through_the_32_bit_gate_kills():
    """`mov eax, 20; int 0x80; ret`: getpid of i386, from a 64-bit process."""

    def attempt():
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(bytes.fromhex("b814000000cd80c3"))
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()

    ended = behind(jailed(), attempt)

    # SIGSEGV: this kernel has no such gate at all.
    assert ended in {"SIGSYS", "SIGSEGV"}


def test_the_fork_server_may_still_build_walls():
    program = Program(seccomp.outer_filter(HERE))
    needed = (
        "mount umount2 pivot_root unshare setns clone open_tree move_mount mount_setattr fsopen "
        "fsconfig fsmount fspick capset prctl seccomp landlock_create_ruleset setresuid"
    )

    assert {ALLOW} == {
        program.run({0: number(name), 4: ARCHITECTURE[HERE], 16: 0x7E020011, 24: 0x8914})
        for name in needed.split()
    }
    assert "ok" == behind(served, lambda: call(number("unshare"), 0))
    assert "ok" == behind(served, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close())


@pytest.mark.parametrize("name", ["netlink", "vsock", "alg", "packet", "keyctl", "bpf", "io_uring"])
def test_the_fork_server_is_refused_what_no_wall_needs(name):
    attempt, expected = ATTEMPTS[name]

    assert expected == behind(served, attempt)


def test_both_filters_stand_one_behind_the_other():
    def confine():
        served()
        jailed()()

    assert "EPERM" == behind(confine, ATTEMPTS["mount"][0])
    assert "ok" == behind(confine, ATTEMPTS["unix"][0])


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: os.chmod("/", 0o755),
        lambda: os.utime("/"),
        lambda: os.truncate("/nowhere", 0),
        lambda: os.setpriority(os.PRIO_USER, 0, 0),
        lambda: call(number("shmget"), 0, 4096, 0o1600),
        lambda: call(number("mq_open"), 0, 0, 0, 0),
        lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)),
        lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
    ],
    ids=["chmod", "utime", "truncate", "renice", "shmget", "mq_open", "scheduler", "datagrams"],
)
def test_without_namespaces_what_reaches_others_is_refused(attempt):
    assert "EPERM" == behind(jailed(rung="landlock"), attempt)


ORDINARY = """
import asyncio, concurrent.futures, ctypes, multiprocessing as mp, os, pathlib, shutil, signal
import socket, sqlite3, ssl, subprocess, sys, tempfile, threading, time, uuid
from multiprocessing import shared_memory

assert "hi" == subprocess.run(["echo", "hi"], capture_output=True, text=True).stdout.strip()
subprocess.run([sys.executable, "-I", "-S", "-c", ""], start_new_session=True, check=True)
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert [0, 1, 4] == list(pool.map(lambda n: n * n, range(3)))
fork = mp.get_context("fork")
queue = fork.Queue()
child = fork.Process(target=queue.put, args=(42,))
child.start()
assert 42 == queue.get()
child.join()
with fork.Pool(2) as pool:
    assert [1, 2] == pool.map(abs, [-1, -2])
memory = shared_memory.SharedMemory(create=True, size=4096)
memory.buf[0] = 7
memory.close()
memory.unlink()

async def main():
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    out, _ = await process.communicate(b"through")
    return out, await asyncio.to_thread(os.getpid)
assert (b"through", os.getpid()) == asyncio.run(main())

with tempfile.TemporaryDirectory() as folder:
    base = sqlite3.connect(os.path.join(folder, "base"))
    base.execute("pragma journal_mode=wal")
    base.execute("create table t(n)")
    base.close()
    path = pathlib.Path(folder, "file")
    path.write_text("text")
    MORE
ssl.create_default_context()
uuid.uuid1()
os.cpu_count(), os.nice(1), time.get_clock_info("monotonic"), signal.alarm(0), os.urandom(8)
ctypes.CDLL(None).getpid()
print("all", file=sys.stdout)
"""
# Files of one's own: modes and times, copies that keep them, sockets with a name.
JAIL_ONLY = """
    shutil.copy2(path, path.with_suffix(".copy"))
    path.chmod(0o600)
    os.truncate(path, 1)
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.path.join(folder, "socket"))
    with mp.Manager() as manager:
        assert [1] == list(manager.list([1]))
"""


@pytest.mark.parametrize(("rung", "more"), [("jail", JAIL_ONLY.strip()), ("landlock", "pass")])
def test_ordinary_programs_do_not_notice(rung, more):
    """Processes, threads, queues, pools, shared memory, event loops, data bases, certificates."""
    run = subprocess.run(
        [sys.executable, "-I", "-c", ORDINARY.replace("MORE", more)],
        preexec_fn=lambda: (
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1),
            jailed(rung=rung)(),
        ),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert ("all\n", "") == (run.stdout, run.stderr)


def test_arguments_are_read_where_the_kernel_puts_them():
    assert [16, 24, 32] == [argument(n).offset for n in range(3)]
