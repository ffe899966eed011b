import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from saggar import Policy
from saggar.config import Settings
from saggar.jobs import spare


def test_logs_have_an_end_and_what_goes_is_kept_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(spare, "LONGEST_LOG", 100)
    log = tmp_path / spare.LOG
    with log.open("ab", buffering=0) as writer:
        writer.write(b"a" * 101)
        spare.trim(tmp_path)
        writer.write(b"b")
        spare.trim(tmp_path)

    assert b"b" == log.read_bytes()
    assert b"a" * 101 == Path(f"{log}.1").read_bytes()


def test_a_worker_for_all_has_no_ceiling_of_the_first_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    began: list[Any] = []
    monkeypatch.setattr(subprocess, "run", lambda *_, env, **__: began.append(env))

    spare.start(Settings(ceiling=Policy(), log_file="/tmp/mine.log"), tmp_path)
    said = Settings.model_validate_json(began[0][spare.SETTINGS])

    assert said.ceiling is None
    assert (tmp_path, Path("/tmp/mine.log")) == (said.state_dir, said.log_file)
    assert os.environ.items() <= began[0].items()
