"""System packages: apt and dpkg-deb at work on a mirror of our own, beside the host's system."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.environments.mirror import mirroring

from saggar.environments import system
from saggar.environments.store import Store
from saggar.errors import InvalidTask, PrepareFailed
from saggar.model.environment import Environment
from saggar.model.plan import around

pytestmark = pytest.mark.needs("apt-get", "dpkg-deb", "dpkg-query")
PIPE = Environment(system_packages=("saggar-pipe",))
SCRIPT = "#!/bin/sh\necho smoke\n"


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    with mirroring(tmp_path, monkeypatch) as mirror:
        yield mirror


async def prepared(store, environment=PIPE):
    return await store.prepare(environment, interpreter=sys.executable)


def printed(layer, *argv: str) -> str:
    env = around({"PATH": "/usr/bin:/bin"}, [layer], inside=False)
    return subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout


async def test_a_package_becomes_a_layer_whose_programs_are_found(store, mirror):
    mirror.add("saggar-pipe", {"usr/bin/saggar-pipe": SCRIPT}, depends="saggar-bowl")
    mirror.add("saggar-bowl", {"usr/share/bowl/wood": "briar\n"})
    (layer,) = await prepared(store)

    assert "smoke\n" == printed(layer, "saggar-pipe")
    assert "briar\n" == (Path(layer.path) / "usr/share/bowl/wood").read_text()
    assert layer.system


async def test_nothing_of_the_host_changes_and_no_script_of_a_package_runs(store, mirror, tmp_path):
    mirror.add("saggar-pipe", {"usr/bin/saggar-pipe": SCRIPT}, script=f"touch {tmp_path}/it-ran")
    before = system.state()
    await prepared(store)

    assert before == system.state()
    assert not (tmp_path / "it-ran").exists()
    assert "saggar-pipe" not in os.listdir("/usr/bin")


async def test_what_dpkg_has_already_takes_no_layer(store, cache):
    assert () == await prepared(store, Environment(system_packages=("dpkg", "tar")))
    assert [] == os.listdir(cache)


async def test_a_layer_is_built_once(store, mirror, cache):
    mirror.add("saggar-pipe", {"usr/bin/saggar-pipe": SCRIPT})
    before = await prepared(store)
    for path in mirror.folder.glob("*.deb"):
        path.unlink()

    assert before == await prepared(Store(cache))


async def test_a_package_that_is_missing_is_named_with_the_words_of_apt(store, mirror):
    with pytest.raises(PrepareFailed, match="there is no system package saggar-pipe") as failure:
        await prepared(store)

    assert "E: Unable to locate package saggar-pipe" in failure.value.log


async def test_a_package_that_came_out_today_is_found(store, mirror):
    with pytest.raises(PrepareFailed):
        await prepared(store)
    mirror.add("saggar-pipe", {"usr/bin/saggar-pipe": SCRIPT})

    assert 1 == len(await prepared(store))


async def test_a_version_that_the_mirror_dropped_is_resolved_anew(store, mirror, cache):
    mirror.add("saggar-pipe", {"usr/bin/saggar-pipe": SCRIPT})
    await prepared(store)
    (stored,) = store.list()
    store._layers.discard(stored.digest)
    for path in mirror.folder.glob("*.deb"):
        path.unlink()
    mirror.entries.clear()
    mirror.add("saggar-pipe", {"usr/bin/saggar-pipe": SCRIPT}, version="1.1")
    (layer,) = await prepared(Store(cache))

    assert "smoke\n" == printed(layer, "saggar-pipe")
    assert "saggar-pipe_1.1_all.deb" in store.lock(store.list()[0])


async def test_an_archive_that_is_not_what_the_mirror_said_is_refused(store, mirror):
    archive = mirror.add("saggar-pipe", {"usr/bin/saggar-pipe": SCRIPT})
    archive.write_bytes(archive.read_bytes()[:-1] + b"x")
    with pytest.raises(PrepareFailed, match=r"download failed: .*Hash Sum mismatch"):
        await prepared(store)


async def test_mirrors_that_do_not_answer_are_told_as_that(store, mirror, tmp_path):
    (tmp_path / "sources.list").write_text("deb [trusted=yes] http://127.0.0.1:9 ./\n")
    with pytest.raises(PrepareFailed, match="the package mirrors cannot be reached") as failure:
        await prepared(store)

    assert "127.0.0.1" in failure.value.log


async def test_links_into_the_layer_stay_in_it(store, mirror):
    mirror.add(
        "saggar-pipe",
        {"usr/bin/saggar-pipe": SCRIPT},
        links={"usr/bin/pipe": "/usr/bin/saggar-pipe", "usr/bin/shell": "/bin/sh"},
    )
    (layer,) = await prepared(store)

    assert "saggar-pipe" == os.readlink(Path(layer.path) / "usr/bin/pipe")
    assert "/bin/sh" == os.readlink(Path(layer.path) / "usr/bin/shell")


async def test_libraries_are_found_also_where_a_script_would_have_linked_them(store, mirror):
    triplet = f"{platform.machine()}-linux-gnu"
    below = f"usr/lib/{triplet}"
    mirror.add(
        "saggar-pipe",
        {
            f"{below}/libpipe.so.1": "",
            f"{below}/blas/libblas.so.3": "",
            f"{below}/pipe/plugin.so": "",
        },
    )
    (layer,) = await prepared(store)

    assert (below, f"{below}/blas") == dict(layer.search)["LD_LIBRARY_PATH"]


@pytest.mark.skipif(not os.path.islink("/bin"), reason="/bin is a folder of its own here")
async def test_what_is_packed_at_the_top_arrives_below_usr(store, mirror):
    mirror.add("saggar-pipe", {"bin/saggar-pipe": SCRIPT})
    (layer,) = await prepared(store)

    assert "smoke\n" == printed(layer, "saggar-pipe")
    assert (Path(layer.path) / "usr/bin/saggar-pipe").exists()


async def test_another_c_library_than_the_hosts_is_refused(store, mirror):
    mirror.add("saggar-pipe", {"usr/bin/saggar-pipe": SCRIPT}, depends="libc-bin (>= 99)")
    mirror.add("libc-bin", {"usr/share/libc": ""}, version="99")
    with pytest.raises(PrepareFailed, match="another C library than this machine's"):
        await prepared(store)


async def test_the_hooks_of_the_operators_apt_do_not_run(store, mirror, tmp_path):
    """His proxies are ours as well; what he does after an update is not."""
    mirror.add("saggar-pipe", {"usr/bin/saggar-pipe": SCRIPT})
    await prepared(store)
    written = (tmp_path / "cache/environments/apt/apt.conf").read_text()

    assert "Post-Invoke" not in written
    assert "Acquire::" in written


@pytest.mark.parametrize(
    "package",
    [
        "-o",
        "--help",
        "a b",
        "ffmpeg-",
        "./x.deb",
        "/x.deb",
        "task^",
        "x/stable",
        "*",
        "A",
        "",
        "x\n",
    ],
)
def test_what_is_no_name_is_refused(package):
    with pytest.raises(InvalidTask, match="wanted a system package"):
        system.normalised([package])


@pytest.mark.parametrize("package", ["g++", "libstdc++6", "ffmpeg=7:5.1.6-0+deb12u1", "libc6:i386"])
def test_names_as_debian_has_them_pass(package):
    assert (package,) == system.normalised([package, package])


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """What apt and nala are told is seen by programs in their place."""
    (tmp_path / "bin").mkdir()
    for name in ("apt-get", "nala"):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/told\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path


@pytest.mark.parametrize(
    ("package", "tool"), [("saggar-pipe", "apt-get"), ("saggar-libssl-dev", "nala")]
)
async def test_a_machine_that_is_ours_alone_has_packages_installed(tools, cache, package, tool):
    owner = Store(cache, owns_system=True)
    layers = await prepared(owner, Environment(system_packages=(package,)))
    told = f"{tool} update\n{tool} install -y --no-install-recommends -- {package}\n"

    assert () == layers
    assert told == (tools / "told").read_text()


async def test_what_our_own_machine_has_is_not_installed_again(tools, cache):
    await prepared(Store(cache, owns_system=True), Environment(system_packages=("dpkg",)))

    assert not (tools / "told").exists()


async def test_where_nala_fails_apt_is_asked(tools, cache):
    (tools / "bin/nala").write_text("#!/bin/sh\nexit 1\n")
    await prepared(Store(cache, owns_system=True), Environment(system_packages=("saggar-cmake",)))

    assert "apt-get install" in (tools / "told").read_text()


async def test_what_apt_cannot_install_here_is_our_failure(tools, cache):
    (tools / "bin/apt-get").write_text("#!/bin/sh\necho 'E: are you root?' >&2\nexit 100\n")
    with pytest.raises(PrepareFailed, match=r"saggar-pipe cannot be installed: are you root\?"):
        await prepared(Store(cache, owns_system=True))


async def test_another_root_has_a_system_of_its_own(store, tmp_path):
    with pytest.raises(InvalidTask, match="not for root"):
        await prepared(store, PIPE.replace(root=str(tmp_path)))
