"""
Outer inits: started before it is known what they will build, so that nobody waits for that.

An init needs nothing of a policy until it is given its plan. Whoever knows early that there will be
a run, a command line say, has one started ahead and imports the rest of Saggar meanwhile; this
module therefore imports little itself.
"""

import os
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass

from saggar.drivers.interpreter import OPTIONS, bootstrap, bundle, find, memory_file


@dataclass(frozen=True, slots=True)
class Launched:
    """An init that waits for its plan, and the host's end of the socket it waits at."""

    process: "subprocess.Popen[bytes]"
    control: socket.socket


_ahead: list[Launched] = []
os.register_at_fork(after_in_child=_ahead.clear)  # it waits for our parent's plan, and dies with it


def ahead() -> None:
    """
    Start the init that the next `take` of this process gets.

    It ends with us if there is none.
    """
    with suppress(OSError):  # whoever takes one finds out, and says so to somebody
        _ahead.append(_launch())


def take() -> Launched:
    """An init that nobody else has. OSError when there is no room for one."""
    return _ahead.pop() if _ahead else _launch()


def _launch() -> Launched:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    passed = [theirs.detach()]
    try:
        passed.append(os.pidfd_open(os.getpid()))
        passed.append(memory_file("saggar-guest", bundle()))
        words = ["saggar.guest.init", str(passed[-1]), *map(str, passed)]
        process = subprocess.Popen(
            [find(None).executable, *OPTIONS, "-c", bootstrap(), *words],
            pass_fds=passed,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            # Ctrl-C in the caller's terminal is the caller's to act on.
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        for fd in passed:
            os.close(fd)
    return Launched(process, ours)
