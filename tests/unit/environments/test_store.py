"""The store: what is built, how often, by whom, and what is left of it."""

import asyncio
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from saggar.config import Settings
from saggar.environments import locks, python, tree
from saggar.environments.store import Store
from saggar.environments.uv import find_uv
from saggar.errors import InvalidTask, NotFound, PrepareFailed
from saggar.model.environment import Environment
from saggar.model.policy import Policy

PREPARE = """
import asyncio, sys
from pathlib import Path
from saggar.environments.store import Store
from saggar.model.environment import Environment
from saggar.model.policy import Policy

def say(line):
    print(line, flush=True)

_, cache, sys.prefix = sys.argv
environment = Environment(packages=("clay",))
asyncio.run(Store(Path(cache)).prepare(environment, interpreter=sys.executable, progress=say))
"""
CLAY = Environment(packages=("clay",))


def contents(cache: Path, folder: str) -> list[str]:
    path = cache / "environments" / folder
    return sorted(os.listdir(path)) if path.exists() else []


def files(layer) -> list[str]:
    return [layer.path, *(path for path, _ in tree.walk(layer.path))]


def imported(layer, statement: str) -> str:
    """What a fresh interpreter prints that has the layer on its path."""
    code = f"import sys; sys.path.insert(0, {layer.path!r}); {statement}"
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], check=True, capture_output=True, text=True
    )
    return run.stdout.strip()


async def test_an_empty_environment_needs_nothing_and_touches_nothing(store, cache, interpreter):
    assert () == await store.prepare(Environment(), interpreter=interpreter)
    assert [] == os.listdir(cache)


async def test_packages_become_one_layer_with_what_they_need(store, shelf, interpreter):
    shelf.add("clay", requires=["kiln>=1"])
    shelf.add("kiln", "1.2")
    (layer,) = await store.prepare(CLAY, interpreter=interpreter)

    assert layer.python_path
    assert layer.target.startswith("/opt/saggar/layers/")
    assert "1.0 1.2" == imported(layer, "import clay, kiln; print(clay.VERSION, kiln.VERSION)")


async def test_what_takes_time_is_said_and_what_is_there_is_silent(store, shelf, interpreter):
    shelf.add("clay", requires=["kiln"])
    shelf.add("kiln", "1.2")
    first: list[str] = []
    second: list[str] = []
    await store.prepare(CLAY, interpreter=interpreter, progress=first.append)
    await store.prepare(CLAY, interpreter=interpreter, progress=second.append)

    assert ["resolving clay", "installing clay 1.0, kiln 1.2"] == first
    assert [] == second


async def test_the_same_wish_in_other_words_is_the_same_layer(store, shelf, interpreter):
    shelf.add("clay")
    one = await store.prepare(Environment(packages=("clay >= 1",)), interpreter=interpreter)
    other = await store.prepare(Environment(packages=("CLAY>=1",)), interpreter=interpreter)

    assert one == other


async def test_a_layer_stays_the_same_when_newer_packages_come_out(store, shelf, interpreter):
    shelf.add("clay")
    before = await store.prepare(CLAY, interpreter=interpreter)
    shelf.add("clay", "2.0")

    assert before == await Store(store._root.parent).prepare(CLAY, interpreter=interpreter)


async def test_a_copied_layer_is_read_only_and_readable_for_everybody(
    store, shelf, interpreter, tmp_path
):
    shelf.add("clay", files={"clay/__init__.py": "", "clay/data/a.txt": "a"})
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv").chmod(0o777)  # so that nothing is linked to what is in there
    previous = os.umask(0o077)
    try:
        (layer,) = await store.prepare(CLAY, interpreter=interpreter)
    finally:
        os.umask(previous)

    assert {0o444, 0o555} == {stat.S_IMODE(os.stat(path).st_mode) for path in files(layer)}
    assert 0o755 == stat.S_IMODE(Path(layer.path).parent.stat().st_mode)


async def test_a_linked_layer_shares_its_files_with_the_cache_of_uv(
    store, shelf, interpreter, tmp_path
):
    """It takes no space of its own, everybody can read it, and nobody but us can write it."""
    shelf.add("clay", files={"clay/__init__.py": "", "clay/data/a.txt": "a"})
    (layer,) = await store.prepare(CLAY, interpreter=interpreter)
    found = (Path(layer.path) / "clay/data/a.txt").stat()
    cached = [path.stat() for path in (tmp_path / "uv").rglob("a.txt")]

    assert [(found.st_dev, found.st_ino)] == [(one.st_dev, one.st_ino) for one in cached]
    assert 0o444 == stat.S_IMODE(found.st_mode) & 0o466


async def test_a_layer_brings_its_bytecode(store, shelf, interpreter):
    """It is mounted read-only: without it every import would compile again."""
    shelf.add("clay")
    (layer,) = await store.prepare(CLAY, interpreter=interpreter)

    assert any(path.endswith(".pyc") for path in files(layer))


async def test_the_lock_names_versions_and_hashes(store, shelf, interpreter):
    shelf.add("clay")
    lock = await store.lock_of(CLAY, interpreter=interpreter)

    assert lock.startswith("clay==1.0 \\\n    --hash=sha256:")
    assert lock == await store.lock_of(CLAY, interpreter=interpreter)
    assert "" == await store.lock_of(Environment(), interpreter=interpreter)


async def test_a_wheel_that_changed_after_the_lock_is_refused(
    store, shelf, interpreter, cache, monkeypatch
):
    shelf.add("clay")
    await store.lock_of(CLAY, interpreter=interpreter)
    shelf.add("clay", files={"clay.py": "evil = True\n"})
    # uv's own cache would still have the right one.
    monkeypatch.setenv("UV_CACHE_DIR", str(cache / "another"))
    with pytest.raises(PrepareFailed) as failure:
        await store.prepare(CLAY, interpreter=interpreter)

    assert "Hash mismatch" in failure.value.log
    assert [] == contents(cache, "layers")


async def test_a_build_that_failed_leaves_nothing_and_the_installers_words(
    store, shelf, interpreter, cache
):
    with pytest.raises(PrepareFailed, match="no set of wheels fits clay") as failure:
        await store.prepare(CLAY, interpreter=interpreter)

    assert "clay was not found" in failure.value.log
    assert ([], [], []) == tuple(contents(cache, name) for name in ("layers", "locks", "building"))

    shelf.add("clay")

    assert 1 == len(await store.prepare(CLAY, interpreter=interpreter))


async def test_an_index_that_cannot_be_reached_is_told_as_that(
    store, interpreter, cache, tmp_path, monkeypatch
):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and never listens
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{silent.getsockname()[1]}/simple")
        with pytest.raises(PrepareFailed) as failure:
            await store.prepare(CLAY, interpreter=interpreter)

    assert str(failure.value).startswith("the package index cannot be reached: Connection refused")
    assert "Failed to fetch" in failure.value.log
    assert [] == contents(cache, "locks")


async def test_without_a_network_one_does_not_wait_long_unless_one_asked_for_it(
    store, interpreter, tmp_path, monkeypatch
):
    """What uv is told is seen by a program in its place."""
    (tmp_path / "bin").mkdir()
    uv = tmp_path / "bin" / "uv"
    uv.write_text('#!/bin/sh\necho "tries: $UV_HTTP_RETRIES" >&2\nexit 1\n')
    uv.chmod(0o755)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.delenv("UV_HTTP_RETRIES", raising=False)
    logs = []
    for said in ({}, {"UV_HTTP_RETRIES": "7"}):
        for name, value in said.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(PrepareFailed) as failure:
            await store.prepare(CLAY, interpreter=interpreter)
        logs.append(failure.value.log)

    assert ["tries: 1\n", "tries: 7\n"] == logs


async def test_a_source_distribution_is_not_built(store, shelf, interpreter, tmp_path):
    """Building it would run its code here."""
    about = "Metadata-Version: 2.1\nName: clay\nVersion: 1.0\n"
    shelf.add_source(
        "clay", {"PKG-INFO": about, "setup.py": f"open({str(tmp_path / 'ran')!r}, 'w')"}
    )
    with pytest.raises(PrepareFailed, match="only wheels are installed"):
        await store.prepare(CLAY, interpreter=interpreter)

    assert not (tmp_path / "ran").exists()


async def test_a_direct_url_is_refused_though_the_model_takes_it(store, interpreter):
    environment = Environment(
        packages=("clay @ https://nowhere.invalid/clay-1.0-py3-none-any.whl",)
    )
    with pytest.raises(InvalidTask, match="URLs and paths are not accepted"):
        await store.prepare(environment, interpreter=interpreter)


async def test_a_requirement_that_does_not_apply_here_gives_an_empty_layer(
    store, shelf, interpreter
):
    environment = Environment(packages=("clay; python_version < '3'",))
    (layer,) = await store.prepare(environment, interpreter=interpreter)

    assert [] == os.listdir(layer.path)


async def test_two_at_once_in_one_process_build_once(store, shelf, interpreter):
    shelf.add("clay")
    said: list[str] = []
    layers = await asyncio.gather(
        *(store.prepare(CLAY, interpreter=interpreter, progress=said.append) for _ in range(5))
    )

    assert 1 == len(set(layers))
    assert 1 == said.count("installing clay 1.0")


async def test_two_processes_at_once_build_once(shelf, cache, interpreter):
    shelf.add("clay")
    argv = [interpreter, "-c", PREPARE, str(cache), sys.prefix]
    both = await asyncio.gather(*(anyio.run_process(argv) for _ in range(2)))
    said = "".join(process.stdout.decode() for process in both)

    assert 1 == said.count("installing clay 1.0")
    assert 1 == len(contents(cache, "layers"))


async def test_a_cancelled_build_leaves_nothing(store, shelf, interpreter, cache):
    shelf.add("clay")
    with anyio.CancelScope() as scope:
        await store.prepare(CLAY, interpreter=interpreter, progress=lambda _: scope.cancel())

    assert ([], []) == (contents(cache, "layers"), contents(cache, "building"))
    assert 1 == len(await store.prepare(CLAY, interpreter=interpreter))


async def test_whoever_waits_for_a_build_can_be_cancelled(store, shelf, interpreter, cache):
    shelf.add("clay")
    await store.lock_of(CLAY, interpreter=interpreter)
    (turn,) = (cache / "environments" / "turns").iterdir()
    said: list[str] = []

    def hear(line):
        said.append(line)
        scope.cancel()

    with locks.tried(turn), anyio.CancelScope() as scope:
        await store.prepare(CLAY, interpreter=interpreter, progress=hear)

    assert ["waiting: the same packages are being built elsewhere"] == said
    assert scope.cancelled_caught


async def test_an_installer_left_behind_keeps_its_turn(store, cache, tmp_path, interpreter):
    """
    We are killed, and a child of uv's that has left its session goes on: nobody sweeps its folder
    or builds the same beside it.
    """
    uv = tmp_path / "prefix" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    os.mkfifo(tmp_path / "fifo")
    left = f"echo Downloading slowly >&2; read line < {tmp_path}/fifo"
    uv.write_text(f"#!/bin/sh\nexec setsid -w sh -c '{left}'\n")
    uv.chmod(0o755)
    argv = [interpreter, "-c", PREPARE, str(cache), str(uv.parent.parent)]
    async with await anyio.open_process(argv) as host:
        assert host.stdout is not None
        async for said in host.stdout:
            if b"downloading slowly" in said:
                break
        host.kill()
    (turn,) = (cache / "environments" / "turns").iterdir()

    assert () == store.gc()
    assert 1 == len(contents(cache, "building"))

    (tmp_path / "fifo").write_text("go on\n")
    async with locks.turn(turn, lambda: None):
        pass

    assert 1 == len(store.gc())
    assert [] == contents(cache, "building")


async def test_a_layer_without_its_marker_is_built_again(store, shelf, interpreter, cache):
    shelf.add("clay")
    (layer,) = await store.prepare(CLAY, interpreter=interpreter)
    (Path(layer.path).parent / ".complete").unlink()

    assert () == store.list()
    assert (layer,) == await store.prepare(CLAY, interpreter=interpreter)
    assert 1 == len(store.list())


async def test_a_layer_in_the_list_says_what_it_is(store, shelf, interpreter):
    shelf.add("clay")
    (layer,) = await store.prepare(CLAY, interpreter=interpreter)
    (stored,) = store.list()

    assert layer.path.split("/")[-2] == stored.digest.removeprefix("sha256:")
    assert ("clay",) == stored.requirements
    assert await python.identify(interpreter) == stored.python
    assert stored.size > 0


async def test_a_removed_layer_is_resolved_anew(store, shelf, interpreter, cache):
    shelf.add("clay")
    await store.prepare(CLAY, interpreter=interpreter)
    store.remove(store.list()[0].digest)
    shelf.add("clay", "2.0")
    (layer,) = await store.prepare(CLAY, interpreter=interpreter)

    assert "2.0" == imported(layer, "import clay; print(clay.VERSION)")
    assert 1 == len(contents(cache, "layers"))


@pytest.mark.parametrize("digest", ["sha256:00", "../..", "", "sha256:../../turns"])
async def test_only_a_layer_can_be_removed(store, digest):
    with pytest.raises(NotFound):
        store.remove(digest)


async def test_gc_takes_what_no_run_asked_for_and_keeps_its_lock(store, shelf, interpreter, cache):
    shelf.add("clay")
    await store.prepare(CLAY, interpreter=interpreter)
    (stored,) = store.list()

    assert () == store.gc(max_age=60, clock=lambda: stored.used + 59)
    assert () == store.gc(max_age=60, keep=1, clock=lambda: stored.used + 61)
    assert (stored.digest,) == store.gc(max_age=60, clock=lambda: stored.used + 61)
    assert ([], []) == (contents(cache, "layers"), contents(cache, "building"))

    shelf.add("clay", "2.0")
    await store.prepare(CLAY, interpreter=interpreter)

    assert (stored.digest,) == tuple(layer.digest for layer in store.list())


async def test_use_keeps_a_layer(store, shelf, interpreter, cache):
    shelf.add("clay")
    (layer,) = await store.prepare(CLAY, interpreter=interpreter)
    os.utime(Path(layer.path).parent / "used", (0, 0))
    await Store(cache).prepare(CLAY, interpreter=interpreter)

    assert () == store.gc(max_age=3600)


async def test_gc_takes_what_dead_builds_left_and_leaves_living_ones(store, cache):
    store._layers.make_folders()
    dead, living = (cache / "environments" / "building" / name for name in ("aa.1", "bb.1"))
    broken = cache / "environments" / "layers" / "cc"
    for folder in (dead, living, broken):
        (folder / "site" / "clay").mkdir(parents=True)
        (folder / "site").chmod(0o555)
    with locks.tried(cache / "environments" / "turns" / "bb"):
        removed = store.gc()

    assert ("aa.1", "cc") == removed
    assert ["bb.1"] == contents(cache, "building")


def test_gc_of_a_store_that_was_never_used_is_nothing(store):
    assert () == store.gc()
    assert () == store.list()


async def test_a_store_that_others_can_write_is_refused(store, cache, interpreter):
    cache.chmod(0o777)
    with pytest.raises(PrepareFailed, match="others can write"):
        await store.prepare(CLAY, interpreter=interpreter)


async def test_a_store_that_cannot_be_written_is_our_failure(cache, interpreter):
    (cache / "environments").write_text("in the way")
    with pytest.raises(PrepareFailed, match="could not be written"):
        await Store(cache).prepare(CLAY, interpreter=interpreter)


async def test_the_hosts_packages_are_bound_where_python_looks(store, interpreter):
    layers = await store.prepare(Environment.host(), interpreter=interpreter)

    assert list(python.site_packages()) == [layer.path for layer in layers]
    assert all(layer.python_path for layer in layers)
    assert len(layers) == len({layer.target for layer in layers})


async def test_the_hosts_packages_are_for_the_hosts_python(store, interpreter, tmp_path):
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 2.7.18 None linux-x86_64\n")
    other.chmod(0o755)
    with pytest.raises(InvalidTask, match=r"not for 2\.7\.18"):
        await store.prepare(Environment.host(), interpreter=str(other))


async def test_host_files_a_sandbox_cannot_read_are_named_once(
    store, interpreter, tmp_path, monkeypatch
):
    folder = tmp_path / "site-packages"
    (folder / "open").mkdir(parents=True)
    for name in ("open/a.py", "shut.py"):
        (folder / name).write_text("")
    (folder / "shut.py").chmod(0o200)
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    monkeypatch.setattr("site.getsitepackages", lambda: [str(folder)])
    said: list[str] = []
    for _ in range(2):
        await store.prepare(Environment.host(), interpreter=interpreter, progress=said.append)

    assert [f"a sandbox cannot read these files in {folder}: shut.py"] == [
        line for line in said if str(folder) in line
    ]


async def test_conflicting_pins_live_side_by_side(store, shelf, interpreter):
    shelf.add("clay", "2.3")
    shelf.add("clay", "2.4")
    for _ in range(2):
        for version in ("2.3", "2.4"):
            environment = Environment(packages=(f"clay=={version}",))
            (layer,) = await store.prepare(environment, interpreter=interpreter)

            assert version == imported(layer, "import clay; print(clay.VERSION)")
    assert 2 == len(store.list())


@pytest.fixture
def venv(tmp_path, monkeypatch, shelf):
    """An activated environment of our own Python, with clay 1.0 in it."""
    shelf.add("clay")
    folder = tmp_path / "venv"
    subprocess.run([find_uv(), "venv", "-q", "--python", sys.executable, folder], check=True)
    install = [find_uv(), "pip", "install", "-q", "--python", folder / "bin/python", "clay"]
    subprocess.run(install, check=True)
    monkeypatch.setenv("VIRTUAL_ENV", str(folder))
    return folder


def requirements(store) -> list[tuple[str, ...]]:
    return [stored.requirements for stored in store.list()]


async def test_an_activated_environment_counts_as_the_hosts(store, venv, interpreter):
    layers = await store.prepare(Environment.host(), interpreter=interpreter)

    assert layers[0].path.startswith(str(venv))
    assert list(python.site_packages()) == [layer.path for layer in layers[1:]]


async def test_what_the_host_has_is_not_installed_again(store, venv, shelf, interpreter):
    environment = Environment(packages=("clay>=1",), host_packages=True)
    layers = await store.prepare(environment, interpreter=interpreter)

    assert () == store.list()
    assert "1.0" == imported(layers[0], "import clay; print(clay.VERSION)")


async def test_only_what_the_host_lacks_is_installed(store, venv, shelf, interpreter):
    shelf.add("kiln", requires=["clay"])
    environment = Environment(packages=("kiln",), host_packages=True)
    layer, *_ = await store.prepare(environment, interpreter=interpreter)

    assert [("kiln==1.0",)] == requirements(store)
    assert not (Path(layer.path) / "clay.py").exists()


async def test_another_version_than_the_hosts_goes_before_it(store, venv, shelf, interpreter):
    shelf.add("clay", "2.0")
    environment = Environment(packages=("clay==2.0",), host_packages=True)
    layer, *_ = await store.prepare(environment, interpreter=interpreter)

    assert "2.0" == imported(layer, "import clay; print(clay.VERSION)")


async def test_of_two_that_cannot_be_had_one_is_told(store, shelf, interpreter, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    environment = Environment(packages=("clay",), models=("clay/cup",))
    with pytest.raises(PrepareFailed):
        await store.prepare(environment, interpreter=interpreter)


def test_a_store_is_as_its_operator_has_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "ab12")
    settings = Settings(cache_dir=tmp_path, ceiling=Policy(), models=("clay/*",))
    store = Store.of(settings)

    assert tmp_path / "endpoints" / "ab12" / "environments" == store._root
    assert (settings.environments_size, ("clay/*",)) == (store._most, store._private)
