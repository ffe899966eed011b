"""Which interpreter runs in an image. The engine is a fake: it only says what lies where."""

import subprocess
import sys

import pytest

from saggar.drivers.docker.engine import Engine, Image
from saggar.drivers.docker.interior import brought, interior, loader_of, refuse_strangers
from saggar.drivers.interpreter import find
from saggar.errors import DriverUnavailable, InvalidTask

BARE = Image("some/image", "sha256:1", {"PATH": "/usr/local/bin:/usr/bin"}, (), "/")


class Shelf(Engine):
    """An engine that makes one container, looks into it, and removes it."""

    def __init__(self, *paths):
        super().__init__("unix:///nowhere")
        self.paths = paths
        self.made = []
        self.removed = []

    def create(self, spec):
        self.made.append(spec)
        return "c1"

    def holds(self, container, path):
        return container == "c1" and path in self.paths

    def remove(self, container):
        self.removed.append(container)


def test_an_images_own_interpreter_is_the_newest_on_its_path(tmp_path):
    engine = Shelf("/usr/bin/python3.11", "/usr/bin/python3.13", "/opt/python3.14")

    found = interior(engine, BARE, "", tmp_path)

    assert (("/usr/bin/python3.13",), (3, 13), ()) == (found.argv, found.version, found.mounts)
    assert ["c1"] == engine.removed


def test_the_first_folder_of_its_path_goes_first(tmp_path):
    engine = Shelf("/usr/bin/python3.13", "/usr/local/bin/python3.12")

    assert ("/usr/local/bin/python3.12",) == interior(engine, BARE, "", tmp_path).argv


def test_one_that_is_too_old_is_none(tmp_path):
    assert interior(Shelf("/usr/bin/python3.10"), BARE, "", tmp_path).mounts


def test_what_was_found_is_remembered_for_the_same_image_only(tmp_path):
    engine = Shelf("/usr/bin/python3.13")
    interior(engine, BARE, "", tmp_path)
    interior(engine, BARE, "", tmp_path)
    interior(engine, Image("other", "sha256:2", {}, (), "/"), "", tmp_path)

    assert ["sha256:1", "sha256:2"] == [spec["Image"] for spec in engine.made]


def test_the_interpreter_of_this_machine_is_brought_along_where_it_is_wanted(tmp_path):
    engine = Shelf("/usr/bin/python3.13")

    found = interior(engine, BARE, sys.executable, tmp_path)

    assert found.argv[-1].startswith("/opt/saggar/python/")
    assert [] == engine.made


def test_what_is_brought_starts_through_its_own_loader():
    """Here, where everything stands at its usual place: the same words, without the mounts."""
    found = brought(find(None))
    places = {target: source for source, target in found.mounts}

    def here(word):
        for target, source in places.items():
            word = word.replace(target, source)
        return word

    argv = [*map(here, found.argv), "-I", "-c", "import sys, ssl; print(sys.version_info[:2])"]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, env={})

    assert f"{sys.version_info[:2]}\n" == ran.stdout, ran.stderr


def test_a_program_that_names_no_loader_cannot_be_brought(tmp_path):
    script = tmp_path / "python3"
    script.write_text("#!/bin/sh\n" + " " * 64)

    with pytest.raises(DriverUnavailable, match="names no loader"):
        loader_of(str(script))


def test_packages_for_another_python_are_refused_with_the_way_out():
    with pytest.raises(InvalidTask, match=r"built for Python 3\.11, and image 'i' runs 3\.13"):
        refuse_strangers((3, 13), (3, 11, 2), "i")
    refuse_strangers((3, 11), (3, 11, 2), "i")
