import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saggar.model.paths import absolute, is_inside, printable, relative, utf8, without_nul

PIECES = st.lists(st.sampled_from(["a", "b", "..", ".", "", "data", " "]), max_size=8)
PATHS = PIECES.map(lambda pieces: "/" + "/".join(pieces))


@pytest.mark.parametrize(
    ("path", "name"), [("a", "a"), ("a/b", "./a//b"), ("a b", "a b"), ("...", "...")]
)
def test_a_name_is_kept_without_what_means_nothing(path, name):
    assert path == relative(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "./", "/", "/etc/passwd", "..", "../a", "a/..", "a/../../b", "a/", "a\0b", "a" * 256,
     "a/" * 2100 + "b", "a\udcff"],
)  # fmt: skip
def test_a_name_that_could_leave_or_cannot_be_is_refused(name):
    with pytest.raises(ValueError, match=r"must be a relative path|longer than|no UTF-8 form"):
        relative(name)


@given(PIECES.map("/".join))
def test_what_is_taken_as_relative_stays_inside(name):
    try:
        path = relative(name)
    except ValueError:
        return

    assert posixpath.normpath("/work/" + name) == "/work/" + path


@pytest.mark.parametrize("path", ["", "data", "./data", "~", "/a\0b", "/" + "a" * 256, "/a\udcff"])
def test_a_path_that_is_not_absolute_is_refused(path):
    with pytest.raises(ValueError, match=r"must be an absolute|longer than|no UTF-8 form"):
        absolute(path)


@given(PATHS)
def test_an_absolute_path_has_one_spelling(path):
    assert absolute(path) == absolute(absolute(path))
    assert not {"", ".", ".."} & set(absolute(path).split("/")[1:]) or "/" == absolute(path)


@pytest.mark.parametrize(
    ("expected", "path", "prefix"),
    [
        (True, "/data", "/data"),
        (True, "/data/a", "/data"),
        (True, "/data/a", "/"),
        (True, "//data/a", "/data/"),
        (False, "/database", "/data"),
        (False, "/data/../etc", "/data"),
        (False, "/", "/data"),
    ],
)
def test_a_prefix_ends_at_a_slash(expected, path, prefix):
    assert expected == is_inside(absolute(path), absolute(prefix))


@given(PATHS, PATHS, PATHS)
def test_being_inside_is_transitive(one, two, three):
    one, two, three = absolute(one), absolute(two), absolute(three)

    assert not (is_inside(one, two) and is_inside(two, three)) or is_inside(one, three)


@pytest.mark.parametrize("text", ["", "a\nb", "a\0", "\x1b[31m", "\udcff"])
def test_a_name_for_people_holds_no_control_characters(text):
    with pytest.raises(ValueError, match=r"^a thing must be printable"):
        printable(text, "a thing")


@pytest.mark.parametrize("text", ["a\0b", "\udcff"])
def test_what_the_kernel_would_cut_or_json_cannot_hold_is_refused(text):
    with pytest.raises(ValueError, match=r"NUL|UTF-8"):
        without_nul(text)


@given(st.text())
def test_any_text_that_can_be_written_is_taken(text):
    assert text == utf8(text)
