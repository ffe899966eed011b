"""Submit, go on with something else, ask for the result later."""

from time import perf_counter

from saggar import CodeTools

CODE = """
import time
for number in range(3):
    print(f"processing {number}", flush=True)
    time.sleep(0.3)
"""


def main() -> None:
    """The call returns before the code has begun; its result is kept for an hour."""
    # A worker is there from here on.
    CodeTools.execute_code("print('warm')", async_mode=True, cache=False)
    begun = perf_counter()
    sent = CodeTools.execute_code(CODE, async_mode=True, wait_for_result=False, cache=False)
    task_id = sent["task_id"]
    print(f"submitted: status={sent['status']} after {(perf_counter() - begun) * 1000:.0f} ms")

    early = CodeTools.get_task_result(task_id, timeout=0)
    print(f"at once: status={early['status']} success={early['success']}")

    final = CodeTools.get_task_result(task_id, timeout=30)
    print(f"later: status={final['status']}")
    print(final["stdout"], end="")


if __name__ == "__main__":
    main()
