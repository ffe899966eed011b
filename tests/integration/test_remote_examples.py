"""The examples of remote functions, and every block of Python in their documentation."""

import re
import subprocess
import sys
from contextlib import suppress

import pytest
from tests.conftest import ROOT
from tests.integration.terminal import terminal

EXAMPLES = ROOT / "examples" / "remote"


def ran(*argv, timeout=55):
    return subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.mark.timeout(300)  # packages come from an index, over whatever line there is
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("map.py", r"longest below 1001: 871, 178 steps\n"),
        (
            "model_class.py",
            (
                r"trained in [\d.]+ s: it knows drizzle, fog, rain, snow, sun\n"
                r"8\d% of 922 days named as they were\n"
                r"101 calls of one instance, [\d.]+ ms each\n"
            ),
        ),
        (
            "numpy_data.py",
            (
                "Seattle: 16.4 degrees, 9.0 more or less, warmest on day 201\n"
                r"New York: 17.\d degrees, 1\d.\d more or less, warmest on day 20\d\n"
            ),
        ),
    ],
)
def test_an_example_runs_by_itself(name, said):
    found = ran(EXAMPLES / name, timeout=280)

    assert "" == found.stderr
    assert re.fullmatch(said, found.stdout), found.stdout


@pytest.mark.timeout(300)
def test_the_bar_of_a_thousand_calls_keeps_to_its_line():
    with terminal(EXAMPLES / "map.py", program=(sys.executable,), columns=50) as typed:
        assert 0 == typed.end(250)
        bar, *said = typed.raw.decode().split("\r\n")
    shown = bar.replace("\x1b[K", "").split("\r")[1:]

    assert ["longest below 1001: 871, 178 steps", ""] == said
    assert {49} == {len(line) for line in shown}
    assert re.fullmatch(r"\[#+\] 1000/1000 \d+/s", shown[-1])
    assert re.fullmatch(r"\[ *\] \d+/1000 \d+/s", shown[0])


def asserted(line):
    """A line of the documentation whose comment is a value, as a check of that."""
    code, _, comment = line.partition("  # ")
    with suppress(SyntaxError):
        for one in (code, comment):
            compile(one.strip(), "documented", "eval")
        indent = code[: len(code) - len(code.lstrip())]
        return f"{indent}assert ({comment.strip()}) == (found := {code.strip()}), found"
    return line


def test_what_the_documentation_shows_is_what_comes_of_it(tmp_path):
    text = (ROOT / "docs" / "remote.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [asserted(line) for block in blocks for line in block.splitlines()]
    program = tmp_path / "documented.py"
    program.write_text("\n".join(lines))
    found = ran(program)

    assert "" == found.stderr
    assert 7 == sum("found := " in line for line in lines)
