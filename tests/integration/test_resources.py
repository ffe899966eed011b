"""Resources as their users meet them: workers that functions share, and GPUs if there are some."""

import ctypes
import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, cast

import pytest

import saggar
from saggar import GpuGroup, LiveServerless
from saggar.drivers import gpu
from saggar.drivers.jail import landlock
from saggar.errors import DriverUnavailable
from saggar.functions import pools
from saggar.functions.errors import RemoteTimeout
from saggar.platform import background

DOCUMENTED = LiveServerless(
    name="my-endpoint",
    gpus=[GpuGroup.ANY],
    workersMax=5,
    workersMin=0,
    idleTimeout=5,
    executionTimeoutMs=600000,
)
ALONE = LiveServerless(name="alone", gpus=None, workersMax=1, workersMin=1)
NONE_HERE = pytest.mark.skipif(bool(gpu.look().nodes), reason="this machine has a GPU")


def lasting(seconds):
    """When a call began and when it ended, by a clock that all sandboxes share."""
    began = time.monotonic()
    time.sleep(seconds)
    return began, time.monotonic()


def one_after_the_other(spans):
    ordered = sorted(spans)
    return all(ended <= began for (_, ended), (began, _) in pairwise(ordered))


@NONE_HERE
def test_the_documents_own_resource_runs_on_a_machine_without_a_gpu(caplog):
    caplog.set_level(logging.INFO, logger="saggar.functions.resources")

    @saggar.remote(DOCUMENTED, dependencies=[], accelerate_downloads=True)
    def doubled(x: int) -> int:
        return 2 * x

    assert [0, 2, 4, 6] == list(doubled.map(range(4)))
    assert "my-endpoint runs without a GPU: there is no /dev/nvidiactl" in caplog.text


@NONE_HERE
@pytest.mark.parametrize(
    "asked",
    [
        {"gpu": 1},
        {"resource_config": DOCUMENTED, "gpu": 1},
        {"resource_config": LiveServerless(name="x", gpus=[GpuGroup.ADA_24])},
    ],
)
def test_a_gpu_that_is_asked_for_is_refused_before_anything_is_prepared(asked):
    remote: Any = saggar.remote(**asked, dependencies=["there-is-no-such-package-of-ours"])

    with pytest.raises(DriverUnavailable, match="gpu=1 cannot be had here: there is no /dev/nvid"):
        remote(lasting)(0)
    with pytest.raises(DriverUnavailable, match="gpu=1 cannot be had here"):
        saggar.open_sandbox(policy=saggar.Policy(gpu=1))


def test_two_functions_of_one_resource_share_its_one_worker():
    first = saggar.remote(ALONE)(lasting)

    @saggar.remote(resource_config=ALONE)
    def second(seconds):
        return lasting(seconds)

    with ThreadPoolExecutor(4) as callers:
        begun = [callers.submit(function, 0.1) for function in (first, second, first, second)]
        spans = [one.result(30) for one in begun]

    assert 4 == len(spans)
    assert one_after_the_other(spans)


def test_a_stream_holds_its_worker_until_it_ends():
    @saggar.remote(ALONE)
    def counted():
        n = 0
        while True:
            yield (n := n + 1)

    async def taken():
        return pools.of(ALONE).borrowed_tokens

    stream = counted.stream()
    first, during = next(stream), background().call(taken)
    cast("Any", stream).close()
    after = background().call(taken)

    assert 1 == first
    assert (1, 0) == (during, after)


def test_a_loop_over_a_stream_may_call_what_has_the_same_only_worker():
    """It waits until the stream's time is over, and not for ever."""

    @saggar.remote(ALONE, timeout=1)
    def endless():
        while True:
            yield b"clay" * 10_000

    @saggar.remote(ALONE)
    def length(data):
        return len(data)

    found: list[int] = []
    with pytest.raises(RemoteTimeout):
        found.extend(length(data) for data in endless.stream())

    assert found
    assert {40_000} == set(found)


def test_a_class_has_its_turn_for_each_call_and_ends_with_the_idle_time():
    class Sum:
        def __init__(self, start):
            self.total = start

        def add(self, x):
            self.total += x
            return self.total

    made: Any = saggar.remote(ALONE, dependencies=[])(Sum)
    with made(1) as one, made(10) as other:
        found = [one.add(1), other.add(1), one.add(1)]

        assert [2, 11, 3] == found
        assert 300 == one._said.idle


def test_a_resource_of_a_module_means_nothing_inside(tmp_path, monkeypatch):
    (tmp_path / "workers_of_ours.py").write_text(
        "from saggar import GpuGroup, LiveServerless, remote\n"
        "config = LiveServerless(name='x', gpus=[GpuGroup.ANY])\n"
        "@remote(config, dependencies=['six'])\n"
        "def inner(x):\n"
        "    return x + 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    @saggar.remote(ALONE)
    def outer(x):
        import workers_of_ours  # type: ignore[import-not-found]

        return workers_of_ours.inner(x)

    assert 2 == outer(1)


LOOKING = """
import ctypes, errno, fcntl, json, os, threading

def failing(do):
    try:
        do()
    except OSError as exc:
        return errno.errorcode[exc.errno]

def written(path):
    def do():
        with open(path, "r+") as file:
            file.write("x")
    return failing(do)

def told(device):
    return failing(lambda: fcntl.ioctl(os.open(device, os.O_RDWR), 0x80044605))

def named():
    found["thread"] = written(f"/proc/self/task/{threading.get_native_id()}/comm")

found = {"steered": told("/dev/full"), "other": told("/dev/null")}
thread = threading.Thread(target=named)
thread.start()
thread.join()
ours = ("/proc/sys/kernel/hostname", "/proc/sys/user/max_user_namespaces", "/proc/self/uid_map")
found["written"] = [path for path in (*ours, "/proc/1/comm", "/proc/1/mem") if not written(path)]
sealed = os.statvfs("/sys/devices/system/cpu").f_flag & os.ST_RDONLY
found["sys"] = bool(sealed), os.listdir("/sys/devices/system")
found["libraries"] = sorted(os.listdir("/opt/nvidia/lib"))
ctypes.CDLL("libcuda.so.1")
print(json.dumps(found))
"""


def test_what_a_gpu_opens_of_a_jail_and_what_it_does_not(monkeypatch):
    """Of a machine without one: what every machine has stands for what is shown of it."""
    folders = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64")
    library = next(filter(os.path.exists, (f"{folder}/libm.so.6" for folder in folders)))
    shown = gpu.Passage(
        cards=(gpu.Card(0),),
        devices=("/dev/full",),
        libraries=(("/opt/nvidia/lib/libcuda.so.1", os.path.realpath(library)),),
        folders=("/sys/devices/system/cpu",),
        links=(("/opt/nvidia/lib/libcuda.so", "libcuda.so.1"),),
    )
    monkeypatch.setattr(gpu, "passage", lambda _machine, _count: shown)

    result = saggar.run(LOOKING, policy=saggar.Policy(gpu=1))

    assert {
        "steered": "ENOTTY",
        "other": "EACCES" if landlock.abi() >= 5 else "ENOTTY",
        "thread": None,
        "written": [],
        "sys": [True, ["cpu"]],
        "libraries": ["libcuda.so", "libcuda.so.1"],
    } == json.loads(result.stdout), result.stderr


def computed():
    """Through the driver alone: what it counts, and a million bytes to the GPU and back."""
    cuda = ctypes.CDLL("libcuda.so.1")

    def done(status):
        if status:
            raise RuntimeError(f"CUDA says {status}")

    done(cuda.cuInit(0))
    count, device, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
    done(cuda.cuDeviceGetCount(ctypes.byref(count)))
    done(cuda.cuDeviceGet(ctypes.byref(device), 0))
    done(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
    done(cuda.cuCtxSetCurrent(context))
    place, size = ctypes.c_uint64(), ctypes.c_size_t(1_000_000)
    back = ctypes.create_string_buffer(size.value)
    done(cuda.cuMemAlloc_v2(ctypes.byref(place), size))
    done(cuda.cuMemsetD8_v2(place, ctypes.c_ubyte(7), size))
    done(cuda.cuMemcpyDtoH_v2(back, place, size))
    return count.value, back.raw == bytes([7]) * size.value


LIMITS = {"memory": "4GiB", "processes": 512, "wall": 50, "cpu": 50}


@pytest.mark.gpu
def test_a_gpu_computes_behind_a_jails_walls():
    assert (1, True) == saggar.remote(gpu=1, limits=LIMITS)(computed)()


@pytest.mark.gpu
@pytest.mark.needs("docker")
def test_a_gpu_computes_in_a_container():
    assert (1, True) == saggar.remote(gpu=1, limits=LIMITS, driver="docker")(computed)()
