"""Five jobs at once: all are submitted before the first is waited for."""

from time import perf_counter

from saggar import CodeTools

COUNT = 5
CODE = """
import time
time.sleep(0.5)
print({number} ** 2)
"""


def main() -> None:
    """Their results in the order in which they were submitted, and what the whole took."""
    # A worker is there from here on.
    CodeTools.execute_code("print('warm')", async_mode=True, cache=False)
    begun = perf_counter()
    sent = [
        CodeTools.execute_code(
            CODE.format(number=number), async_mode=True, wait_for_result=False, cache=False
        )
        for number in range(COUNT)
    ]
    results = [CodeTools.get_task_result(one["task_id"], timeout=60) for one in sent]
    took = perf_counter() - begun

    for number, found in enumerate(results):
        print(f"job {number}: {found['stdout'].strip()} on {found['worker_id']}")
    ran = sum(found["execution_time_ms"] for found in results) / 1000
    print(f"{COUNT} jobs: {ran:.1f} s of work in {took:.1f} s")


if __name__ == "__main__":
    main()
