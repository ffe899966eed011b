"""Strikers: processes that carry out attacks, as whoever runs the tests and as others."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

PATIENCE = 55
CORNERED = (Path(__file__).parent / "cornered.py").read_text()
NONE = SimpleNamespace(params={})
STRIKE = ["-m", "saggar.testing.attacks", "--json", "--driver"]


@dataclass(frozen=True)
class Case:
    """One attack, against one driver, as one kind of user."""

    account: str
    driver: str
    attack: str


class Striker:
    """A process that carries out its attacks one after the other, while others do theirs."""

    def __init__(self, argv: list[str], options: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            argv, **options, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        self._heard: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._reports: dict[str, dict[str, Any]] = {}
        self._listener = Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._heard.put(json.loads(line))
        self._heard.put(None)

    def report(self, attack: str) -> dict[str, Any]:
        """What came of one attack; waits for its turn."""
        while attack not in self._reports:
            try:
                report = self._heard.get(timeout=PATIENCE)
            except Empty:
                pytest.fail(f"nothing was heard of {attack} for {PATIENCE} s")
            if report is None:
                pytest.fail(f"the striker ended with {self._process.wait()} before {attack}")
            self._reports[report["attack"]] = report
        return self._reports[attack]

    def dismiss(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()


class Strikers:
    """One striker for each user and driver; all are at work as soon as one is asked for."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self._wanted: dict[tuple[str, str], list[str]] = {}
        for item in request.session.items:
            case = getattr(item, "callspec", NONE).params.get("case")
            if isinstance(case, Case):
                self._wanted.setdefault((case.account, case.driver), []).append(case.attack)
        self._strikers: dict[tuple[str, str], Striker] = {}

    def report(self, case: Case) -> dict[str, Any]:
        if not self._strikers:
            self._strikers = {
                key: self._start(*key, wanted) for key, wanted in self._wanted.items()
            }
        return self._strikers[case.account, case.driver].report(case.attack)

    def _start(self, account: str, driver: str, attacks: list[str]) -> Striker:
        command = [*STRIKE, driver, *attacks]
        if account == "ours":
            return Striker([sys.executable, *command], {})
        user = self._request.getfixturevalue("ordinary_user")
        before = ["-c", CORNERED] if account == "cornered" else []
        return Striker([str(user.python), *before, *command], user.options)

    def dismiss(self) -> None:
        for striker in self._strikers.values():
            striker.dismiss()


def accounts() -> list[str]:
    """Root tries everything once more as somebody without privileges, and without namespaces."""
    return ["ours", "ordinary", "cornered"] if os.geteuid() == 0 else ["ours", "cornered"]
