"""The documented face; what a worker does for it is in tests/integration/test_jobs.py."""

import pytest

from saggar import Environment, InvalidTask, PolicyDenied, Result, Status
from saggar.functions import codetools
from saggar.functions.codetools import KEYS, CodeTools
from saggar.model.result import ErrorInfo, Usage


def test_code_is_run_here_and_now_unless_a_worker_is_wanted():
    found = CodeTools.execute_code("print(6 * 7)")

    assert (True, "42\n", "", 0) == tuple(
        found[key] for key in ("success", "stdout", "stderr", "returncode")
    )
    assert set(KEYS) == found.keys()
    assert found["task_id"] is None


def test_the_packages_beside_us_are_found():
    found = CodeTools.execute_code("import numpy as np\nprint(np.array([1, 2, 3]).mean())")

    assert "2.0\n" == found["stdout"], found["stderr"]


def test_another_environment_is_a_setting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAGGAR_CODE_ENVIRONMENT", "bare")

    assert "ModuleNotFoundError" in CodeTools.execute_code("import numpy")["stderr"]


def test_a_setting_names_an_environment():
    assert Environment.host() == codetools.environment("host")
    assert Environment() == codetools.environment("bare")
    assert ("numpy", "pandas==2.*") == codetools.environment("numpy, pandas==2.*").packages


def test_a_failure_is_told_by_its_exit_code():
    found = CodeTools.execute_code("import sys; sys.exit(3)")

    assert (False, 3, "error") == (found["success"], found["returncode"], found["status"])


def test_what_takes_too_long_is_interrupted():
    found = CodeTools.execute_code("import time; time.sleep(20)", timeout=0.5)

    assert (False, "timeout") == (found["success"], found["status"])
    assert found["returncode"] != 0


def test_an_operators_ceiling_holds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAGGAR_CEILING__HOST_PACKAGES", "false")

    with pytest.raises(PolicyDenied, match="host_packages"):
        CodeTools.execute_code("print(1)")


def test_what_is_no_text_is_refused():
    with pytest.raises(InvalidTask, match="wanted text"):
        CodeTools.execute_code(42)  # type: ignore[arg-type]


def test_memory_is_the_programs_own_and_signals_are_negative():
    result: Result = Result(
        status=Status.KILLED,
        isolation="jail",
        signal="SIGSEGV",
        usage=Usage(wall=0.5, memory=3 * 2**20),
        error=ErrorInfo(type="X"),
    )

    found = codetools.answer_of(result, "hash")

    assert (-11, 3.0, 500, "hash") == (
        found["returncode"], found["memory_used_mb"], found["execution_time_ms"],
        found["code_hash"],
    )  # fmt: skip


def test_code_is_looked_at_and_never_run(tmp_path):
    """Each of them, given a program that leaves a file if anything of it is run."""
    trace = tmp_path / "trace"
    code = f"import numpy\nopen({str(trace)!r}, 'w')\ndef f(x: int): return x\n"

    assert CodeTools.validate_syntax(code)[0]
    assert ["numpy"] == CodeTools.extract_dependencies(code)
    assert "import numpy\n\nopen(" in CodeTools.format_code(code)
    assert '"""F."""' in CodeTools.add_docstrings(code)
    assert CodeTools.check_code_quality(code)["has_type_hints"]
    assert not trace.exists()
