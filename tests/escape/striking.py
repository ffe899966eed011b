"""
Strikers: processes that work through a shipped suite, as whoever runs the tests and as others.

All of them start with the first test that asks, and work side by side: most of what they do is
waiting for deadlines.
"""

import json
import os
import signal
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
ATTACKS, CONFORMANCE = "saggar.testing.attacks", "saggar.testing.conformance"


@dataclass(frozen=True)
class Case:
    """One attack or check of a suite, against one driver, as one kind of user."""

    suite: str
    account: str
    driver: str
    name: str

    def __str__(self) -> str:
        return f"{self.account}-{self.driver}-{self.name}"


class Striker:
    """A process that does what it was told, one after the other, and reports."""

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

    def report(self, name: str) -> dict[str, Any]:
        """What came of one of its tasks; waits for its turn."""
        while name not in self._reports:
            try:
                report = self._heard.get(timeout=PATIENCE)
            except Empty:
                pytest.fail(f"nothing was heard of {name} for {PATIENCE} s")
            if report is None:
                pytest.fail(f"the striker ended with {self._process.wait()} before {name}")
            self._reports[report["name"]] = report
        return self._reports[name]

    def dismiss(self) -> None:
        """End it so that it takes away what it planted, if it is not done."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._process.wait()
        self._listener.join()


class Strikers:
    """One striker for each user and driver that the tests of this session name."""

    def __init__(self, request: pytest.FixtureRequest, suite: str) -> None:
        self._request = request
        self._suite = suite
        self._wanted: dict[tuple[str, str], list[str]] = {}
        self._strikers: dict[tuple[str, str], Striker | BaseException] = {}
        for item in request.session.items:
            case = getattr(item, "callspec", NONE).params.get("case")
            if isinstance(case, Case) and case.suite == suite:
                self._wanted.setdefault((case.account, case.driver), []).append(case.name)

    def report(self, case: Case) -> dict[str, Any]:
        """What came of this case, once its striker comes to it."""
        if not self._strikers:
            for key, names in self._wanted.items():
                self._strikers[key] = self._started(*key, names)
        striker = self._strikers[case.account, case.driver]
        if isinstance(striker, BaseException):
            raise striker
        return striker.report(case.name)

    def _started(self, account: str, driver: str, names: list[str]) -> Striker | BaseException:
        """The striker, or why this kind of user cannot be had here."""
        try:
            return self._start(account, ["-m", self._suite, "--json", "--driver", driver, *names])
        except (pytest.skip.Exception, pytest.fail.Exception) as left:
            return left

    def _start(self, account: str, command: list[str]) -> Striker:
        if account == "ours":
            return Striker([sys.executable, *command], {})
        user = self._request.getfixturevalue("ordinary_user")
        before = ["-c", CORNERED] if account == "cornered" else []
        return Striker([str(user.python), *before, *command], user.options)

    def dismiss(self) -> None:
        for striker in self._strikers.values():
            if isinstance(striker, Striker):
                striker.dismiss()


def accounts() -> list[str]:
    """Root tries everything once more as somebody without privileges, and without namespaces."""
    return ["ours", "ordinary", "cornered"] if os.geteuid() == 0 else ["ours", "cornered"]
