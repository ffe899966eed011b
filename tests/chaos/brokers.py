"""A Celery worker of ours as an operator starts it, and what may happen to it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from saggar.config import Settings
from saggar.jobs import spare

PATIENCE = 40


class Worker:
    """`celery -A saggar.worker worker`, ready when the block begins, gone when it ends."""

    def __init__(self, settings: Settings, folder: Path, *words: str, name: str = "celery") -> None:
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("SAGGAR_")},
            spare.SETTINGS: settings.model_dump_json(),
            "DATABASE_URL": "postgres://not-for-guests",
        }
        self.name, self.log = name, folder / f"{name}.log"
        self._argv = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "saggar.worker"]
        self._words = words or ("--concurrency=2",)

    def __enter__(self) -> Self:
        words = ["worker", "--loglevel=info", "-n", f"{self.name}@%h", *self._words]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*self._argv, *words],
                env=self.env,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.hear(" ready.")
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(PATIENCE / 2)
        except subprocess.TimeoutExpired:
            self.kill()

    def hear(self, word: str) -> None:
        """Until its log has it."""
        end = time.monotonic() + PATIENCE
        while word not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def kill(self) -> None:
        """The worker and its pool, as a machine dies."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def celery(self, *words: str) -> str:
        """Another command of Celery's on the same application."""
        run = subprocess.run(
            [*self._argv, *words], env=self.env, capture_output=True, text=True, timeout=40,
            check=True,
        )  # fmt: skip
        return run.stdout
