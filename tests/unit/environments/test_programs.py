"""Programs that were compiled: whole or not there, and gone when nobody asks for them."""

import os
import time

import pytest

from saggar.environments.programs import MONTH, Programs
from saggar.errors import PrepareFailed

DIGEST = "ab" * 32


@pytest.fixture
def programs(tmp_path):
    return Programs(tmp_path)


def test_nothing_is_touched_before_it_is_used(programs, tmp_path):
    assert programs.find(DIGEST) is None
    assert 0 == programs.gc()
    assert [] == list(tmp_path.iterdir())


def test_what_is_kept_is_found_read_only_and_executable(programs):
    place = programs.keep(DIGEST, b"\x7fELF")

    assert place == programs.find(DIGEST) == programs.place(DIGEST)
    assert b"\x7fELF" == (place / "program").read_bytes()
    assert 0o555 == (place / "program").stat().st_mode & 0o777
    assert 0o755 == place.stat().st_mode & 0o777


def test_a_folder_without_the_marker_is_no_program(programs):
    place = programs.keep(DIGEST, b"x")
    (place / ".complete").unlink()

    assert programs.find(DIGEST) is None


def test_what_a_dead_build_left_without_the_marker_makes_room(programs):
    place = programs.keep(DIGEST, b"old")
    (place / ".complete").unlink()
    programs.keep(DIGEST, b"new")

    assert programs.find(DIGEST) == place
    assert b"new" == (place / "program").read_bytes()


def test_whoever_is_second_finds_the_first_ones(programs):
    programs.keep(DIGEST, b"first")
    place = programs.keep(DIGEST, b"second")

    assert b"first" == (place / "program").read_bytes()
    assert [] == list((place.parent / "building").iterdir())


def test_what_nobody_asked_for_in_a_month_goes(programs):
    old, used = programs.keep("aa" * 32, b"x"), programs.keep("bb" * 32, b"x")
    long_ago = time.time() - MONTH - 60
    for place in (old, used):
        os.utime(place / "used", (long_ago, long_ago))
    programs.find("bb" * 32)

    assert 1 == programs.gc()
    assert not old.exists()
    assert used.exists()


def test_what_a_dead_build_left_goes_and_a_living_one_stays(programs):
    building = programs.keep(DIGEST, b"x").parent / "building"
    for name in ("dead", "living"):
        (building / name).mkdir()
    long_ago = time.time() - 7200
    os.utime(building / "dead", (long_ago, long_ago))

    assert 1 == programs.gc()
    assert ["living"] == [path.name for path in building.iterdir()]


async def test_one_builds_at_a_time(programs):
    async with programs.turn(DIGEST) as first:
        assert os.fstat(first)
    async with programs.turn(DIGEST):
        pass


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "programs").write_text("a file")

    with pytest.raises(PrepareFailed, match="the program cannot be kept"):
        Programs(tmp_path).keep(DIGEST, b"x")
