import base64
import io
import sys

import pytest

from saggar.cli import shell
from saggar.cli.cells import Screen, ending
from saggar.cli.images import Gallery, drawn, image, protocol
from saggar.cli.shell import asked_about, parser, request, require, script
from saggar.errors import UsageError
from saggar.model.event import Cleared, Displayed, Finished, Output
from saggar.model.limits import Limits
from saggar.model.result import Display, ErrorInfo, Status

PNG = b"\x89PNG\r\n\x1a\n"
BUNDLE = {"image/png": base64.b64encode(PNG).decode() + "\n", "text/plain": "<Figure>"}


class Piped(io.TextIOWrapper):
    """A stream that is no terminal."""


def feed(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", Piped(io.BytesIO(content)))


@pytest.fixture
def screen(tmp_path):
    return Screen(Limits(), Gallery(str(tmp_path / "images")), colours=False)


@pytest.fixture
def colours(tmp_path):
    return Screen(Limits(), Gallery(str(tmp_path / "images")), colours=True, inline="iterm2")


def result(**data):
    return Displayed(
        display=Display(data={k.replace("_", "/"): v for k, v in data.items()}, role="result")
    )


def finished(status=Status.OK, **more):
    return Finished(status=status, isolation="jail", **more)


@pytest.mark.parametrize(
    ("content", "cells"),
    [
        (b"", []),
        (b"\n\n", []),
        (b"x = 1\nx\n", ["x = 1\nx"]),
        (b"# %% one\nx\n#%%\n\n# %%\ny # %% no\n", ["x", "y # %% no"]),
        (b"\xef\xbb\xbfx", ["x"]),
        (b"  x = 1", ["  x = 1"]),
    ],
)
def test_cells_are_divided_by_their_lines(monkeypatch, content, cells):
    feed(monkeypatch, content)

    assert cells == script()


def test_a_script_is_text(monkeypatch):
    feed(monkeypatch, b"x = '\xff'")
    with pytest.raises(UsageError, match="not UTF-8"):
        script()


def test_a_script_has_an_end(monkeypatch):
    monkeypatch.setattr(shell, "LONGEST", 3)
    feed(monkeypatch, b"1234")
    with pytest.raises(UsageError, match="at most"):
        script()


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("print?", ("print", 0)),
        ("?print", ("print", 0)),
        ("a.b??", ("a.b", 1)),
        (" %timeit? ", ("%timeit", 0)),
        ("print", None),
        ("f(x)?", None),
        ("'what?'", None),
        ("?", None),
    ],
)
def test_a_question_is_a_name_with_its_mark(code, found):
    assert found == asked_about(code)


def test_the_options_of_a_session():
    options = parser().read(["--preload", "code", "--package", "numpy", "--memory", "1GiB"])
    found = request(options)

    assert ("code", ("numpy",), 1 << 30) == (
        found["preload"],
        found["environment"].packages,
        found["policy"].limits.memory,
    )


def test_an_extra_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        UsageError, match=r"the shell needs prompt_toolkit: pip install 'saggar\[shell\]'"
    ):
        require()


@pytest.mark.parametrize(
    ("environ", "how"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm2"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux"}, None),
        ({}, None),
    ],
)
def test_a_terminal_says_how_it_draws(environ, how):
    assert how == protocol(environ)


def test_kitty_takes_it_in_pieces():
    content = bytes(range(256)) * 20
    text = drawn("image/png", content, "kitty")
    pieces = [piece.partition(";") for piece in text.replace("\x1b_G", "").split("\x1b\\")[:-1]]

    assert ["a=T,f=100,m=1", "m=0"] == [head for head, _, _ in pieces]
    assert content == base64.b64decode("".join(data for _, _, data in pieces))


@pytest.mark.parametrize(
    ("media", "how"), [("image/jpeg", "kitty"), ("image/svg+xml", "iterm2"), ("image/png", "sixel")]
)
def test_what_cannot_be_drawn_is_not(media, how):
    assert "" == drawn(media, PNG, how)


def test_the_image_of_a_bundle_is_its_best_form():
    assert ("image/png", PNG) == image({"image/svg+xml": "<svg/>", **BUNDLE})
    assert ("image/svg+xml", b"<svg/>") == image({"image/svg+xml": "<svg/>"})
    assert image({"text/plain": "x"}) is None
    assert image({"image/png": "no base64!"}) is None


def test_an_image_is_a_file_and_no_older_one_is_lost(screen, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_text("older")
    screen.say(Displayed(display=Display(data=BUNDLE)))

    assert f"{tmp_path}/images/2.png\n" == capsys.readouterr().out
    assert PNG == (tmp_path / "images" / "2.png").read_bytes()


def test_an_image_is_drawn_as_well(colours, capsys):
    colours.say(Displayed(display=Display(data=BUNDLE)))
    drawing, path, _ = capsys.readouterr().out.split("\n")

    assert drawing.startswith("\x1b]1337;File=inline=1")
    assert path.endswith("/images/1.png")


def test_a_result_has_its_number_where_somebody_talks(screen, capsys):
    screen.begin("Out[3]: ")
    screen.say(result(text_plain="42"))
    screen.say(result(text_plain="[1,\n 2]"))
    screen.begin()
    screen.say(result(text_plain="42"))

    assert "Out[3]: 42\nOut[3]: \n[1,\n 2]\n42\n" == capsys.readouterr().out


def test_output_is_passed_on_to_where_it_belongs(screen, capfd):
    screen.say(Output(stream="stdout", data=b"\xff out"))
    screen.say(Output(stream="stderr", data=b"err"))
    found = capfd.readouterr()

    assert ("\ufffd out", "err") == (found.out, found.err)


def test_colours_are_for_terminals_only(screen, colours, capsys):
    error = ErrorInfo(type="E", message="m", traceback="line\nE: m")
    event = finished(Status.ERROR, error=error)
    screen.say(event)
    plain = capsys.readouterr().err
    colours.say(event)
    coloured = capsys.readouterr().err

    assert ("line\nE: m\n", "line\n\x1b[31mE: m\x1b[0m\n") == (plain, coloured)


def test_a_line_that_was_cleared_goes_when_the_next_thing_comes(colours, screen, capsys):
    for one in (colours, screen):
        one.say(Cleared(wait=True))
        one.say(Output(stream="stdout", data=b"50 %"))
        one.say(Cleared())

    assert "\r\x1b[K50 %\r\x1b[K50 %" == capsys.readouterr().out


def test_a_reset_says_what_became_of_the_interpreter(screen, capsys):
    error = ErrorInfo(type="SessionReset", message="it ended itself; what it remembered is lost")
    screen.say(finished(Status.ERROR, error=error, session_reset=True))

    said = capsys.readouterr().err

    assert "saggar: session reset: it ended itself; what it remembered is lost\n" == said


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (finished(), ""),
        (finished(Status.ERROR), ""),
        (finished(truncated=True), "output truncated"),
        (finished(Status.TIMEOUT, limit="wall"), "timeout: its limit of wall is 10 s (--wall)"),
        (finished(Status.TIMEOUT, limit="cpu"), "timeout: its limit of cpu is 10 s (--cpu)"),
        (
            finished(Status.OUTPUT, limit="output"),
            "output: its limit of output is 1 MiB (--output-limit)",
        ),
        (
            finished(Status.ERROR, limit="file_size"),
            "error: its limit of file_size is 64 MiB (--file-size)",
        ),
        (finished(Status.CANCELLED), "cancelled"),
    ],
)
def test_an_end_is_a_line_that_names_the_option(event, said):
    assert said == ending(event, Limits())
