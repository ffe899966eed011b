"""Environments behind walls: what a program finds there that was not on the machine before."""

import os
import shutil
import signal
import socket
import subprocess
import sys

import anyio
import pytest
from tests.conftest import missing
from tests.unit.environments.hubserver import serving
from tests.unit.environments.mirror import mirroring

import saggar
from saggar import Environment, Policy, Settings
from saggar.environments import interpreters, models
from saggar.environments.store import Store
from saggar.errors import PrepareFailed
from saggar.model.environment import Mount
from saggar.model.policy import Network
from saggar.platform import Platform

PATIENCE = 60
SCRIPT = "#!/bin/sh\ncat /usr/share/saggar-pipe/wood\n"
UNWALLED = Policy(
    isolation="process",
    network="host",
    best_effort={"cpu_share", "disk", "inodes", "memory", "processes"},
)
PIPE = Environment(system_packages=("saggar-pipe",))
SMOKE = "import subprocess; print(subprocess.check_output(['saggar-pipe'], text=True), end='')"
LOOK = """
import os, sys
from huggingface_hub import hf_hub_download
print(open(hf_hub_download("clay/cup", "config.json")).read(), os.environ.get("HF_HUB_OFFLINE"))
"""


async def test_six_comes_from_the_index(tmp_path):
    environment = Environment(packages=("six==1.*",))
    (layer,) = await from_the_index(Store(tmp_path), environment)
    code = f"import sys; sys.path.insert(0, {layer.path!r}); import six; print(six.__file__)"
    printed = await anyio.run_process([sys.executable, "-I", "-S", "-c", code])

    assert f"{layer.path}/six.py" == printed.stdout.decode().strip()


async def from_the_index(store, environment):
    try:
        return await store.prepare(environment, interpreter=sys.executable)
    except PrepareFailed as exc:
        if os.environ.get("CI") or "ailed to fetch" not in exc.log:
            raise
        pytest.skip("no package index answers")


async def test_two_versions_of_a_package_are_used_in_turns(tmp_path):
    settings = Settings(cache_dir=tmp_path)
    await from_the_index(Store.of(settings), Environment(packages=("sortedcontainers==2.3.0",)))
    found = []
    async with Platform(settings) as platform:
        for version in ("2.3.0", "2.4.0") * 3:
            result = await platform.run(
                "import sortedcontainers; print(sortedcontainers.__version__)",
                packages=f"sortedcontainers=={version}",
            )
            found.append(result.stdout.strip())

    assert ["2.3.0", "2.4.0"] * 3 == found


async def test_a_program_runs_in_the_python_that_it_names(tmp_path):
    ours = ".".join(map(str, sys.version_info[:3]))
    others = [one for one in await interpreters.versions() if one != ours]
    if not others:
        pytest.skip("there is one Python on this machine")
    async with Platform(Settings(cache_dir=tmp_path)) as platform:
        result = await platform.run(
            "import sys; print('.'.join(map(str, sys.version_info[:3])))",
            environment=Environment(python=others[-1]),
        )

    assert others[-1] == result.stdout.strip()


@pytest.fixture
def pipe(tmp_path, monkeypatch):
    """A package whose program reads its own data where it was told that they would be."""
    with mirroring(tmp_path, monkeypatch) as mirror:
        mirror.add(
            "saggar-pipe",
            {
                "usr/bin/saggar-pipe": SCRIPT,
                "usr/share/saggar-pipe/wood": "briar\n",
                "etc/saggar-pipe/bowl.conf": "deep\n",
            },
        )
        yield mirror


@pytest.mark.needs("apt-get", "dpkg-deb")
async def test_a_system_package_is_where_its_programs_expect_it(tmp_path, pipe):
    code = f"{SMOKE}; print(open('/etc/saggar-pipe/bowl.conf').read(), end='')"
    async with Platform(Settings(cache_dir=tmp_path)) as platform:
        result = await platform.run(code, environment=PIPE)
        without = await platform.run(SMOKE)

    assert ("briar\ndeep\n", "") == (result.stdout, result.stderr)
    assert without.error is not None
    assert "FileNotFoundError" == without.error.type
    assert "saggar-pipe" not in os.listdir("/usr/bin")


@pytest.mark.needs("apt-get", "dpkg-deb")
async def test_a_system_package_cannot_be_written_to(tmp_path, pipe):
    code = "open('/usr/share/saggar-pipe/wood', 'w')"
    async with Platform(Settings(cache_dir=tmp_path)) as platform:
        result = await platform.run(code, environment=PIPE)

    assert result.error is not None
    assert "Read-only file system" in result.error.message


@pytest.mark.needs("apt-get", "dpkg-deb")
async def test_without_walls_its_programs_are_on_path(tmp_path, pipe):
    pipe.add("saggar-puff", {"usr/bin/saggar-puff": "#!/bin/sh\necho puff\n"})
    code = "import subprocess; print(subprocess.check_output(['saggar-puff'], text=True), end='')"
    async with Platform(Settings(cache_dir=tmp_path)) as platform:
        result = await platform.run(
            code,
            environment=Environment(system_packages=("saggar-puff",)),
            policy=UNWALLED,
            driver="process",
        )

    assert "puff\n" == result.stdout


@pytest.mark.parametrize("network", [Network.NONE, Network.HOST])
async def test_a_model_is_there_for_who_knows_nothing_of_it(tmp_path, monkeypatch, network):
    pytest.importorskip("huggingface_hub")
    environment = Environment(models=("clay/cup",), host_packages=True)
    policy = Policy(host_packages=True, network=network)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add("clay/cup", {"config.json": b"{}"})
        async with Platform(Settings(cache_dir=tmp_path)) as platform:
            result = await platform.run(
                LOOK,
                environment=environment,
                policy=policy,
                env={"HF_ENDPOINT": hub.url},
                limits={"wall": "30s", "processes": 128},
            )

    offline = "1" if network is Network.NONE else "None"
    assert f"{{}} {offline}\n" == result.stdout, result.stderr


async def test_what_downloads_models_comes_in_a_layer_where_it_is_not_installed(
    tmp_path, monkeypatch
):
    await from_the_index(Store(tmp_path), Environment(packages=models.LIBRARY))
    monkeypatch.setattr(models, "is_installed", lambda: False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add("clay/cup", {"config.json": b"{}"})
        environment = Environment(models=("clay/cup",))
        (layer,) = await Store(tmp_path).prepare(environment, interpreter=sys.executable)

    assert "models" in {stored.kind for stored in Store(tmp_path).list()}
    assert layer.target.startswith("/opt/saggar/models/")


async def test_what_a_living_sandbox_sees_is_not_evicted(tmp_path):
    settings = Settings(cache_dir=tmp_path)
    environment = Environment(packages=("six",))
    (layer,) = await from_the_index(Store.of(settings), environment)
    full = Store(tmp_path, most=0)
    async with Platform(settings) as platform:
        sandbox = await platform.open_sandbox(environment=environment)
        os.utime(f"{layer.path}/../used", (0, 0))
        held = full.evict()
        await sandbox.close()

    assert () == held
    assert 1 == len(full.evict())


ORDINARY = """
import anyio
from saggar import Environment, Platform
from saggar.errors import PrepareFailed
from saggar.model.limits import LIMIT_NAMES
from saggar import Policy

async def main():
    environment = Environment(system_packages=("sl",))
    code = "import shutil, os; print(shutil.which('sl'), os.path.exists('/usr/games/sl'))"
    policy = Policy(best_effort=set(LIMIT_NAMES))
    async with Platform() as platform:
        try:
            await platform.prepare(environment)
        except PrepareFailed as exc:
            print("no mirror" if "cannot be reached" in str(exc) else exc)
        else:
            print((await platform.run(code, environment=environment, policy=policy)).stdout)

anyio.run(main)
"""


def test_an_ordinary_user_unpacks_system_packages_too(ordinary_user):
    """From this machine's own mirror, as nobody else has the right to tell apt of another."""
    run = ordinary_user.run(ordinary_user.python, "-c", ORDINARY)
    if run.stdout.startswith("no mirror"):
        missing("no package mirror answers")

    assert "" == run.stderr
    assert run.stdout.rstrip().endswith("/usr/games/sl True")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_an_installer_with_us(number, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as index:
        environ = {
            **os.environ,
            "SAGGAR_CACHE_DIR": str(tmp_path),
            "UV_CACHE_DIR": str(tmp_path / "uv"),
            "UV_INDEX_URL": f"http://127.0.0.1:{index.getsockname()[1]}/simple",
        }
        words = [sys.executable, "-m", "saggar", "env", "prepare", "--package", "six"]
        with subprocess.Popen(words, env=environ, stderr=subprocess.PIPE) as ours:
            index.settimeout(PATIENCE)
            asking, _ = index.accept()
            with asking:
                ours.send_signal(number)

                assert 128 + number == ours.wait(PATIENCE)
                asking.settimeout(PATIENCE)
                while asking.recv(1 << 16):
                    pass  # until the installer, which asked, is gone


def test_a_folder_that_was_replaced_is_the_new_one(tmp_path):
    folder = tmp_path / "data"
    environment = Environment(mounts=(Mount(source=str(folder), target="/data"),))
    policy, found = Policy(mounts=(str(tmp_path),)), []
    for text in ("first", "second"):
        folder.mkdir()
        (folder / "x").write_text(text)
        ran = saggar.run(
            "print(open('/data/x').read(), end='')", environment=environment, policy=policy
        )
        found.append(ran.stdout)
        shutil.rmtree(folder)

    assert ["first", "second"] == found
