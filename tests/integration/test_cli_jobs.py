"""`saggar submit`, `jobs`, `dead-letters`, `broker` and `worker`, as one types them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chaos.brokers import Worker

from saggar import NotFound, Task
from saggar.config import Settings
from saggar.jobs.broker import Embedded, celery_url
from saggar.jobs.submission import SyncDesk

SAGGAR = (sys.executable, "-m", "saggar")


@pytest.fixture(scope="module")
def broker() -> Iterator[Embedded]:
    state = Path(tempfile.mkdtemp(prefix="saggar-cli-"))
    found = Embedded(state).start()
    yield found
    found.close()
    shutil.rmtree(state, ignore_errors=True)  # its server may be on its way out


@pytest.fixture(scope="module")
def settings(broker: Embedded) -> Settings:
    return Settings(broker_url=broker.url(), blobs=str(broker.state / "blobs"))


@pytest.fixture(scope="module")
def env(settings: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "CELERY_BROKER_URL": settings.broker_url,
        "SAGGAR_BLOBS": settings.blobs,
    }


@pytest.fixture(scope="module")
def worker(settings: Settings, broker: Embedded) -> Iterator[Worker]:
    with Worker(settings, broker.state) as found:
        yield found


def saggar(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SAGGAR, *words], env=env, capture_output=True, text=True, timeout=40, check=False
    )


def test_a_job_that_is_waited_for_ends_as_a_run_does(env, worker):
    good = saggar(env, "submit", "-c", "print(6 * 7)", "--wait")
    bad = saggar(env, "submit", "-c", "import sys; sys.exit(3)", "--wait", "-q")
    slow = saggar(
        env,
        "submit",
        "-c",
        "import time; time.sleep(30)",
        "--wait",
        "--wall",
        "1s",
        "--grace",
        "1s",
    )

    assert (0, "42\n") == (good.returncode, good.stdout)
    assert good.stderr.startswith("saggar: ok · ")
    assert (3, "") == (bad.returncode, bad.stderr)
    assert 124 == slow.returncode


def test_a_file_with_its_arguments_its_input_and_what_it_leaves(env, worker, tmp_path):
    (tmp_path / "take.py").write_text(
        "import sys\nopen('out.txt', 'w').write(open('in.txt').read() + sys.argv[1])"
    )
    (tmp_path / "in.txt").write_text("in ")
    words = ("--input", "in.txt", "--output", "out.txt")

    run = subprocess.run(
        [*SAGGAR, "submit", "take.py", *words, "--wait", "--", "and more"],
        env=env, cwd=tmp_path, capture_output=True, text=True, timeout=40, check=True,
    )  # fmt: skip

    assert "in and more" == (tmp_path / "out.txt").read_text()
    assert "wrote out.txt" in run.stderr


def test_a_job_is_followed_and_then_looked_at(env, worker):
    code = "import time\nprint('one', flush=True)\ntime.sleep(1)\nprint('two')"
    submitted = saggar(env, "submit", "-c", code)
    job = submitted.stdout.strip()
    followed = saggar(env, "jobs", "logs", "-f", job[:8])
    again = saggar(env, "jobs", "logs", job)
    shown = saggar(env, "jobs", "show", job[:8])
    as_json = json.loads(saggar(env, "jobs", "show", job, "--json").stdout)
    listed = json.loads(saggar(env, "jobs", "ls", "--json").stdout)["jobs"]
    table = saggar(env, "jobs", "ls", "--state", "done").stdout

    assert (36, 0) == (len(job), submitted.returncode)
    assert (0, "one\ntwo\n") == (followed.returncode, followed.stdout)
    assert "ok" in followed.stderr
    assert "one\ntwo\n" == again.stdout
    assert f"id        {job}\nstate     done\n" in shown.stdout
    assert ("done", "one\ntwo\n") == (as_json["state"], as_json["result"]["stdout"])
    assert ("done", "ok", 1) == next(
        (each["state"], each["status"], each["attempts"]) for each in listed if each["id"] == job
    )
    assert job[:8] in table


def test_what_was_printed_so_far_is_there_without_following(env, worker, settings):
    desk = SyncDesk(settings)
    job = saggar(
        env, "submit", "-c", "print('up', flush=True)\nimport time\ntime.sleep(60)"
    ).stdout.strip()
    next(event for event in desk.of(job).events() if event.kind == "output")
    logs = saggar(env, "jobs", "logs", job)
    cancelled = saggar(env, "jobs", "cancel", job, "--json")
    result = desk.of(job).result(10)
    retried = saggar(env, "jobs", "retry", job)
    state = desk.of(job).job().state
    saggar(env, "jobs", "cancel", job)
    desk.close()

    assert (0, "up\n") == (logs.returncode, logs.stdout)
    assert {"cancelled": [job]} == json.loads(cancelled.stdout)
    assert "cancelled" == result.status
    assert 0 == retried.returncode, retried.stderr
    assert state in {"queued", "running"}


def test_ctrl_c_ends_the_waiting_and_not_the_job(env, worker, settings):
    code = "print('up', flush=True)\nimport time\ntime.sleep(60)"
    with subprocess.Popen(
        [*SAGGAR, "submit", "-c", code, "--wait"],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as waiting:  # fmt: skip
        assert waiting.stdout is not None
        first = waiting.stdout.readline()
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate(timeout=20)
    job = said.split()[-1]
    desk = SyncDesk(settings)
    state = desk.of(job).job().state
    desk.of(job).cancel()
    desk.close()

    assert ("up\n", 130, "running") == (first, waiting.returncode, state)
    assert "the job goes on: saggar jobs logs -f" in said


def test_a_delay_a_key_and_a_priority_are_taken(env, worker):
    words = ("submit", "-c", "print(1)", "--delay", "10m", "--key", "mine", "--priority", "0")
    first = json.loads(saggar(env, *words, "--json").stdout)
    again = json.loads(saggar(env, *words, "--json").stdout)
    saggar(env, "jobs", "cancel", first["id"])

    assert ("new", "joined", first["id"]) == (first["came"], again["came"], again["id"])


def test_what_a_program_says_does_not_move_the_cursor(env, worker, settings):
    desk = SyncDesk(settings)
    code = r"raise MemoryError('\x1b]0;mine\x07\x1b[2J\x9b31m')"
    job = desk.submit(Task.of(code), retry_on=["memory"])
    end = time.monotonic() + 20
    while job.job().state != "delayed":
        assert time.monotonic() < end
        time.sleep(0.05)
    shown = [saggar(env, "jobs", "show", job.id, *words).stdout for words in ((), ("--json",))]
    job.cancel()
    desk.close()

    assert all("MemoryError" in text for text in shown)
    assert not any(letter in text for text in shown for letter in "\x1b\x07\x9b")
    assert "\x1b[2J" in json.loads(shown[1])["failure"]["message"]


def test_dead_letters_are_shown_replayed_and_dropped(env, worker, settings):
    desk = SyncDesk(settings)
    with pytest.raises(NotFound, match="there is no NOWHERE"):
        desk.submit(Task.of("1", secrets=("NOWHERE",))).result(30)
    desk.close()
    letters = json.loads(saggar(env, "dead-letters", "ls", "--json").stdout)["dead_letters"]
    job = letters[0]["job_id"]
    table = saggar(env, "dead-letters", "ls").stdout
    shown = json.loads(saggar(env, "dead-letters", "show", job[:8]).stdout)
    raw = saggar(env, "broker", "cli", "LRANGE", "dead_letter", "0", "-1").stdout
    replayed = saggar(env, "dead-letters", "replay", job[:8])
    again = saggar(env, "jobs", "logs", "-f", job)
    dropped = json.loads(saggar(env, "dead-letters", "drop", job, "--json").stdout)
    nothing = saggar(env, "dead-letters", "show", job)

    assert job[:8] in table
    assert letters[0] == shown
    assert [shown] == [json.loads(line) for line in raw.splitlines()]
    assert 0 == replayed.returncode
    assert 2 == again.returncode
    assert {"dropped": [job]} == dropped
    assert (2, True) == (nothing.returncode, "no dead letter" in nothing.stderr)


@pytest.mark.parametrize(
    ("words", "detail"),
    [
        (("submit",), "first, before --input and --output: saggar submit analyse.py"),
        (("submit", "-c", "1", "--language", "command"), "saggar.submit(saggar.Command("),
        (("submit", "-c", "1", "--key", ""), "--key: wanted up to 200 printable characters"),
        (("submit", "-c", "1", "--tenant", "a b"), "--tenant: wanted a tenant such as 'team-a'"),
        (("submit", "-c", "1", "--delay", "8d"), "--delay: wanted seconds, a week at most"),
        (("submit", "-c", "1", "--delay", "soon"), "--delay: "),
        (("submit", "-c", "1", "--priority", "10"), "--priority: wanted 0 to 9"),
        (("submit", "-c", "1", "--driver", "docker"), "--driver: a worker's own choice"),
        (("submit", "-c", "1", "--queue", "dead_letter"), "--queue: wanted the name of a queue"),
        (("submit", "-c", "1", "--cahce"), "did you mean --cache?"),
        (("submit", "-c", "1", "--webhook", "http://127.0.0.1/"), "--webhook: 127.0.0.1 is"),
        (("jobs", "shw"), "did you mean 'show'?"),
        (("jobs",), "wanted one of"),
        (("jobs", "show", "none"), "there is no job 'none'"),
        (("jobs", "ls", "--limit", "0"), "--limit"),
        (("jobs", "cancel", ""), "ID: wanted a job's id, or how it begins, found an empty word"),
        (("dead-letters", "ls", "--limit", "0"), "--limit"),
        (("dead-letters", "drop", ""), "found an empty word"),
        (("dead-letters", "drop", "none"), "no dead letter of a job 'none'"),
        (("worker", "--concurrency", "0"), "--concurrency"),
        (("worker", "--queue", "dead_letter"), "--queue: wanted the name of a queue"),
        (("serve", "--port", "high"), "--port, PORT: wanted a number"),
    ],
)
def test_a_mistake_in_the_call_is_one_line(env, words, detail):
    run = saggar(env, *words)

    assert 2 == run.returncode
    assert detail in run.stderr
    assert 1 == run.stderr.count("\n")


@pytest.mark.parametrize(
    "words",
    [
        (*command, "--help")
        for command in [
            ("submit",), ("serve",), ("worker",), ("jobs",), ("jobs", "ls"), ("jobs", "logs"),
            ("dead-letters",), ("dead-letters", "show"), ("broker",), ("broker", "url"),
            ("broker", "cli"),
        ]
    ],
)  # fmt: skip
def test_help_is_an_answer(env, words):
    run = saggar(env, *words)

    assert 0 == run.returncode
    assert run.stdout.startswith(f"usage: saggar {' '.join(words[:-1])}")


@pytest.mark.parametrize("url", ["amqp://me:hush@host//", "unix://run/redis.sock", "redis.sock"])
def test_a_broker_that_is_none_is_refused_with_the_way_out(env, url):
    there = {**env, "CELERY_BROKER_URL": url}
    ours = saggar(there, "jobs", "ls")
    celerys = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "saggar.worker", "inspect", "ping"],
        env=there, capture_output=True, text=True, timeout=40, check=False,
    )  # fmt: skip

    for run in (ours, celerys):
        assert 2 == run.returncode
        assert "or unix:///run/redis.sock?db=0 for a socket; found " in run.stderr
        assert 1 == run.stderr.count("\n")
        assert "hush" not in run.stderr


def test_a_broker_that_is_not_there_is_said_in_three_seconds(env):
    start = time.monotonic()
    run = saggar({**env, "CELERY_BROKER_URL": "redis://:hush@127.0.0.1:1/0"}, "jobs", "ls")

    assert 70 == run.returncode
    assert "redis://:***@127.0.0.1:1/0 does not answer" in run.stderr
    assert time.monotonic() - start < 6


def test_the_url_is_one_that_celery_takes(env, broker):
    url = saggar(env, "broker", "url").stdout.strip()
    both = json.loads(saggar(env, "broker", "url", "--json").stdout)
    asked = saggar(env, "broker", "cli", "PING")
    wrong = saggar(env, "broker", "cli", "NOSUCH")

    assert f"redis+socket://{broker.socket}?virtual_host=0" == url
    assert f"redis+socket://{broker.socket}?virtual_host=1" == both["results"]
    assert "PONG\n" == asked.stdout
    assert "unknown command" in wrong.stdout + wrong.stderr


def test_the_worker_command_is_a_worker_on_the_queues_that_are_named(env, settings, broker):
    elsewhere = settings.replace(broker_url=broker.url(5), result_backend=broker.url(6))
    # One in each spelling, ours and Celery's, which reads these variables as well.
    there = {
        **env,
        "CELERY_BROKER_URL": broker.url(5),
        "SAGGAR_BROKER_URL": broker.url(5),
        "CELERY_RESULT_BACKEND": celery_url(broker.url(6)),
    }
    log = broker.state / "ours.log"
    with log.open("wb") as out, subprocess.Popen(
        [*SAGGAR, "worker", "--queue", "special", "--concurrency", "1", "--name", "ours@%h"],
        env=there, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            desk = SyncDesk(elsewhere)

            found = desk.submit(Task.of("print('special')"), queue="special").wait(40)
            desk.close()
        finally:
            process.terminate()
        code = process.wait(20)

    assert found.result is not None
    assert "special\n" == found.result.stdout
    assert str(found.worker).startswith("ours@")
    assert 0 == code, log.read_text()[-2000:]


def test_with_nothing_set_up_a_job_is_run_and_nobody_is_left(tmp_path_factory):
    """A broker and a worker of its own; both end by themselves when nobody needs them."""
    state = Path(tempfile.mkdtemp(prefix="saggar-own-"))
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CELERY_")},
        "SAGGAR_STATE_DIR": str(state),
    }
    run = saggar(env, "submit", "-c", "print('alone')", "--wait")
    shown = saggar(env, "jobs", "ls")
    end = time.monotonic() + 40
    while (left := processes_at(state)) and time.monotonic() < end:
        time.sleep(0.1)
    shutil.rmtree(state, ignore_errors=True)  # its server may be on its way out

    assert (0, "alone\n") == (run.returncode, run.stdout), run.stderr
    assert "done" in shown.stdout
    assert [] == left


def processes_at(state: Path) -> list[str]:
    """Those that have something to do with this state directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                said = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if str(state).encode() in said:
                found.append(entry.name)
    return found
