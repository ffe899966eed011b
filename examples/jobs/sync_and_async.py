"""
The same code twice: here while the caller waits, and by a worker.

Needs no set-up: without CELERY_BROKER_URL the first submission starts a broker and a worker, which
is what it waits for; the second shows what a job costs from then on.
"""

from time import perf_counter

from saggar import CodeTools

CODE = """
import math
print(sum(math.sqrt(n) for n in range(100_000)))
"""


def timed(**options: object) -> tuple[dict[str, object], float]:
    """What came of it, and the milliseconds that the caller waited."""
    begun = perf_counter()
    found = CodeTools.execute_code(CODE, cache=False, **options)  # type: ignore[arg-type]
    return found, (perf_counter() - begun) * 1000


def main() -> None:
    """Each with what it printed, and how long the caller waited beyond the code's own time."""
    for name, options in (
        ("sync", {}),
        ("async, first", {"async_mode": True}),
        ("async, second", {"async_mode": True}),
    ):
        found, waited = timed(**options)
        beyond = waited - float(str(found["execution_time_ms"]))
        print(f"{name}: success={found['success']} stdout={str(found['stdout']).strip()}")
        print(f"  task_id={found['task_id']} overhead={beyond:.0f} ms")


if __name__ == "__main__":
    main()
