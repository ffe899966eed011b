import pytest

from saggar.cli.arguments import Parser, split
from saggar.cli.options import parser
from saggar.errors import UsageError


def test_what_follows_two_dashes_is_the_programs():
    assert (["run", "-q"], ["-q", "--", "x"]) == split(["run", "-q", "--", "-q", "--", "x"])


def test_without_two_dashes_the_program_gets_no_arguments():
    assert (["a"], []) == split(["a"])


def test_a_misspelled_option_names_the_nearest():
    with pytest.raises(UsageError, match="has no option --memroy; did you mean --memory"):
        parser().read(["-c", "1", "--memroy=5"])


def test_an_option_like_no_other_points_to_the_help():
    with pytest.raises(UsageError, match="see saggar run --help"):
        parser().read(["-c", "1", "--verbose"])


@pytest.mark.parametrize("word", ["data.csv", "--its-own"])
def test_a_word_for_the_program_is_told_where_it_goes(word):
    with pytest.raises(UsageError, match="the program's own arguments go after --"):
        parser().read(["x.py", word])


@pytest.mark.parametrize(
    ("words", "way_out"),
    [
        (["--wall", "-1s"], "--wall: wanted a value, found '-1s'; .*: --wall=-1s"),
        (["--wall", "2s", "--wall", "-1s"], "--wall: wanted a value, found '-1s'"),
        (["--package", "--index-url=x"], "--package: .*: --package=--index-url=x"),
        (["-c", "-x"], "-c: .*: -c=-x"),
        (["--wall"], "--wall: wanted a value, found none; see saggar run --help"),
        (["--input"], "--input: wanted a value, found none"),
    ],
)
def test_a_value_that_looks_like_an_option_is_told_how_to_be_one(words, way_out):
    with pytest.raises(UsageError, match=way_out):
        parser().read(["x.py", *words])


def test_a_value_that_begins_with_a_dash_can_be_joined():
    assert "-x" == parser().read(["-c=-x"]).code


def test_an_abbreviation_is_not_guessed():
    with pytest.raises(UsageError, match="has no option --mem"):
        parser().read(["-c", "1", "--mem", "1"])


def test_a_word_too_many_is_named():
    with pytest.raises(UsageError, match="no use for 'extra'"):
        Parser("gc", "").read(["extra"])


@pytest.mark.parametrize(
    "words",
    [
        ["x.py", "--wall", "2s", "--input", "a", "b", "-q"],
        ["-q", "x.py", "--input", "a", "b", "--wall", "2s"],
        ["--wall", "2s", "-q", "x.py", "--input", "a", "--input", "b"],
        ["--input", "a", "b", "--wall", "2s", "x.py", "-q"],
    ],
)
def test_options_may_stand_in_any_order(words):
    options = parser().read(words)

    assert ("x.py", "2s", ["a", "b"], True) == (
        options.file,
        options.wall,
        options.input,
        options.quiet,
    )


def test_two_parsers_share_no_list():
    """A default list that `extend` wrote into would show up in the next run of this process."""
    parser().read(["x.py", "--input", "a", "--env", "A=1"])

    assert [] == parser().read(["x.py"]).input
    assert [] == parser().read(["x.py"]).env
