"""What attackers once got, one test each; too long-winded for the catalogue of attacks."""

import os
import time
from pathlib import Path

import pytest

from saggar import Platform
from saggar.model.codec import decode_value
from saggar.model.event import Finished

CORNERED = (Path(__file__).parent / "cornered.py").read_text()
SWAP = """
import os, sys, anyio, saggar
from saggar.config import Settings
from saggar.model.environment import Environment, Mount
from saggar.model.limits import LIMIT_NAMES

base = os.path.realpath(sys.argv[1])
share, below, private = (base + name for name in ("/share", "/share/below", "/private"))
for folder in (share, below, private):
    os.mkdir(folder)
with open(private + "/key", "w") as file:
    file.write("the host's secret")

def mounted(source, read_only):
    mount = Mount(source=source, target=source, read_only=read_only)
    return {
        "environment": Environment(mounts=(mount,)),
        "policy": saggar.Policy(
            isolation="landlock", mounts=(share,), shares=(share,), best_effort=LIMIT_NAMES
        ),
    }

async def main():
    swap = f"import os; os.rename({below!r}, {below!r} + '-'); os.symlink({private!r}, {below!r})"
    look = f"print(open({private + '/key'!r}).read())"
    async with saggar.Platform(Settings(warm=0)) as platform:
        first = await platform.run("pass", **mounted(below, True))
        assert first.isolation == "landlock", first.isolation
        await platform.run("pass", **mounted(below, True))
        assert (await platform.run(swap, **mounted(share, False))).ok
        for _ in range(3):
            try:
                print((await platform.run(look, **mounted(below, True))).stdout)
            except saggar.SaggarError as refusal:
                print(type(refusal).__name__)

anyio.run(main)
"""
PLANT = """
import os, sys, saggar
from saggar.model.environment import Environment, Mount

share = os.path.realpath(sys.argv[1])
result = saggar.run(
    "import os, shutil; shutil.copyfile('/usr/bin/env', '/srv/env'); os.chmod('/srv/env', 0o4755)",
    environment=Environment(mounts=(Mount(source=share, target="/srv", read_only=False),)),
    policy=saggar.Policy(mounts=(share,), shares=(share,)),
    limits={"file_size": "64MiB"},
)
print(oct(os.stat(share + "/env").st_mode))
"""


@pytest.fixture
def folder(ordinary_user) -> Path:
    """A folder of the ordinary user's that nobody has used."""
    found: Path = ordinary_user.home / f"open-{time.monotonic_ns()}"
    found.mkdir()
    if os.geteuid() == 0:
        owner = ordinary_user.home.stat()
        os.chown(found, owner.st_uid, owner.st_gid)
    return found


def test_a_mounted_folder_that_a_guest_made_a_link_leads_nowhere(ordinary_user, folder: Path):
    """
    Without namespaces: one task may write a folder, another one reads a folder below it, and the
    first makes a link of that.
    """
    done = ordinary_user.run(ordinary_user.python, "-c", CORNERED, "-c", SWAP, folder)

    assert (0, "") == (done.returncode, done.stderr)
    assert "the host's secret" not in done.stdout


def test_a_program_with_its_owners_power_is_not_left_in_a_share(ordinary_user, folder: Path):
    """The guest of an ordinary user writes as that user, and anybody on the host may run it."""
    done = ordinary_user.run(ordinary_user.python, "-c", PLANT, folder)

    assert (0, "") == (done.returncode, done.stderr)
    assert 0 == int(done.stdout, 8) & 0o6000


LEAVE = """
import os, signal, socket, struct
one = socket.socket(socket.AF_UNIX)
one.bind("\\0left-by-another")
with socket.socket(fileno=os.dup(3)) as channel:
    channel.send(struct.pack("<BBxxII", 1, 6, 11, 0) + b'{"exit": 0}')
    for _ in range(3):
        socket.send_fds(channel, [b"x"], [one.fileno()])
signal.pause()
"""
LOOK = "print('left-by-another' in open('/proc/net/unix').read())"


async def test_names_of_a_run_whose_answer_is_being_read_are_not_seen_by_the_next():
    """Sockets that wait in the host's channel outlive their process, in a network used again."""
    async with Platform() as platform:
        held = [platform.events(LEAVE) for _ in range(4)]
        for events in held:
            async for event in events:
                if isinstance(event, Finished):
                    break
        seen = [(await platform.run(LOOK)).stdout.strip() for _ in range(12)]
        for events in held:
            await events.aclose()

    assert ["False"] * 12 == seen


def test_long_numbers_cost_no_more_than_short_ones():
    """Four megabytes of them hold the interpreter's lock, and so the event loop, for a second."""
    long, short = (b"[" + b",".join([b"9" * n] * ((1 << 20) // (n + 1))) + b"]" for n in (299, 9))

    assert cost(long) < 3 * cost(short)


def cost(value: bytes) -> float:
    times = []
    for _ in range(3):
        start = time.process_time()
        decode_value(value, "application/json")
        times.append(time.process_time() - start)
    return min(times)
