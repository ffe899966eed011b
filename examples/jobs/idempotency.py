"""The same code again within an hour: served from the first run, and what that saves."""

import os
from time import perf_counter

from saggar import CodeTools

CODE = f"""
import time
time.sleep(1)
print("computed once, for process {os.getpid()}")
"""


def timed() -> tuple[dict[str, object], float]:
    """The result, and the milliseconds it took."""
    begun = perf_counter()
    found = CodeTools.execute_code(CODE, async_mode=True)
    return found, (perf_counter() - begun) * 1000


def main() -> None:
    """Twice the same, and once more although it is known."""
    # A worker is there from here on.
    CodeTools.execute_code("print('warm')", async_mode=True, cache=False)
    first, slow = timed()
    second, fast = timed()
    print(f"first: {slow:.0f} ms  second: {fast:.1f} ms  speed-up: {slow / fast:.0f} x")
    print(f"same code_hash: {first['code_hash'] == second['code_hash']}")
    print(f"same run: {first['task_id'] == second['task_id']}")

    again = CodeTools.execute_code(CODE, async_mode=True, cache=False)
    print(f"cache=False runs again: {again['task_id'] != first['task_id']}")


if __name__ == "__main__":
    main()
