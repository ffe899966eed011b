"""Layers: who holds one, and which go when there is no room."""

import os
import shutil
import sys
from pathlib import Path

import anyio
import pytest

from saggar.environments.layers import GRACE
from saggar.environments.store import Store
from saggar.errors import Conflict, NotFound, PrepareFailed
from saggar.model.environment import Environment
from saggar.model.plan import Layer

HOLD = """
import sys
from pathlib import Path
from saggar.environments.store import Store
from saggar.model.plan import Layer

with Store(Path(sys.argv[1])).hold([Layer(path=sys.argv[2], target="/x")]):
    print("held", flush=True)
    sys.stdin.read()
"""


async def built(store, shelf, *names: str) -> list[Layer]:
    """A layer each, the first one unused for longest."""
    layers = []
    for age, name in zip(range(len(names), 0, -1), names, strict=True):
        shelf.add(name, files={f"{name}.py": "x = 1\n" * 20_000})
        environment = Environment(packages=(name,))
        (layer,) = await store.prepare(environment, interpreter=sys.executable)
        used = Path(layer.path).parent / "used"
        past = used.stat().st_mtime - age * 2 * GRACE
        os.utime(used, (past, past))
        layers.append(layer)
    return layers


def kept(store) -> list[str]:
    return sorted(name for stored in store.list() for name in stored.requirements)


async def test_the_longest_unused_go_first(store, shelf, cache):
    await built(store, shelf, "clay", "glaze", "kiln")
    size = store.list()[0].size
    Store(cache, most=2 * size + 100).gc()

    assert ["glaze", "kiln"] == kept(store)


async def test_a_build_makes_room_for_itself(store, shelf, cache):
    await built(store, shelf, "clay", "glaze")
    small = Store(cache, most=store.list()[0].size + 100)
    await built(small, shelf, "kiln")

    assert ["kiln"] == kept(store)


async def test_what_was_asked_for_a_moment_ago_stays(store, shelf, cache):
    """Whoever asked has not shown it to anybody yet."""
    shelf.add("clay")
    await store.prepare(Environment(packages=("clay",)), interpreter=sys.executable)

    assert () == Store(cache, most=0).evict()


async def test_a_layer_that_is_held_is_neither_evicted_nor_removed(store, shelf, cache):
    (layer,) = await built(store, shelf, "clay")
    full = Store(cache, most=0)
    with store.hold([layer]):
        assert () == full.evict()
        assert () == full.gc(max_age=1)
        with pytest.raises(Conflict, match="a living sandbox sees"):
            store.remove(store.list()[0].digest)

    assert 1 == len(full.evict())


async def test_another_process_holds_a_layer_for_as_long_as_it_lives(store, shelf, cache):
    (layer,) = await built(store, shelf, "clay")
    full = Store(cache, most=0)
    argv = [sys.executable, "-c", HOLD, str(cache), layer.path]
    async with await anyio.open_process(argv) as holder:
        assert holder.stdout is not None
        assert b"held" == (await holder.stdout.receive(4))
        assert () == full.evict()
        holder.kill()

    assert 1 == len(full.evict())


async def test_a_layer_that_has_gone_cannot_be_held(store, shelf):
    (layer,) = await built(store, shelf, "clay")
    shutil.rmtree(Path(layer.path).parent)
    with pytest.raises(PrepareFailed, match="has gone meanwhile"), store.hold([layer]):
        pass


def test_what_is_not_of_the_store_needs_no_holding(store, tmp_path):
    with store.hold([Layer(path=str(tmp_path), target="/x")]):
        pass


async def test_a_layer_is_found_by_the_beginning_of_its_digest(store, shelf):
    await built(store, shelf, "clay")
    (stored,) = store.list()

    assert stored == store.find(stored.digest) == store.find(stored.digest[7:19])
    assert store.lock(stored).startswith("clay==1.0")
    assert (store.folder(stored) / "clay.py").exists()


@pytest.mark.parametrize("digest", ["", "sha256:", "a", "0000000000"])
async def test_a_digest_that_says_too_little_finds_nothing(store, shelf, digest):
    await built(store, shelf, "clay")
    with pytest.raises(NotFound):
        store.find(digest)
