import subprocess
import sys
from pathlib import Path

import pytest

import saggar
from saggar.boundary.parts import Parts


class Point(Parts):
    x: int
    y: int


def test_a_part_is_found_by_its_name_and_by_its_number():
    point = Point(1, 2)

    assert [1, 2] == [point.x, point.y]
    assert (1, 2) == tuple(point) == point
    assert 2 == point[1]


@pytest.mark.parametrize("parts", [(), (1,), (1, 2, 3)])
def test_a_part_too_few_or_too_many_is_refused_with_what_there_is(parts):
    with pytest.raises(TypeError, match="Point has exactly x, y"):
        Point(*parts)


def test_parts_do_not_change():
    with pytest.raises(AttributeError):
        Point(1, 2).x = 3


def test_an_init_starts_without_the_imports_that_take_longest():
    """Of the package only its modules: inside, `saggar` itself is empty."""
    code = """
import sys, types
saggar = sys.modules["saggar"] = types.ModuleType("saggar")
saggar.__path__ = [sys.argv[1]]
import saggar.guest.init
print(*{"collections", "dataclasses", "enum", "functools", "typing"}.intersection(sys.modules))
"""
    words = [sys.executable, "-I", "-S", "-c", code, str(Path(saggar.__file__).parent)]

    found = subprocess.run(words, check=True, capture_output=True, text=True)

    assert "" == found.stdout.strip()
