"""Host processes to do things to: each says on its stdout how far it has come."""

import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BEGIN = """
import os, sys, threading
import saggar

def say(step):
    os.write(1, step.encode() + b"\\n")

def relay(code, **options):
    import anyio
    from saggar.model.event import Output
    async def main():
        async with saggar.Platform() as platform:
            async for event in platform.events(code, **options):
                if isinstance(event, Output):
                    os.write(1, event.data)
    anyio.run(main)
"""

FAMILY = """
import os, signal, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(60)
        os._exit(0)
print("running", flush=True)
time.sleep(60)
"""
"""A guest with a family of deaf daemons."""

HOSTS = {
    "opening": "say('opening'); saggar.run('print(1)')",
    "parked": "saggar.run('pass'); say('parked'); threading.Event().wait()",
    "running": f"relay({FAMILY!r}, limits={{'wall': 60}})",
    "many": (
        f"[threading.Thread(target=saggar.run, args=({FAMILY!r},)).start() for _ in range(8)];"
        "relay('print(\"running\", flush=True); import time; time.sleep(60)', limits={'wall': 60})"
    ),
    "flooded": (
        "relay('while True: print(\"running\" * 100)', limits={'output': '4GiB', 'wall': 60})"
    ),
    "between": "saggar.run('pass'); say('between'); [saggar.run('print(1)') for _ in range(9999)]",
}
"""What a host does, by the step at which something happens to it."""


@contextmanager
def host(account: tuple[str, dict[str, Any]], code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A host under way; dead at the end."""
    python, options = account
    argv = [python, "-W", "ignore::DeprecationWarning", "-c", BEGIN + code]
    with subprocess.Popen(
        argv, **options, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def hear(process: subprocess.Popen[bytes], within: float = 20) -> bytes:
    """The next thing it says; nothing if it ends first or keeps silent."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], within)
    return process.stdout.read(1 << 16) or b"" if ready else b""
