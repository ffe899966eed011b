"""The main path of sessions without walls, and by users without privileges."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT, missing
from tests.integration import session_path
from tests.integration.session_path import walk

import saggar

TRUSTED = saggar.Policy(
    isolation="process",
    network="host",
    best_effort={"cpu_share", "disk", "inodes", "memory", "processes"},
)


def reaching_the_index(options: dict[str, Any]) -> dict[str, Any]:
    """With the variables by which whoever runs this finds it."""
    ways = ("UV_", "PIP_", "SSL_", "REQUESTS_CA")
    kept = {
        n: v for n, v in os.environ.items() if n.startswith(ways) or n.lower().endswith("_proxy")
    }
    return {**options, "env": {**options.get("env", os.environ), **kept}}


async def test_sessions_work_without_walls():
    await walk(driver="process", policy=TRUSTED)


async def test_sessions_work_behind_walls():
    await walk(driver="jail")


@pytest.mark.timeout(120)
def test_sessions_work_for_somebody_without_privileges(ordinary_user):
    uv = (str(ROOT / "scripts" / "uv"), "--quiet", "pip", "install", "--link-mode=copy")
    into = ("--python", str(ordinary_user.python))
    # What IPython's layer is built with; it comes with the extra that sessions need elsewhere.
    made = subprocess.run((*uv, *into, "uv"), check=False, umask=0o022, stderr=subprocess.PIPE)
    source = Path(session_path.__file__).read_text()
    found = replace(ordinary_user, options=reaching_the_index(ordinary_user.options)).run(
        ordinary_user.python, "-c", source, timeout=100
    )
    if made.returncode or "PrepareFailed" in found.stderr:
        missing(f"no index answers this user: {(made.stderr.decode() or found.stderr)[-300:]}")

    assert "walked\n" == found.stdout, found.stderr
