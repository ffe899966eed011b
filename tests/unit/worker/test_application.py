import os
import subprocess
import sys

NAMES = [
    "execute_code_async",
    "execute_code_heavy",
    "dead_letter_handler",
    "health_check",
    "cleanup_old_results",
]


def test_it_has_the_documented_tasks():
    from saggar.worker import app

    assert set(NAMES) <= app.tasks.keys()


def test_the_documented_option_names_queues():
    from celery.bin.worker import worker

    from saggar.worker import app

    (option,) = app.user_options["worker"]
    context = worker.make_context("worker", [], resilient_parsing=True)
    context.params["queues"] = ["one"]
    option.callback(context, option, ("two,three", "four"))

    assert ["one", "two", "three", "four"] == context.params["queues"]
    assert "--queue" in option.opts


def test_to_import_it_starts_no_broker(tmp_path):
    code = "import os, saggar.worker; print(os.listdir(os.environ['SAGGAR_STATE_DIR']))"

    run = subprocess.run(
        [sys.executable, "-c", code], env={"SAGGAR_STATE_DIR": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert "[]\n" == run.stdout


def test_what_a_worker_cannot_use_is_a_line_and_an_exit_code():
    env = {**os.environ, "SAGGAR_BLOBS": "nonsense", "CELERY_BROKER_URL": "redis://127.0.0.1:1/0"}

    run = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "saggar.worker", "worker"],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert 2 == run.returncode
    assert "Error: blobs: wanted a folder" in run.stderr
    assert "Traceback" not in run.stderr
