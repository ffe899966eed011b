from saggar.jobs.calls import Counts
from saggar.telemetry.metrics import render

STAND = Counts(
    at=1000.0,
    depth={"code_execution": 7, "other": 0},
    oldest={"code_execution": 2.5, "other": 0.0},
    listed={"code_execution": 4, "other": 0},
    running=2,
    delayed=1,
    dead=3,
    unacked=5,
    totals={
        "wait:code_execution:0.01": 4,
        "wait:code_execution:5": 1,
        "waited_ms:code_execution": 2040,
        "retries": 6,
        "done:ok": 4,
        "ran:ok": 4,
        "ran_ms:ok": 800,
    },
    workers={
        "celery@one": {
            "queues": ["code_execution"],
            "slots": 2,
            "at": 999.0,
            "stuck": 12.0,
            "scratch_free": 10,
            "scratch_size": 100,
        }
    },
)


def lines(accept=""):
    return render(STAND, accept)[0].decode().splitlines()


def test_every_queue_says_what_waits_and_since_when():
    found = lines()

    assert 'celery_queue_depth{queue="code_execution"} 7.0' in found
    assert 'celery_queue_depth{queue="other"} 0.0' in found
    assert 'saggar_queue_oldest_seconds{queue="code_execution"} 2.5' in found


def test_waits_are_a_histogram_whose_buckets_hold_all_shorter_ones():
    found = lines()

    assert 'saggar_job_wait_seconds_bucket{le="0.01",queue="code_execution"} 4.0' in found
    assert 'saggar_job_wait_seconds_bucket{le="1",queue="code_execution"} 4.0' in found
    assert 'saggar_job_wait_seconds_bucket{le="+Inf",queue="code_execution"} 5.0' in found
    assert 'saggar_job_wait_seconds_sum{queue="code_execution"} 2.04' in found


def test_what_runs_and_what_came_of_it_is_counted():
    found = lines()

    assert {
        "saggar_jobs_running 2.0",
        "saggar_unacked_messages 5.0",
        "saggar_job_retries_total 6.0",
        "saggar_dead_letters 3.0",
        'saggar_jobs_finished_total{status="ok"} 4.0',
        'saggar_job_run_seconds_count{status="ok"} 4.0',
        'saggar_job_run_seconds_sum{status="ok"} 0.8',
    } <= set(found)


def test_a_queue_that_nobody_reads_says_so():
    found = lines()

    assert 'saggar_workers{queue="code_execution"} 1.0' in found
    assert 'saggar_workers{queue="other"} 0.0' in found
    assert 'saggar_worker_slots{queue="code_execution"} 2.0' in found


def test_a_worker_says_that_it_lives_and_what_room_it_has():
    found = lines()

    assert 'saggar_worker_seen_timestamp_seconds{worker="celery@one"} 999.0' in found
    assert 'saggar_scratch_free_bytes{worker="celery@one"} 10.0' in found
    assert 'saggar_worker_stuck_seconds{worker="celery@one"} 12.0' in found
    assert "saggar_workers_stuck_total 0.0" in found


def test_the_newer_form_is_there_for_who_asks_for_it():
    content, media_type = render(STAND, "application/openmetrics-text")

    assert media_type.startswith("application/openmetrics-text")
    assert content.endswith(b"# EOF\n")
