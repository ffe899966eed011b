"""
Load on the jobs' API, for locust:

    uvx locust -f tests/load/test_code_execution.py --host=http://localhost:8000
    ... --headless --users 20 --spawn-rate 5 --run-time 1m --csv build/load

beside `saggar serve --port 8000` and workers. SAGGAR_KEY is shown if it is set. Locust is not one
of our dependencies: without it there is nothing in this file, and pytest finds no test in it.

`submit to result` is the line to look at: what a user waits for a job, beyond which the queue grows
instead. Every answer is checked: a fast wrong one is a failure.
"""

import os
import time
from typing import Any

try:
    from locust import HttpUser, constant_pacing, task
except ImportError:
    HttpUser = None

JOBS = "/v1/jobs"
WAIT = 30
"""Seconds for which a result is waited for."""

if HttpUser is not None:

    class Submitter(HttpUser):
        """Somebody who submits a job a second, whatever became of the one before."""

        wait_time = constant_pacing(1)

        def on_start(self) -> None:
            """With the key, where there is one."""
            if key := os.environ.get("SAGGAR_KEY"):
                self.client.headers["Authorization"] = f"Bearer {key}"
            self.number = 0

        @task(8)
        def run_and_wait(self) -> None:
            """A job of its own each time, and its result."""
            self.number += 1
            wanted = f"{id(self)} {self.number}"
            self._until_result({"code": f"print({wanted!r})"}, "ok", f"{wanted}\n")

        @task(2)
        def served_again(self) -> None:
            """What everybody asks for: one run for all."""
            job = {"code": "print('Hello, World!')", "cache": True}
            self._until_result(job, "ok", "Hello, World!\n")

        @task(1)
        def fail(self) -> None:
            """A program that fails is a result like any other."""
            self._until_result({"code": "1 / 0"}, "error", "")

        @task(1)
        def fire_and_forget(self) -> None:
            """Nobody looks at it again."""
            self._submit({"code": "print(6 * 7)"})

        def _until_result(self, job: dict[str, Any], status: str, stdout: str) -> None:
            begun = time.perf_counter()
            links = self._submit(job)
            if links is None:
                return
            name = f"{JOBS}/ID/result"
            with self.client.get(
                links["result"], params={"wait": WAIT}, name=name, catch_response=True
            ) as answer:
                if answer.status_code != 200:
                    answer.failure(f"no result after {WAIT} s: {answer.status_code}")
                    return
                found = answer.json()
                if (found["status"], found["stdout"]) != (status, stdout):
                    answer.failure(f"wanted {status} {stdout!r}, found {answer.text[:200]}")
                    return
            self.environment.events.request.fire(
                request_type="JOB",
                name="submit to result",
                response_time=(time.perf_counter() - begun) * 1000,
                response_length=0,
                exception=None,
                context={},
            )

        def _submit(self, job: dict[str, Any]) -> dict[str, str] | None:
            with self.client.post(JOBS, json=job, catch_response=True) as answer:
                if answer.status_code != 202:
                    answer.failure(f"not taken in: {answer.status_code} {answer.text[:200]}")
                    return None
                links: dict[str, str] = answer.json()["links"]
                return links
