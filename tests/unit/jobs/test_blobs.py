import os
from pathlib import Path

import pytest

from saggar.config import Settings
from saggar.errors import Expired, PlatformError, UsageError
from saggar.jobs.blobs import LARGE, Folder, InRedis, chosen, pack, unpack


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
