import os
import resource
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.drivers.jail.confined import behind

from saggar.drivers.jail import rlimits as numbers
from saggar.drivers.jail.rlimits import rlimits
from saggar.model.limits import Limits

MIB = 1 << 20
NAMES = [
    name
    for name, value in vars(numbers).items()
    if isinstance(value, int) and name.isupper() and not name.startswith("_")
]


def found(limits=None, *, memory=True, processes=True, own_uid=True):
    """By resource, its soft and hard limit."""
    chosen = rlimits(
        limits or Limits(), memory_enforced=memory, processes_enforced=processes, own_uid=own_uid
    )
    return {number: (soft, hard) for number, soft, hard in (*numbers.FIXED, *chosen)}


def test_the_numbers_are_the_kernels():
    known = {name: getattr(resource, f"RLIMIT_{name}") for name in NAMES}

    assert known == {name: getattr(numbers, name) for name in NAMES}
    assert 13 == len(NAMES)


def test_every_limit_that_a_process_has_is_a_limit_of_the_task():
    limits = found(Limits(open_files=77, file_size="3MiB", cpu=2, processes=9), processes=False)

    assert (77, 77) == limits[resource.RLIMIT_NOFILE]
    assert (3 * MIB, 3 * MIB) == limits[resource.RLIMIT_FSIZE]
    assert (2, 3) == limits[resource.RLIMIT_CPU]
    assert (9, 9) == limits[resource.RLIMIT_NPROC]


@pytest.mark.parametrize(("cpu", "soft"), [(0.1, 1), (1, 1), (1.2, 2), (10, 10)])
def test_part_of_a_second_of_cpu_is_rounded_up(cpu, soft):
    """The kernel counts whole seconds; the engine's own clock is the finer one."""
    assert (soft, soft + 1) == found(Limits(cpu=cpu))[resource.RLIMIT_CPU]


def test_a_cgroup_is_the_first_to_refuse_a_fork():
    """It counts what it refuses; the kernel tells nobody about the other refusal."""
    assert found(Limits(processes=64), processes=True)[resource.RLIMIT_NPROC][0] > 64
    assert 64 == found(Limits(processes=64), processes=False)[resource.RLIMIT_NPROC][0]


def test_processes_are_not_counted_by_a_user_id_that_others_have_too():
    assert resource.RLIMIT_NPROC not in found(own_uid=False)


def test_memory_is_left_to_the_cgroup_where_there_is_one():
    limits = found(Limits(memory="256MiB"), memory=True)

    assert resource.RLIMIT_AS not in limits
    assert resource.RLIMIT_DATA not in limits


def test_without_a_cgroup_one_process_cannot_run_away_between_two_looks():
    limits = found(Limits(memory="256MiB"), memory=False)

    assert 512 * MIB == limits[resource.RLIMIT_DATA][0]
    assert limits[resource.RLIMIT_AS][0] > limits[resource.RLIMIT_DATA][0]


@given(
    memory=st.integers(MIB, 1 << 44),
    cpu=st.floats(0.01, 600_000),
    processes=st.integers(1, 1 << 22),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_whatever_the_task_asks_for_every_limit_is_one_the_kernel_takes(
    memory, cpu, processes, flags
):
    has_memory, has_processes, own_uid = flags
    chosen = rlimits(
        Limits(memory=memory, cpu=cpu, processes=processes),
        memory_enforced=has_memory,
        processes_enforced=has_processes,
        own_uid=own_uid,
    )

    assert len(chosen) == len({number for number, *_ in chosen})
    assert all(0 <= soft <= hard < 1 << 63 for _, soft, hard in chosen)


def confined(limits, **kept):
    def confine():
        for number, (soft, hard) in found(limits, **kept).items():
            inherited = resource.getrlimit(number)[1]
            most = hard if inherited == resource.RLIM_INFINITY else min(hard, inherited)
            resource.setrlimit(number, (min(soft, most), most))

    return confine


def test_no_file_grows_past_its_limit(tmp_path):
    def attempt():
        with open(tmp_path / "file", "wb") as file:
            file.write(bytes(3 * MIB))

    assert "EFBIG" == behind(confined(Limits(file_size="1MiB")), attempt)


def test_files_stay_closed_past_their_number():
    assert "EMFILE" == behind(
        confined(Limits(open_files=16)), lambda: [os.pipe() for _ in range(16)]
    )


def test_a_crash_leaves_no_core():
    assert (0, 0) == found()[resource.RLIMIT_CORE]


def test_a_program_that_never_stops_is_told_why():
    def attempt():
        # The soft limit is the one that speaks; a second of it is enough for a test.
        while True:
            pass

    assert "SIGXCPU" == behind(confined(Limits(cpu=0.5)), attempt)


def test_without_a_cgroup_too_much_memory_at_once_is_refused():
    def attempt():
        try:
            bytearray(512 * MIB)
        except MemoryError as exc:
            raise OSError(12, "no memory") from exc

    assert "ENOMEM" == behind(confined(Limits(memory="64MiB"), memory=False), attempt)


def test_without_a_cgroup_ordinary_threads_still_start():
    """A stack is reserved for each, and hardly any of it is used."""

    def attempt():
        import threading

        threads = [threading.Thread(target=signal.sigpending) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert "ok" == behind(confined(Limits(memory="256MiB"), memory=False), attempt)


def test_a_deep_recursion_may_ask_for_a_larger_stack():
    soft, hard = found(Limits(memory="256MiB"))[resource.RLIMIT_STACK]

    assert (8 * MIB, 256 * MIB) == (soft, hard)


def test_a_gpus_driver_takes_address_space_as_it_needs():
    def kinds(**said):
        found = rlimits(Limits(), memory_enforced=False, processes_enforced=True, **said)
        return {one[0] for one in found}

    assert {numbers.AS} == kinds() - kinds(gpu=True)
    assert numbers.DATA in kinds(gpu=True)
