import os
import stat
import tempfile

import pytest
from tests.unit.child import in_child

from saggar.drivers.jail import folders


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where this process makes its folders, for the length of a test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left(temporary):
    return [path.name for path in temporary.iterdir()]


def test_a_folder_lives_as_long_as_its_block(temporary):
    with folders.held() as folder:
        assert [os.path.basename(folder)] == left(temporary)
        assert 0o711 == stat.S_IMODE(os.stat(folder).st_mode)

    assert [] == left(temporary)


def test_it_goes_even_when_the_block_fails(temporary):
    with pytest.raises(ZeroDivisionError), folders.held():
        raise ZeroDivisionError

    assert [] == left(temporary)


def test_it_goes_with_all_that_is_in_it_however_deep(temporary):
    with folders.held() as folder:
        here = os.open(folder, os.O_RDONLY)
        for _ in range(1200):
            os.mkdir("deeper", dir_fd=here)
            here, above = os.open("deeper", os.O_RDONLY, dir_fd=here), here
            os.close(above)
        os.close(here)

    assert [] == left(temporary)


def test_a_sweep_takes_what_the_dead_have_left_and_nothing_that_is_held(temporary):
    def die_holding():
        block = folders.held()
        block.__enter__()
        os._exit(0)  # while it is held

    for _ in range(2):
        with pytest.raises(ChildProcessError):
            in_child(die_holding)
    with folders.held() as folder:
        assert 3 == len(left(temporary))
        assert 2 == folders.sweep()
        assert [os.path.basename(folder)] == left(temporary)


def test_a_sweep_passes_over_what_only_has_the_name(temporary):
    (temporary / f"{folders.PREFIX}file").write_text("somebody's")
    (temporary / "folder").mkdir()
    (temporary / f"{folders.PREFIX}link").symlink_to("folder")
    (temporary / f"{folders.PREFIX}nowhere").symlink_to("missing")

    assert 0 == folders.sweep()
    assert 4 == len(left(temporary))


@pytest.mark.root
def test_a_sweep_passes_over_what_is_somebody_elses(temporary):
    folder = temporary / f"{folders.PREFIX}other"
    folder.mkdir()
    os.chown(folder, 65534, 65534)

    assert 0 == folders.sweep()
    assert [folder.name] == left(temporary)


def test_a_sweep_of_nothing_is_nothing():
    assert 0 == folders.sweep()
