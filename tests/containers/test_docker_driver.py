"""
The docker driver against a real engine: what the suites for every driver do not ask.

Needs an engine and the python runner's image (`make build-runner-python`).
"""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import asynccontextmanager

import anyio
import pytest
from tests.containers.engines import engine_with

from saggar import Environment, InvalidTask, Limits, Platform, Policy, PolicyDenied, PrepareFailed
from saggar.config import Settings
from saggar.drivers.docker import DockerDriver, owners
from saggar.drivers.docker import engine as engine_module
from saggar.drivers.docker import nursery as module_nursery
from saggar.drivers.docker import spec as module
from saggar.drivers.docker.engine import LABEL, Engine
from saggar.drivers.docker.owners import owner
from saggar.drivers.docker.promises import without_gpu
from saggar.drivers.jail import landlock
from saggar.engine import oneshot
from saggar.errors import DriverUnavailable, SandboxBroken
from saggar.model.event import Output, afold
from saggar.model.plan import Plan, WarmKey
from saggar.model.program import Command
from saggar.model.result import Status
from saggar.model.task import Task

IMAGE = "saggar/runner-python:latest"
EMPTY = "saggar-test/empty:latest"
SOON = 20.0
needs_landlock = pytest.mark.skipif(not landlock.abi(), reason="no Landlock in this kernel")


@pytest.fixture(scope="module")
def engine():
    with engine_with(IMAGE) as found:
        yield found


@pytest.fixture
async def platform(engine):
    async with Platform(Settings(driver="docker", warm=1)) as opened:
        yield opened


@asynccontextmanager
async def nursery(policy=None, **key):
    driver = DockerDriver()
    try:
        async with driver.nursery(WarmKey("", "", **key), policy or Policy(), ()) as opened:
            yield opened
    finally:
        driver.close()


def ours(engine, name=None):
    """The containers of a host's, by default of this process."""
    return [one for one, said in engine.labelled(LABEL).items() if said == (name or owner())]


def until(holds):
    """What the engine does by itself it does soon."""
    end = time.monotonic() + SOON
    while not holds():
        assert time.monotonic() < end
        os.sched_yield()


@pytest.fixture(scope="module")
def empty_image(engine):
    """An image with nothing in it but a file: no interpreter, no loader, no shell."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("nothing"))
    subprocess.run(
        ["docker", "import", "-", EMPTY], input=file.getvalue(), check=True, capture_output=True
    )
    yield EMPTY
    subprocess.run(["docker", "rmi", "-f", EMPTY], check=True, capture_output=True)


async def test_a_program_runs_in_a_container(platform):
    result = await platform.run("print(6 * 7)")

    assert (Status.OK, "42\n", "container") == (result.status, result.stdout, result.isolation)


async def test_nothing_of_the_images_root_can_be_written(platform):
    code = """
import os
for folder in ("/", "/etc", "/usr/bin", "/app", "/var/tmp", "/run", "/dev"):
    try:
        open(f"{folder}/mark", "w")
        print(folder)
    except OSError:
        pass
"""

    assert "" == (await platform.run(code)).stdout


async def test_it_runs_as_an_ordinary_user_without_a_capability(platform):
    code = """
import os
print(os.getuid(), os.getgid())
lines = [line.split() for line in open("/proc/self/status")]
status = {words[0][:-1]: words[-1] for words in lines}
print(status["CapEff"], status["CapBnd"], status["NoNewPrivs"], status["Seccomp"])
"""

    assert "1000 1000\n" + "0" * 16 + " " + "0" * 16 + " 1 2\n" == (await platform.run(code)).stdout


async def test_a_warm_run_does_not_pay_for_a_start(platform, engine):
    await platform.run("pass")
    until(lambda: 1 <= len(ours(engine)))
    walls = []
    for _ in range(3):
        start = time.monotonic()
        await platform.run("pass")
        walls.append(time.monotonic() - start)

    assert min(walls) < 2


async def test_every_run_has_a_container_of_its_own(platform):
    code = "import os; print(os.path.exists('mark')); open('mark', 'w')"

    assert ["False\n"] * 3 == [(await platform.run(code)).stdout for _ in range(3)]


async def test_files_come_back_when_the_container_is_dead(platform):
    result = await platform.run("open('out.txt', 'w').write('kept')", collect="*.txt")

    assert [("out.txt", b"kept")] == [(file.path, file.content) for file in result.files]


async def test_an_image_without_anything_in_it_runs_python(platform, empty_image):
    """This machine's own interpreter, started through this machine's own loader."""
    result = await platform.run(
        "import sys, ssl, ctypes; print(sys.version_info[:2])",
        environment=Environment(image=empty_image),
        policy=Policy(images=(empty_image,)),
    )

    assert f"{sys.version_info[:2]}\n" == result.stdout, result.stderr


async def test_what_does_not_exist_in_an_image_cannot_be_run(platform, empty_image):
    result = await platform.run(
        Command(argv=("sh", "-c", "true")),
        environment=Environment(image=empty_image),
        policy=Policy(images=(empty_image,)),
    )

    assert (Status.ERROR, 127) == (result.status, result.exit_code)


async def test_a_script_whose_runtime_an_image_lacks_says_which_and_where(platform, empty_image):
    with pytest.raises(DriverUnavailable, match=f"bash is not in the image {empty_image}"):
        await platform.run(
            "echo hello",
            language="bash",
            environment=Environment(image=empty_image),
            policy=Policy(images=(empty_image,)),
        )


async def test_a_folder_to_work_in_that_an_image_lacks_is_named(platform):
    result = await platform.run(
        Command(argv=()), environment=Environment(workdir="/no/such/folder")
    )

    assert (Status.ERROR, 1) == (result.status, result.exit_code)
    assert "cannot work in /no/such/folder" in result.error.message


async def test_an_image_that_the_policy_does_not_name_is_refused(platform):
    with pytest.raises(PolicyDenied, match="other/image was asked for"):
        await platform.run("pass", environment=Environment(image="other/image"))


async def test_an_image_that_is_not_here_is_told_with_how_to_get_it(platform):
    with pytest.raises(PrepareFailed, match="make build-runner-nothing"):
        await platform.run(
            "pass",
            environment=Environment(image="saggar/runner-nothing"),
            policy=Policy(images=("saggar/runner-nothing",)),
        )


async def test_an_images_own_command_is_run_where_it_wants_to_be(engine):
    """The python runner's: it answers a document that is none, in /app."""
    image = engine.image(IMAGE)
    async with nursery() as opened:
        process = await opened.park()
        try:
            assert (image.argv, image.cwd) == process.entrypoint
            run = oneshot.run(process, Task.of("", stdin=b"not json"), Plan(argv=()), Limits())
            result = await afold(run)
        finally:
            process.release()

    assert '"ok"' in result.stdout


async def test_packages_for_another_python_are_refused(platform):
    with pytest.raises(InvalidTask, match="RUN pip install"):
        await platform.run(
            "pass", environment=Environment.host(), policy=Policy(host_packages=True)
        )


async def test_a_limit_the_engine_does_not_take_is_refused(platform):
    with pytest.raises(DriverUnavailable, match="cannot make this container"):
        await platform.run("pass", limits={"memory": "2MiB"})


async def test_a_stronger_wall_is_refused(platform):
    with pytest.raises(DriverUnavailable, match="reaches 'container' at most"):
        await platform.run("pass", policy=Policy(isolation="gvisor"))


async def test_what_cannot_be_preloaded_is_told(platform):
    with pytest.raises(SandboxBroken, match="No module named 'no_such_module'"):
        await platform.run("pass", environment=Environment(preload=("no_such_module",)))


async def test_what_was_preloaded_is_there(platform):
    result = await platform.run(
        "import sys; print('colorsys' in sys.modules)",
        environment=Environment(preload=("colorsys",)),
    )

    assert "True\n" == result.stdout


async def test_a_container_that_ends_before_it_speaks_is_told(engine, monkeypatch):
    """Its interpreter is none: nobody waits a minute for somebody who will not come."""
    monkeypatch.setattr(module, "PRELUDE", "raise SystemExit(3)\n")
    async with nursery() as opened:
        with pytest.raises(SandboxBroken, match="before its pid 1 had said a word"):
            await opened.park()

    until(lambda: not ours(engine))


async def test_an_image_takes_this_driver():
    async with Platform() as platform:
        with pytest.raises(DriverUnavailable, match="takes driver='docker'"):
            await platform.run(
                "pass", driver="jail", environment=Environment(image="saggar/runner-python")
            )


async def test_who_gives_up_early_leaves_a_child_for_the_next_one(engine):
    async with nursery() as opened:
        with anyio.move_on_after(0.001):
            await opened.park()
        process = await opened.park()
        process.release()

        assert 1 == opened.born


async def test_of_many_who_give_up_a_few_children_stay(engine):
    async with nursery() as opened:
        processes = []
        async with anyio.create_task_group() as tasks:
            for _ in range(5):

                async def take():
                    processes.append(await opened.park())

                tasks.start_soon(take)
        for process in processes:
            opened._save(process)

        assert module_nursery.SPARE == sum(process.waits() for process in processes)
        until(lambda: module_nursery.SPARE >= len(ours(engine)))


class Deaf:
    """Between us and the engine: what is asked gets there, and the answer to some of it is lost."""

    def __init__(self, folder, engine, asked):
        self.path, self._engine, self._asked = f"{folder}/proxy.sock", engine, asked
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self.deaf = True
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            ours, _ = self._listener.accept()
            theirs = socket.socket(socket.AF_UNIX)
            theirs.connect(self._engine.address.removeprefix("unix://"))
            lost: list[bytes] = []
            threading.Thread(
                target=self._carry, args=(ours, theirs, lost, True), daemon=True
            ).start()
            threading.Thread(
                target=self._carry, args=(theirs, ours, lost, False), daemon=True
            ).start()

    def _carry(self, source, target, lost, asking):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if asking and self.deaf and self._asked in data.split(b"\r\n")[0]:
                    lost.append(data)
                if asking or not lost:
                    target.sendall(data)


def test_a_container_that_was_made_after_we_gave_up_is_removed_with_the_next(
    engine, monkeypatch, tmp_path
):
    monkeypatch.setattr(engine_module, "PATIENCE", 1)
    deaf = Deaf(tmp_path, engine, b"/containers/create")
    slow = Engine(f"unix://{deaf.path}")
    name = f"0.{owner().partition('.')[2]}"
    wanted = {"Image": IMAGE, "Labels": {LABEL: name}}
    with pytest.raises(DriverUnavailable, match="no container engine answers"):
        slow.create(wanted)
    lost = ours(engine, name)
    deaf.deaf = False
    made = slow.create(wanted)

    assert 1 == len(lost)
    assert [made] == ours(engine, name)
    slow.remove(made)
    slow.close()


async def test_containers_end_with_their_nursery(engine):
    async with nursery() as opened:
        process = await opened.park()

        assert process.waits()

    until(lambda: not ours(engine))


async def test_a_killed_run_leaves_no_container(platform, engine):
    result = await platform.run("import time; time.sleep(60)", limits={"wall": 0.3, "grace": 0.2})

    assert (Status.TIMEOUT, "wall") == (result.status, result.limit)
    until(lambda: len(ours(engine)) <= 2)  # the one that is kept warm, and one on its way


HOST = """
import anyio, os
from saggar import Platform
from saggar.config import Settings
from saggar.drivers.docker.owners import owner
from saggar.drivers.docker.promises import without_gpu
from saggar.model.event import Output

async def main():
    os.write(1, owner().encode() + b"\\n")
    async with Platform(Settings(driver="docker")) as platform:
        code = "print('up', flush=True)\\nimport time\\ntime.sleep(60)"
        async for event in platform.events(code):
            if isinstance(event, Output):
                os.write(1, event.data)

anyio.run(main)
"""


def test_a_host_that_is_killed_takes_its_containers_along(engine):
    """Pid 1 sees it; nobody has to sweep."""
    with subprocess.Popen([sys.executable, "-c", HOST], stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        name = host.stdout.readline().decode().strip()
        up = host.stdout.readline()
        host.send_signal(signal.SIGKILL)

    assert b"up\n" == up
    until(lambda: not ours(engine, name))


def test_what_a_dead_host_left_is_swept(engine, tmp_path):
    """A container that never got as far as pid 1: its host died between two requests."""
    with subprocess.Popen(["sleep", "60"]) as host:
        number = host.pid
        host.kill()
    name = f"{number}.{owner().partition('.')[2]}"
    container = engine.create({"Image": IMAGE, "Labels": {LABEL: name}})

    assert [container] == ours(engine, name)

    swept = owners.sweep(engine, tmp_path)

    assert 1 <= swept["containers"]
    assert [] == ours(engine, name)


async def test_the_probe_describes_the_engine(engine):
    driver = DockerDriver()
    found = await driver.probe()
    driver.close()

    assert (True, "container") == (found.available, found.rung)
    assert {"engine", "rootless", "cgroups", "runtimes", "storage"} <= found.facts.keys()
    assert "cgroup" in found.limits["memory"].how


UNAWARE = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [
        {"names": ["landlock_create_ruleset"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
    ],
}
"""The filter of an engine that is older than Landlock."""


def without_landlock(monkeypatch):
    container = module.Blueprint.container

    def unaware(self, door):
        spec = container(self, door)
        spec["HostConfig"]["SecurityOpt"].append(f"seccomp={json.dumps(UNAWARE)}")
        return spec

    monkeypatch.setattr(module.Blueprint, "container", unaware)


@needs_landlock
async def test_the_probe_says_that_landlock_holds_inside(engine, tmp_path):
    driver = DockerDriver(Settings(cache_dir=tmp_path))
    found = await driver.probe()
    driver.close()

    assert "in every container" in found.facts["landlock"]


@needs_landlock
async def test_an_engine_that_refuses_landlock_is_found_out_beforehand(
    engine, monkeypatch, tmp_path
):
    without_landlock(monkeypatch)
    settings = Settings(driver="docker", cache_dir=tmp_path, warm=0)
    async with Platform(settings) as platform:
        found = (await platform.probe())["docker"]
        result = await platform.run("print(1)")

    assert found.available
    assert "refused inside by the engine: Unconfined: " in found.facts["landlock"]
    assert "1\n" == result.stdout


@needs_landlock
async def test_a_child_without_the_landlock_that_holds_here_does_not_stand(
    engine, monkeypatch, tmp_path
):
    settings = Settings(cache_dir=tmp_path)
    driver = DockerDriver(settings)
    await driver.probe()
    without_landlock(monkeypatch)
    async with driver.nursery(WarmKey("", ""), Policy(), ()) as opened:
        with pytest.raises(SandboxBroken, match=r"Unconfined: .*landlock_create_ruleset"):
            await opened.park()
    driver.close()


async def test_where_no_engine_answers_the_probe_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    found = await DockerDriver().probe()

    assert not found.available
    assert "no container engine answers" in found.reasons[0]
    assert "docker" in found.recipes


async def test_a_file_of_the_hosts_can_stand_over_one_of_the_images(platform, tmp_path):
    source = tmp_path / "execute.py"
    source.write_text("of the host")
    result = await platform.run(
        "print(open('/app/execute.py').read())",
        environment=Environment(
            mounts=[{"source": str(source), "target": "/app/execute.py", "read_only": True}]
        ),
        policy=Policy(mounts=(str(tmp_path),)),
    )

    assert "of the host\n" == result.stdout


async def test_output_is_there_while_the_program_runs(platform):
    code = "print('early', flush=True)\nimport time\ntime.sleep(60)"
    seen = b""
    with anyio.fail_after(SOON):
        async for event in platform.events(code, limits={"wall": 60}):
            if isinstance(event, Output):
                seen = event.data
                break

    assert b"early\n" == seen


async def test_a_mount_through_a_link_ends_nobody_elses_run(platform, tmp_path):
    (tmp_path / "link").symlink_to("/etc")
    mount = {"source": str(tmp_path / "link"), "target": "/m"}
    others = []

    async def innocent():
        others.append((await platform.run("import time; time.sleep(1); print('done')")).stdout)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(innocent)
        with pytest.raises(InvalidTask, match="leads through a link"):
            await platform.run(
                "pass",
                environment=Environment(mounts=[mount]),
                policy=Policy(mounts=(str(tmp_path),)),
            )

    assert ["done\n"] == others


async def test_what_goes_wrong_unforeseen_is_told_to_whoever_asked(engine, monkeypatch):
    def broken(*_):
        raise KeyError("nobody thought of this")

    async with nursery() as opened:
        monkeypatch.setattr(module.Blueprint, "container", broken)
        with pytest.raises(SandboxBroken, match="nobody thought of this"):
            await opened.park()


async def test_a_source_exchanged_while_the_engine_looks_is_never_shown(
    engine, monkeypatch, tmp_path
):
    """The engine follows whatever is there by then; its work is checked before anybody runs."""
    meant, secret = tmp_path / "meant", tmp_path / "secret"
    meant.mkdir()
    secret.mkdir()
    create = Engine.create

    def exchange(self, spec):
        meant.rename(tmp_path / "away")
        meant.symlink_to(secret)
        return create(self, spec)

    async with nursery(mounts=((str(meant), "/m", True),)) as opened:
        monkeypatch.setattr(Engine, "create", exchange)
        with pytest.raises(SandboxBroken, match="mounted something else"):
            await opened.park()

    until(lambda: not ours(engine))


LIAR = f"""
import os, struct, time
import _socket
c = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
c.connect("{module.DOOR}/{module.SOCKET}")
data, anc, _, _ = c.recvmsg(1 << 17, 64)
host = memoryview(anc[0][2]).cast("i")[1]
me = os.pidfd_open(1)
fds = [c.fileno(), 0, 1, 2, os.open("/tmp", 0), *(PROCESSES)]
packed = struct.pack("7i", *fds)
parked = struct.pack("<BxxxIidQ", 2, 0, 0, 0.0, 0)
c.sendmsg([parked], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)])
time.sleep(30)
"""


@pytest.mark.parametrize("processes", ["host, host", "me, me", "host, me", "me, host"])
async def test_a_pid_1_that_sends_what_is_not_its_child_is_refused(engine, monkeypatch, processes):
    lie = LIAR.replace("PROCESSES", processes)
    monkeypatch.setattr(module, "PRELUDE", f"exec({lie!r})\n")
    async with nursery() as opened:
        with pytest.raises(SandboxBroken, match="pid 1 sent"):
            await opened.park()

    until(lambda: not ours(engine))


def test_what_only_inherited_our_label_is_not_swept(engine, tmp_path):
    """An image hands its labels on; the name is what no image can give."""
    name = f"1.1.{owner().split('.')[2]}.another-boot"
    made = subprocess.run(
        ["docker", "create", "--label", f"{LABEL}={name}", IMAGE],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    try:
        owners.sweep(engine, tmp_path)

        subprocess.run(["docker", "inspect", made], check=True, capture_output=True)
    finally:
        subprocess.run(["docker", "rm", "-f", made], check=True, capture_output=True)


def test_an_engine_takes_the_request_for_a_gpu_and_says_that_it_has_none(engine):
    if not without_gpu(engine.about()):
        pytest.skip("this engine may have GPUs")
    request = {"NetworkMode": "none", "DeviceRequests": [module.gpus(1)]}
    container = engine.create({"Image": IMAGE, "Cmd": ["true"], "HostConfig": request})
    try:
        with pytest.raises(DriverUnavailable, match="install nvidia-container-toolkit"):
            engine.start(container)
    finally:
        engine.remove(container)


async def test_a_gpu_that_an_engine_does_not_have_is_refused_before_anything_starts(engine):
    if not without_gpu(engine.about()):
        pytest.skip("this engine may have GPUs")
    with pytest.raises(DriverUnavailable, match="gpu=1 cannot be had in a container here"):
        async with nursery(gpu=1):
            pass
