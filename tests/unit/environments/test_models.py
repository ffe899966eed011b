"""Models: fetched from a hub that speaks the real API, kept, and shown to their library."""

import os
import stat
import subprocess
import sys

import anyio
import pytest
from tests.unit.environments.hubserver import serving

from saggar.environments import models, tree
from saggar.environments.store import Store
from saggar.errors import InvalidTask, PrepareFailed
from saggar.model.environment import Environment
from saggar.model.plan import around

CONFIG = b'{"layers": 2}'
WEIGHTS = bytes(range(256)) * 4096
FILES = {"config.json": CONFIG, "onnx/weights.bin": WEIGHTS}
CUP = Environment(models=("clay/cup",))

pytest.importorskip("huggingface_hub")


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


async def prepared(store, environment, **options):
    said: list[str] = []
    (layer,) = await store.prepare(
        environment, interpreter=sys.executable, progress=said.append, **options
    )
    return layer, said


def seen(layer, program: str) -> str:
    """What a program prints that finds only what a sandbox would."""
    env = around({"PATH": os.environ["PATH"]}, [layer], inside=False)
    argv = [sys.executable, "-I", "-c", program]
    run = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    return run.stdout.strip() or run.stderr


def tree_bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


LOOK = """
from huggingface_hub import hf_hub_download
print(open(hf_hub_download({name!r}, "config.json", revision={revision!r})).read())
"""


async def test_a_model_is_found_by_who_knows_nothing_of_it(store, hub):
    hub.add("clay/cup", FILES)
    layer, said = await prepared(store, CUP)
    hub.repositories.clear()

    assert CONFIG.decode() == seen(layer, LOOK.format(name="clay/cup", revision=None))
    assert "looking up clay/cup" == said[0]
    assert "downloading clay/cup: 0 % of 1.0 MB" in said


async def test_a_whole_snapshot_is_there_without_a_network(store, hub):
    hub.add("clay/cup", FILES)
    layer, _ = await prepared(store, CUP)
    program = """
import os
from huggingface_hub import snapshot_download
print(sorted(os.listdir(snapshot_download("clay/cup"))), os.environ["HF_HUB_OFFLINE"])
"""

    assert "['config.json', 'onnx'] 1" == seen(layer, program)


async def test_with_a_network_nobody_is_told_that_there_is_none(store, hub):
    hub.add("clay/cup", FILES)
    layer, _ = await prepared(store, CUP, offline=False)

    assert () == layer.env
    assert "HF_HOME" in around({}, [layer])


async def test_what_is_there_is_not_asked_for_again(store, hub, cache):
    hub.add("clay/cup", FILES)
    before, _ = await prepared(store, CUP)
    asked = len(hub.requests)
    after, said = await prepared(Store(cache), CUP)

    assert before == after
    assert [] == said
    assert asked == len(hub.requests)


async def test_a_model_stays_the_same_when_the_hub_goes_on(store, hub, cache):
    hub.add("clay/cup", FILES)
    await prepared(store, CUP)
    hub.add("clay/cup", {"config.json": b"{}"})
    layer, _ = await prepared(Store(cache), CUP)

    assert CONFIG.decode() == seen(layer, LOOK.format(name="clay/cup", revision="main"))


async def test_a_revision_is_a_model_of_its_own(store, hub):
    hub.add("clay/cup", FILES)
    commit = hub.add("clay/cup", {"config.json": b'{"layers": 1}'}, revision="v1.0")
    layer, _ = await prepared(store, Environment(models=("clay/cup@v1.0", "clay/cup")))

    assert '{"layers": 1}' == seen(layer, LOOK.format(name="clay/cup", revision="v1.0"))
    assert '{"layers": 1}' == seen(layer, LOOK.format(name="clay/cup", revision=commit))
    assert CONFIG.decode() == seen(layer, LOOK.format(name="clay/cup", revision="main"))


async def test_a_download_that_broke_goes_on_where_it_was(store, hub):
    """The library counts in pieces of ten megabytes."""
    large = WEIGHTS * 12
    hub.add("clay/cup", {"weights.bin": large})
    hub.breaks["weights.bin"] = 11 << 20
    layer, _ = await prepared(store, CUP)
    ranges = [asked for how, path, asked in hub.requests if how == "GET" and "/resolve/" in path]
    (weights,) = [path for path, _ in tree.walk(layer.path) if path.endswith("weights.bin")]

    assert ["", f"bytes={10 << 20}-"] == ranges
    assert large == tree_bytes(weights)


async def test_what_was_finished_before_a_failure_is_not_fetched_again(store, hub):
    hub.add("clay/cup", FILES)
    hub.add("clay/jug", {"jug.bin": b"jug"}, token="hf_another")
    both = Environment(models=("clay/cup", "clay/jug"))
    store._layers.make_folders()
    with pytest.raises(PrepareFailed):
        await prepared(store, both)
    await prepared(store, CUP)
    fetched = hub.downloads().count("weights.bin")
    hub.repositories["clay/jug"].token = ""
    await prepared(store, both)

    assert fetched == hub.downloads().count("weights.bin")
    assert 1 == hub.downloads().count("jug.bin")


async def test_a_model_that_is_missing_is_named(store, hub):
    with pytest.raises(PrepareFailed, match=rf"there is no model clay/cup at {hub.url}"):
        await prepared(store, CUP)


async def test_a_revision_that_is_missing_is_named(store, hub):
    hub.add("clay/cup", FILES)
    with pytest.raises(PrepareFailed, match="clay/cup@v9 has no such revision"):
        await prepared(store, Environment(models=("clay/cup@v9",)))


async def test_a_gated_model_takes_a_token(store, hub, monkeypatch):
    hub.add("clay/cup", FILES, token="hf_secret_token")
    with pytest.raises(PrepareFailed, match=r"clay/cup is not open .* HF_TOKEN is not set"):
        await prepared(store, CUP)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_token")
    with pytest.raises(PrepareFailed, match="the token in HF_TOKEN does not open it") as failure:
        await prepared(store, CUP)
    monkeypatch.setenv("HF_TOKEN", "hf_secret_token")
    layer, _ = await prepared(store, CUP)

    assert CONFIG.decode() == seen(layer, LOOK.format(name="clay/cup", revision=None))
    assert "hf_wrong_token" not in failure.value.log


async def test_what_one_token_has_opened_is_closed_to_who_has_none(store, hub):
    hub.add("clay/cup", FILES, token="hf_secret_token")
    await prepared(store, CUP, token="hf_secret_token")
    with pytest.raises(PrepareFailed, match="not open to everybody"):
        await prepared(store, CUP)


async def test_the_operators_token_opens_what_he_lets_it_open(cache, hub, monkeypatch):
    hub.add("clay/cup", FILES, token="hf_secret_token")
    monkeypatch.setenv("HF_TOKEN", "hf_secret_token")
    with pytest.raises(PrepareFailed, match="not open to everybody"):
        await prepared(Store(cache, private=()), CUP)
    layer, _ = await prepared(Store(cache, private=("clay/*",)), CUP)

    assert "HF_HOME" in around({}, [layer])


async def test_a_hub_that_does_not_answer_is_told_as_that(store, hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PrepareFailed, match=r"the model hub at http://127\.0\.0\.1:9 cannot be"):
        await prepared(store, CUP)


async def test_acceleration_may_be_asked_for(store, hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_ENABLE_HF_TRANSFER", "1")
    hub.add("clay/cup", FILES)
    layer, _ = await prepared(store, CUP)

    assert CONFIG.decode() == seen(layer, LOOK.format(name="clay/cup", revision=None))


async def test_models_are_read_only(store, hub):
    hub.add("clay/cup", FILES)
    layer, _ = await prepared(store, CUP)
    modes = {
        stat.S_IMODE(found.st_mode)
        for _, found in tree.walk(layer.path)
        if not stat.S_ISLNK(found.st_mode)
    }

    assert {0o444, 0o555} == modes


@pytest.mark.parametrize(
    "model",
    ["", "a/b/c", "../x", "a..b", "-x", "a/-x", "a--b", "a/b@", "a@../x", "a@x/", "a b", "a/b\n"],
)
def test_what_is_no_model_is_refused(model):
    with pytest.raises(InvalidTask, match="wanted a model"):
        models.normalised([model])


def test_models_have_one_form():
    assert ("a/b@main", "a/b@v1", "gpt2@main") == models.normalised(
        ["gpt2", "a/b@v1", "a/b", "a/b@main"]
    )


async def test_packages_and_models_are_prepared_at_the_same_time(store, hub, tmp_path, monkeypatch):
    """The installer of packages does not end before the hub was asked."""
    hub.add("clay/cup", FILES)
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    os.mkfifo(tmp_path / "fifo")
    uv.write_text(f"#!/bin/sh\nread line < {tmp_path}/fifo\necho $line >&2\nexit 1\n")
    uv.chmod(0o755)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))

    async def release():
        while not hub.requests:  # noqa: ASYNC110 - a server of another thread sets no event
            await anyio.sleep(0.01)
        async with await anyio.open_file(tmp_path / "fifo", "w") as fifo:
            await fifo.write("the hub was asked\n")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(release)
        with pytest.raises(PrepareFailed) as failure:
            await prepared(store, Environment(packages=("clay",), models=("clay/cup",)))

    assert "the hub was asked\n" == failure.value.log
