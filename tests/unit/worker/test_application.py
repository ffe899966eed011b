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
