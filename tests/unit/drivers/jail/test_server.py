"""The host's end of a fork server: with the test in the server's place, then with a real one."""

import asyncio
import os
import select
import signal
import socket
import subprocess
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from tests.conftest import missing
from tests.unit.engine.fakes import eventually

from saggar.boundary import control as ctl
from saggar.boundary.wallplan import Entry
from saggar.drivers.base import Exit
from saggar.drivers.interpreter import find
from saggar.drivers.jail import server as module
from saggar.drivers.jail.plan import STAGING, Ground, Ids, compile_plan
from saggar.drivers.jail.process import pid_of
from saggar.drivers.jail.server import ForkServer, running
from saggar.errors import Overloaded, SandboxBroken
from saggar.model.limits import Limits
from saggar.model.plan import WarmKey

ALL = len(ctl.DESCRIPTORS)


class Inside:
    """The server, played: it hears what is asked and answers what the test wants."""

    def __init__(self):
        ours, self.socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.socket.settimeout(5)
        # What a child's process and its pid 1 are, and the outer init: somebody who only waits.
        self.init, self.process, self.first = (
            subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
            for _ in range(3)
        )
        self.server = ForkServer(self.init, ours)
        self.stopped = False

    def asked(self):
        """The next record, and how many descriptors came with it."""
        data, fds, _, _ = socket.recv_fds(self.socket, ctl.MAX_RECORD, 16)
        for fd in fds:
            os.close(fd)
        return ctl.unpack(data), len(fds)

    def answer(self, kind, serial, *rest, fds=(), **named):
        socket.send_fds(self.socket, [ctl.pack(kind, serial, *rest, **named)], list(fds))

    def parked(self, serial, count=ALL, text="/work"):
        """A child was born: the descriptors of it, or some of them."""
        null = os.open("/dev/null", os.O_RDWR)
        process, first = os.pidfd_open(self.process.pid), os.pidfd_open(self.first.pid)
        fds = [null, null, null, null, null, process, null, first][:count]
        self.answer(ctl.PARKED, serial, fds=fds, text=text)
        for fd in (null, process, first):
            os.close(fd)

    async def stop(self):
        """The host is done with it."""
        self.stopped = True
        await self.server.stop()

    async def close(self):
        self.socket.close()
        self.init.kill()
        if not self.stopped:
            await self.server.stop()
        self.server._control.close()  # in case that nobody listened
        for process in (self.init, self.process, self.first):
            process.kill()
            process.communicate()


@pytest.fixture
async def inside():
    made = Inside()
    yield made
    await made.close()


@asynccontextmanager
async def listening(inside):
    """The listener at work, as long as the block lasts."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(inside.server.listen)
        try:
            yield inside.server
        finally:
            tasks.cancel_scope.cancel()


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


async def born(inside, *arguments, count=ALL, text="/work", **options):
    """A child, asked for and given: the answer lies there before anybody waits for it."""
    inside.parked(inside.server.born + 1, count, text)
    return await inside.server.park(*arguments, **options)


async def killed(process):
    """Until it is dead, by a kill."""
    ended = os.pidfd_open(process.pid)
    with anyio.fail_after(5):
        await anyio.wait_readable(ended)
    os.close(ended)
    assert -signal.SIGKILL == process.wait()


async def test_a_child_is_asked_for_with_the_ways_into_its_cgroups(inside):
    async with listening(inside):
        child = await born(inside, [0, 1, 2], hurried=True)
        child.handles().close()

        assert (ctl.Record(ctl.PARK, 1, 1, 0.0, 0, ""), 3) == inside.asked()
        assert 1 == inside.server.born


async def test_a_child_is_born_when_its_descriptors_arrive(inside):
    async with listening(inside):
        child = await born(inside)
        handles = child.handles()

        assert "/work" == child.cwd
        assert -1 not in {getattr(handles, name) for name in handles.__slots__}
        handles.close()


async def test_a_child_without_namespaces_has_two_descriptors_fewer(inside):
    async with listening(inside):
        child = await born(inside, count=ALL - 2, text="/tmp/x/work")
        handles = child.handles()

        assert (-1, -1, "/tmp/x/work") == (handles.space, handles.init, child.cwd)
        handles.close()


async def test_a_tree_is_ended_by_its_pid_1(inside):
    async with listening(inside):
        handles = (await born(inside)).handles()
        handles.kill()
        await killed(inside.first)
        handles.kill()  # and once more, now that there is nobody
        handles.close()

    assert inside.process.poll() is None


async def test_without_a_pid_1_the_first_process_is_ended(inside):
    async with listening(inside):
        handles = (await born(inside, count=ALL - 2)).handles()
        handles.kill()
        handles.close()
        await killed(inside.process)

    assert inside.first.poll() is None


async def test_what_a_child_sent_is_closed_once_and_not_twice(inside):
    before = open_descriptors()
    async with listening(inside):
        handles = (await born(inside)).handles()
        assert before + ALL == open_descriptors()
        os.close(handles.stdin)
        handles.stdin = -1  # as at the end of its input
        handles.close()

        assert before == open_descriptors()


async def test_a_child_that_cannot_be_born_says_why(inside):
    inside.answer(ctl.FAILED, 1, text="mount refused")
    async with listening(inside) as server:
        with pytest.raises(SandboxBroken, match="mount refused"):
            await server.park()

        assert server.alive


async def test_what_a_child_had_that_could_not_be_born_is_given_back_at_its_end(inside):
    """Not before: it may be in there still."""
    given_back = []
    inside.answer(ctl.FAILED, 1, text="mount refused")
    async with listening(inside) as server:
        with pytest.raises(SandboxBroken):
            await server.park(on_end=lambda: given_back.append(1))
        assert [] == given_back
        inside.answer(ctl.GONE, 1)
        await eventually(lambda: given_back)


@pytest.mark.parametrize("count", [0, 3, ALL - 1])
async def test_a_child_whose_descriptors_do_not_all_fit_is_not_born(inside, count):
    before = open_descriptors()
    async with listening(inside):
        with pytest.raises(SandboxBroken, match="no descriptors left to receive"):
            await born(inside, count=count)

        assert before == open_descriptors()


async def test_what_nobody_asked_for_is_closed_again(inside):
    before = open_descriptors()
    inside.parked(77)
    inside.parked(78, count=3)
    inside.answer(ctl.GONE, 79)
    inside.answer(ctl.FAILED, 80, text="?")
    inside.answer(99, 81)
    async with listening(inside):
        (await born(inside)).handles().close()  # which comes behind all these

        assert before == open_descriptors()


async def test_how_a_child_ended_is_what_the_server_saw(inside):
    async with listening(inside):
        children = [await born(inside) for _ in range(2)]
        inside.answer(ctl.GONE, 1, 7 << 8, 1.5, 4096)
        inside.answer(ctl.GONE, 2, signal.SIGSEGV, 0.5, 8192)

        assert Exit(7, None, 1.5, 4096) == await children[0].wait()
        assert Exit(None, signal.SIGSEGV, 0.5, 8192) == await children[1].wait()
        for child in children:
            child.handles().close()


async def test_what_a_child_had_is_given_back_when_it_is_dead_and_only_once(inside):
    given_back = []
    async with listening(inside):
        child = await born(inside, on_end=lambda: given_back.append(1))
        assert [] == given_back
        for _ in range(2):
            inside.answer(ctl.GONE, 1)
        await child.wait()
        child.handles().close()

    assert [1] == given_back


async def test_what_cannot_be_given_back_is_nobodys_trouble(inside):
    def fail():
        raise OSError("no descriptors")

    async with listening(inside):
        child = await born(inside, on_end=fail)
        inside.answer(ctl.GONE, 1)

        assert 0 == (await child.wait()).code
        child.handles().close()


async def fall(inside, end):
    """The server is no more, in one of the ways there are."""
    if end == "closed":
        inside.socket.close()
    elif end == "garbage":
        inside.socket.send(b"xy")
    else:
        inside.answer(ctl.FAILED, 0, text="out of memory")


@pytest.mark.parametrize("end", ["closed", "garbage", "told"])
async def test_when_the_server_is_gone_everybody_who_waits_is_told(inside, end):
    given_back = []
    async with listening(inside) as server:
        child = await born(inside, on_end=lambda: given_back.append(1))
        await fall(inside, end)
        with pytest.raises(SandboxBroken, match=r"gone|buffer|out of memory"):
            await child.wait()
        with pytest.raises(SandboxBroken, match=r"gone|buffer|out of memory"):
            await server.park(on_end=lambda: given_back.append(2))
        child.handles().close()

        assert not server.alive
    assert [1, 2] == given_back


@pytest.mark.parametrize("end", ["closed", "garbage", "told"])
async def test_who_waits_for_a_birth_when_the_server_goes_is_told_too(inside, end):
    async with listening(inside) as server, anyio.create_task_group() as tasks:

        async def wait():
            with pytest.raises(SandboxBroken, match=r"gone|buffer|out of memory"):
                await server.park()

        tasks.start_soon(wait)
        await eventually(lambda: server.born)
        await fall(inside, end)


async def test_a_server_that_has_just_died_is_not_alive_although_nobody_has_listened(inside):
    assert inside.server.alive
    inside.socket.close()

    assert not inside.server.alive


async def test_a_server_that_is_gone_takes_neither_plans_nor_requests(inside, plan):
    """Even where nobody has listened yet."""
    before = open_descriptors()
    inside.socket.close()
    with pytest.raises(SandboxBroken, match=r"the fork server is gone: .*[Pp]ipe"):
        inside.server.build(plan)
    with pytest.raises(SandboxBroken, match=r"the fork server is gone: .*[Pp]ipe"):
        await inside.server.park()
    inside.server.release(1, at_once=True)

    assert before - 1 == open_descriptors()


async def test_a_folder_that_is_not_needed_is_told(inside):
    inside.server.release(7, at_once=True)

    assert (ctl.Record(ctl.RELEASE, 0, 0, 0.0, 0, "7"), 0) == inside.asked()


async def test_what_is_not_needed_is_told_with_the_next_request(inside):
    for serial in (3, 5):
        inside.server.release(serial, at_once=False)
    async with listening(inside):
        (await born(inside)).handles().close()

    assert (ctl.Record(ctl.PARK, 1, 0, 0.0, 0, "3 5"), 0) == inside.asked()


async def test_more_children_are_not_asked_for_than_a_server_can_make_at_once(inside):
    """Who gives up while he waits for his turn has asked for nothing."""
    async with listening(inside) as server, anyio.create_task_group() as tasks:
        for _ in range(module.ASKED + 5):
            tasks.start_soon(server.park)
        await anyio.wait_all_tasks_blocked()
        assert server.born == module.ASKED
        tasks.cancel_scope.cancel()

    assert module.ASKED == server.born


async def test_what_a_server_said_before_it_fell_is_heard_although_it_left_things_unread(inside):
    """The kernel tells of the reset first, and then gives what was said before."""
    async with listening(inside) as server:
        child = await born(inside)  # the request for it is never read
        server.release(1, at_once=True)
        inside.answer(ctl.FAILED, 0, text="the last words")
        inside.socket.close()
        with pytest.raises(SandboxBroken, match="the last words"):
            await child.wait()
        child.handles().close()


async def test_a_birth_that_takes_too_long_is_given_up_and_cleaned_up_after(inside, monkeypatch):
    monkeypatch.setattr(module, "BIRTH", 0.02)
    before = open_descriptors()
    async with listening(inside) as server:
        with pytest.raises(SandboxBroken, match=r"no child stood behind its walls in 0\.02 s"):
            await server.park()
        inside.parked(1)
        await killed(inside.first)

        assert before == open_descriptors()


async def test_who_gives_up_waiting_for_a_birth_leaves_nothing_behind(inside):
    before = open_descriptors()
    async with listening(inside) as server:
        with anyio.move_on_after(0.01) as patience:
            await server.park()
        assert patience.cancelled_caught
        inside.parked(1)
        await killed(inside.first)

        assert before == open_descriptors()


async def test_who_is_cancelled_at_the_moment_of_a_birth_leaves_nothing_behind(inside):
    """As asyncio cancels: in between the child's arrival and the waiter's next step."""
    before = open_descriptors()
    parking = asyncio.ensure_future(inside.server.park())
    await eventually(lambda: inside.server.born)
    inside.parked(1)
    inside.server._receive()
    parking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await parking
    await killed(inside.first)

    assert before == open_descriptors()


async def test_a_child_that_nobody_wants_has_nothing_to_work_with(inside):
    async with listening(inside):
        child = await born(inside)
        child.abandon()
        child.abandon()
        await killed(inside.first)
        with pytest.raises(SandboxBroken, match="was not born"):
            child.handles()


async def test_more_than_the_socket_takes_is_told_as_such(inside):
    """And what was not even asked for is given back at once."""
    given_back = []
    full = False
    while not full:
        try:
            inside.server._control.send(ctl.pack(ctl.PARK, 0))
        except BlockingIOError:
            full = True
    with pytest.raises(Overloaded, match="more requests than it can take") as told:
        await inside.server.park(on_end=lambda: given_back.append(1))

    assert 0.1 == told.value.retry_after
    assert [1] == given_back


async def test_a_stopped_server_is_waited_for_and_tells_those_who_wait(inside):
    async with listening(inside):
        child = await born(inside)
        inside.init.stdin.close()  # as an init that sees its socket end
        await inside.stop()
        with pytest.raises(SandboxBroken, match="was stopped"):
            await child.wait()
        child.handles().close()

    assert 0 == inside.init.returncode


async def test_a_stopped_server_that_does_not_end_is_killed(inside, monkeypatch):
    monkeypatch.setattr(module, "FAREWELL", 0.02)
    await inside.stop()

    assert -signal.SIGKILL == inside.init.returncode


@pytest.fixture
def plan():
    """Walls as simple as can be had here; where we are root, for a block of three user ids."""
    root = os.geteuid() == 0
    ids = Ids(0x5B000000, 0x5B000000, 3) if root else Ids(os.geteuid(), os.getegid(), 1)
    ground = Ground("jail", STAGING, ids, memory_enforced=True, entrances=0)
    return compile_plan(WarmKey(interpreter="", environment=""), Limits(), (), find(None), ground)


@asynccontextmanager
async def real(plan, held=()):
    """A fork server behind real walls; leaves the test where there are none."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running())
        server.build(plan, held)
        try:
            first = await server.park()
        except SandboxBroken as exc:
            await stack.aclose()
            missing(str(exc))
        first.abandon()
        await ended(first)
        yield server


async def ended(child):
    """How it came to its end, once it has."""
    with anyio.fail_after(5):
        return await child.wait()


async def test_a_real_child_stands_and_can_be_ended(plan):
    async with real(plan) as server:
        child = await server.park()
        assert "/work" == child.cwd
        child.handles().kill()
        exit_ = await ended(child)
        child.handles().close()

    assert (None, signal.SIGKILL) == (exit_.code, exit_.signal)
    assert exit_.memory > 1 << 20


async def test_forty_children_one_after_the_other_leave_no_descriptor(plan):
    async with real(plan) as server:
        before = open_descriptors()
        for _ in range(40):
            child = await server.park(hurried=True)
            child.abandon()
            await ended(child)

        assert before == open_descriptors()
        assert {} == server._children


async def test_children_asked_for_at_once_are_told_apart(plan):
    async with real(plan) as server:
        children = []

        async def ask():
            children.append(await server.park(hurried=True))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ask)
        processes = {pid_of(child.handles().process) for child in children}
        for child in children:
            child.abandon()
            await ended(child)

    assert 2 == len(processes)


async def test_walls_that_cannot_be_built_are_told_with_the_place(plan, tmp_path):
    async with real(plan):
        pass  # they can be built here
    plan.entries += (Entry("bind", "/gone", str(tmp_path / "gone")),)
    async with running() as server:
        server.build(plan)
        with pytest.raises(SandboxBroken, match=r"FileNotFoundError: .*\(in \w+, line \d+\)"):
            await server.park()
        await eventually(lambda: not server.alive)


async def test_an_interpreter_that_is_none_is_told(plan):
    async with real(plan):
        pass
    plan.argv = ("/bin/true",)
    async with running() as server:
        server.build(plan)
        with anyio.fail_after(5), pytest.raises(SandboxBroken, match="gone"):
            await server.park()


async def test_a_server_that_is_not_told_what_to_build_is_no_trouble():
    before = open_descriptors()
    async with running() as server:
        assert server.alive

    assert not server.alive
    assert before == open_descriptors()


async def test_an_error_in_the_block_comes_out_as_it_is():
    before = open_descriptors()
    with pytest.raises(ZeroDivisionError):
        async with running():
            raise ZeroDivisionError

    assert before == open_descriptors()


async def test_who_is_cancelled_in_the_block_leaves_no_process_behind():
    with anyio.CancelScope() as scope:
        async with running() as server:
            scope.cancel()
            await anyio.lowlevel.checkpoint()

    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


async def held_until(plan, end):
    """What of two children is still alive when that which is held is let go, after such an end."""
    read, write = os.pipe()
    async with real(plan, (write,)) as server:
        os.close(write)
        children = [await server.park() for _ in range(2)]
        processes = [os.dup(child.handles().process) for child in children]
        assert [] == select.select([read], [], [], 0)[0]
        end(server)
        with anyio.fail_after(5):
            await anyio.wait_readable(read)
        dead = select.select(processes, [], [], 0)[0]
        alive = set(processes) - set(dead)
        for child in children:
            child.abandon()
    for fd in (read, *processes):
        os.close(fd)
    return alive


async def test_what_is_held_is_held_until_everything_behind_the_walls_is_dead(plan):
    """The lease of its user ids, say: nobody else may get them before."""

    def stop(server):
        server._control.shutdown(socket.SHUT_RDWR)

    assert set() == await held_until(plan, stop)


async def test_it_is_held_even_when_the_outer_init_is_killed(plan):
    def kill(server):
        os.kill(server.pid, signal.SIGKILL)  # it alone: the rest has yet to notice

    assert set() == await held_until(plan, kill)


async def test_children_have_no_descriptor_but_their_own(plan):
    """One of the host's would be a way out. It closes them after it has said that it stands."""
    async with real(plan) as server:
        child = await server.park(hurried=True)
        folder = f"/proc/{pid_of(child.handles().process)}/fd"
        try:
            os.listdir(folder)
        except PermissionError:
            missing("only root sees the descriptors of somebody else")
        await eventually(lambda: {"0", "1", "2", "3"} == set(os.listdir(folder)))
        child.abandon()


@pytest.mark.root
async def test_who_cannot_be_forked_gives_back_what_it_had(plan):
    """Two user ids, two children; a third is refused, and is not remembered for ever."""
    given_back = []
    async with real(plan) as server:
        children = [await server.park() for _ in range(2)]
        with pytest.raises(SandboxBroken, match="every user id of this block is in use"):
            await server.park(on_end=lambda: given_back.append(1))
        for child in children:
            child.abandon()
            await ended(child)
        again = await server.park()  # whose birth comes behind all that was said before
        again.abandon()

        assert [1] == given_back
        assert {again.serial} == server._children.keys()
