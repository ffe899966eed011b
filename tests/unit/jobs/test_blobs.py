import os
import time
from pathlib import Path

import pytest

from saggar.config import Settings
from saggar.errors import BlobsUnavailable, Expired, PlatformError, QueueUnavailable, UsageError
from saggar.jobs.blobs import (
    LARGE,
    RESULT,
    RESULTS,
    Filesystem,
    Folder,
    InRedis,
    chosen,
    pack,
    unpack,
)
from saggar.jobs.store import connect


def test_what_is_small_stays_where_it_is(tmp_path: Path):
    assert b"{}" == pack(Folder(tmp_path), b"{}")
    assert b"{}" == unpack(Folder(tmp_path), b"{}")
    assert [] == list(tmp_path.iterdir())


def test_what_is_large_is_kept_once_by_its_digest(tmp_path: Path):
    store, data = Folder(tmp_path), b"x" * LARGE

    first, second = pack(store, data), pack(store, data)

    assert first == second
    assert len(first) < 100
    assert data == unpack(store, first)
    assert 1 == len(list(tmp_path.glob("??/*")))


def test_what_is_gone_has_expired(tmp_path: Path):
    store = Folder(tmp_path)
    packed = pack(store, b"x" * LARGE)
    (path,) = tmp_path.glob("??/*")
    os.utime(path, (0, 0))

    assert 1 == store.sweep(60)
    with pytest.raises(Expired):
        unpack(store, packed)


def test_results_are_kept_for_less_long_than_jobs(tmp_path: Path):
    store = Folder(tmp_path)
    body, result = pack(store, b"x" * LARGE), pack(store, b"x" * LARGE, RESULT)
    for path in tmp_path.glob("??/*"):
        os.utime(path, (time.time() - 2 * RESULTS,) * 2)
    removed = store.sweep()

    assert 1 == removed
    assert b"x" * LARGE == unpack(store, body)
    with pytest.raises(Expired):
        unpack(store, result)


def test_a_folder_that_takes_nothing_is_said(tmp_path: Path):
    (tmp_path / "file").touch()

    with pytest.raises(BlobsUnavailable, match=r"the blobs in .*file cannot be used"):
        pack(Folder(tmp_path / "file"), b"x" * LARGE)


def test_a_redis_that_does_not_answer_is_said():
    store = InRedis(connect("redis://127.0.0.1:1/0"))

    with pytest.raises(BlobsUnavailable, match="the blobs in Redis cannot be reached"):
        store.put("x", b"x")
    with pytest.raises(BlobsUnavailable):
        store.get("x")


def test_what_was_changed_is_not_given_out(tmp_path: Path):
    store = Folder(tmp_path)
    packed = pack(store, b"x" * LARGE)
    (path,) = tmp_path.glob("??/*")
    path.write_bytes(b"y" * LARGE)

    with pytest.raises(PlatformError, match="something else"):
        unpack(store, packed)


def test_a_broker_of_our_own_has_a_folder_beside_it(tmp_path: Path):
    assert isinstance(chosen(Settings(), None, tmp_path), Folder)
    assert isinstance(chosen(Settings(), None, None), InRedis)
    assert isinstance(chosen(Settings(blobs="redis"), None, tmp_path), InRedis)
    assert isinstance(chosen(Settings(blobs=str(tmp_path)), None, None), Folder)
    with pytest.raises(UsageError, match="blobs"):
        chosen(Settings(blobs="nonsense"), None, None)


@pytest.fixture(params=["file", "memory"])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Filesystem:
    """Where fsspec reaches: with folders, and without any."""
    root = tmp_path if request.param == "file" else Path("/") / tmp_path.name
    return Filesystem(f"{request.param}://{root}/blobs")


def test_what_is_large_lies_where_a_url_says(elsewhere: Filesystem):
    data = b"x" * LARGE

    packed = pack(elsewhere, data)

    assert len(packed) < 100
    assert packed == pack(elsewhere, data)
    assert data == unpack(elsewhere, packed)
    assert 1 == len(elsewhere.files.ls(elsewhere.root))


def test_what_is_old_is_swept_there_and_what_is_young_stays(elsewhere: Filesystem):
    assert 0 == elsewhere.sweep(0)
    packed = pack(elsewhere, b"x" * LARGE)

    assert 0 == elsewhere.sweep(60)
    assert 1 == elsewhere.sweep(-60)
    with pytest.raises(Expired):
        unpack(elsewhere, packed)


def test_a_place_that_does_not_take_them_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    store = Filesystem(f"file://{tmp_path}/file/blobs")

    with pytest.raises(QueueUnavailable, match=r"the blobs at file://.* cannot be reached"):
        store.put("0" * 64, b"x")


def test_a_url_that_fsspec_does_not_know_is_refused():
    with pytest.raises(UsageError, match="Protocol not known: nowhere"):
        chosen(Settings(blobs="nowhere://bucket"), None, None)
