"""The examples of remote functions, and every block of Python in their documentation."""

import re
import subprocess
import sys
from contextlib import suppress

import pytest
from tests.conftest import ROOT

EXAMPLES = ROOT / "examples" / "remote"


def ran(*argv):
    return subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, timeout=55, check=False
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("map.py", "longest below 1001: 871, 178 steps"),
        ("model_class.py", "759 of 922 days named as they were, calls 922"),
        ("numpy_data.py", "Seattle: 16.4 degrees, 9.0 more or less, warmest on day 201"),
    ],
)
def test_an_example_runs_by_itself(name, said):
    found = ran(EXAMPLES / name)

    assert "" == found.stderr
    assert said in found.stdout


def asserted(line):
    """A line of the documentation whose comment is a value, as a check of that."""
    code, _, comment = line.partition("  # ")
    with suppress(SyntaxError):
        compile(comment.strip(), "comment", "eval")
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
