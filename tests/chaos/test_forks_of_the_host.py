"""A host that forks, and one with many threads: each process has a platform of its own."""

import pytest
from tests.chaos.family import Family
from tests.chaos.hosts import hear, host

CHILD_FIRST = """
if os.fork() == 0:
    say("child " + saggar.run("print(1)").stdout.strip())
    os._exit(0)
os.wait()
say("parent " + saggar.run("print(2)").stdout.strip())
"""
PARENT_FIRST = """
saggar.run("pass")
if os.fork() == 0:
    for number in range(5):
        assert saggar.run(f"print({number})").stdout == f"{number}\\n"
    say("child well")
    os._exit(0)
for number in range(5):
    assert saggar.run(f"print({number})").stdout == f"{number}\\n"
assert os.wait()[1] == 0
say("parent " + saggar.run("print('well')").stdout.strip())
"""
PREFORK = """
saggar.run("pass")
def work(number):
    for turn in range(10):
        assert saggar.run(f"print({number}, {turn})").stdout == f"{number} {turn}\\n"
for number in range(4):
    if os.fork() == 0:
        status = 1
        try:
            work(number)
            status = 0
        finally:
            os._exit(status)
statuses = [os.wait()[1] for _ in range(4)]
say("workers " + str(statuses))
work(9)
say("parent well")
"""
POOLS = """
import multiprocessing
def double(n):
    return int(saggar.run(f"print({n} * 2)").stdout)
if __name__ == "__main__":
    saggar.run("pass")
    with multiprocessing.get_context("fork").Pool(2) as pool:
        say(str(pool.map(double, range(6))))
    say("parent " + saggar.run("print('well')").stdout.strip())
"""
THREADS = """
answers = {}
def work(number):
    answers[number] = [saggar.run(f"print({number})").stdout for _ in range(10)]
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
say(str(answers == {n: [f"{n}\\n"] * 10 for n in range(8)}))
"""
LOOP = """
import asyncio
async def main():
    inside = saggar.run("print(1)").stdout
    beside = await asyncio.to_thread(saggar.run, "print(2)")
    async with saggar.Platform() as platform:
        own = await platform.run("print(3)")
    say((inside + beside.stdout + own.stdout).replace("\\n", " "))
asyncio.run(main())
"""
LOOPS = """
import asyncio
async def main(number):
    async with saggar.Platform() as platform:
        return (await platform.run(f"print({number})")).stdout
say("".join(asyncio.run(main(n)) for n in range(3)).replace("\\n", " "))
"""
FORKS_WHILE_BUSY = """
saggar.run("pass")  # a fork in the middle of another thread's import is lost in any program
busy = threading.Thread(target=lambda: [saggar.run("print(1)") for _ in range(100)])
busy.start()
for number in range(10):
    if os.fork() == 0:
        os._exit(saggar.run(f"raise SystemExit({number})").exit_code)
codes = sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(10))
busy.join()
say(str(codes == [*range(10)]))
"""
DAEMON = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        say("daemon " + saggar.run("print(1)").stdout.strip())
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (CHILD_FIRST, ["child 1", "parent 2"]),
        (PARENT_FIRST, ["child well", "parent well"]),
        (PREFORK, ["workers [0, 0, 0, 0]", "parent well"]),
        (POOLS, ["[0, 2, 4, 6, 8, 10]", "parent well"]),
        (THREADS, ["True"]),
        (LOOP, ["1 2 3 "]),
        (LOOPS, ["0 1 2 "]),
        (FORKS_WHILE_BUSY, ["True"]),
        (DAEMON, ["daemon 1"]),
    ],
    ids=["child", "both", "prefork", "pool", "threads", "loop", "loops", "busy", "daemon"],
)
def test_everybody_is_served_and_nobody_is_left(family: Family, account, code: str, said: list):
    heard = b""
    with host(account, code) as process:
        while more := hear(process):
            heard += more

        assert said == heard.decode().splitlines()
        assert 0 == process.wait(10)
    assert [] == family.left()
