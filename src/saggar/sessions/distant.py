"""
An instance that lives in another process of this user: found by its id, and asked over its door.

Both ends are here. What is called there takes its turn with every other call of it, and comes back
as the same `Result`, in JSON: as little of it is unpickled on the way as anywhere else.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any

import anyio

from saggar.engine.flow import Flow
from saggar.errors import Conflict, InvalidTask, NotFound, PlatformError
from saggar.model.codec import Large, Payload
from saggar.model.event import Yielded
from saggar.model.result import Result
from saggar.sessions.line import Line, Message
from saggar.sessions.reach import heard, living, reached
from saggar.sessions.table import Holder, Table

if TYPE_CHECKING:
    from saggar.engine.instance import Instance

KIND = "instance"
Log = Callable[[Any, bytes], None]
"""Hears of `stdout` and `stderr`, and what was written there."""


async def answer(line: Line, instance: "Instance", head: dict[str, Any]) -> None:
    """Whatever somebody elsewhere wants of an instance of ours; he may leave in the middle."""
    asking = _Asking(line, instance, head, await _arguments(line, instance, head))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_until_gone, line, tasks.cancel_scope)
        await asking.answered()
        tasks.cancel_scope.cancel()
    if not asking.over:
        return
    await line.send("known", **_known(instance))
    if asking.refusal is not None:
        raise asking.refusal
    if asking.result is not None:
        await line.send("result", asking.result.model_dump_json().encode())
    await line.send("done")


class _Asking:
    """One thing that is wanted, and what is said of it meanwhile."""

    def __init__(
        self, line: Line, instance: "Instance", head: dict[str, Any], arguments: Payload
    ) -> None:
        self._line, self._instance = line, instance
        self._head, self._arguments = head, arguments
        # What it prints is bounded by its limit of output, what it yields by the flow.
        self._print, self._printed = anyio.create_memory_object_stream[tuple[str, bytes]](inf)
        self._log: Log | None = self._say if head.get("log") is True else None
        self._flow = Flow()
        self.result: Result[Any] | None = None
        self.refusal: Conflict | None = None
        self.over = False

    def _say(self, stream: str, data: bytes) -> None:
        self._print.send_nowait((stream, data))

    async def answered(self) -> None:
        """Until all of it was said but the result."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._tell)
            tasks.start_soon(self._pass_on)
            try:
                self.result = await self._done()
            except Conflict as exc:
                self.refusal = exc
            finally:
                self._print.close()
                self._flow.end()
        self.over = True

    async def _done(self) -> Result[Any] | None:
        one, log = self._instance, self._log
        match self._head:
            case {"do": "call" | "get" as do, "name": str(name)}:
                return await one.call(do, name, self._arguments, log=log)
            case {"do": "stream", "name": str(name)}:
                return await one.call("stream", name, self._arguments, log=log, flow=self._flow)
            case {"do": "restart"}:
                return await one.restart(log)
            case {"do": "close"}:
                await one.close()
            case {"do": "look"}:
                pass
            case _:
                raise InvalidTask(f"an instance cannot be told {self._head.get('do')!r:.60}")
        return None

    async def _tell(self) -> None:
        """What it prints, as it comes."""
        with self._printed as printed:
            async for stream, data in printed:
                await self._line.send(stream, data)

    async def _pass_on(self) -> None:
        """What it yields: the next one when the last one was read, or nearly."""
        while (item := await self._flow.take()) is not None:
            await self._line.send("part", b"".join([item.data, item.beside or b""]))
            await self._line.send("yielded", media_type=item.media_type)


def _known(instance: "Instance") -> dict[str, Any]:
    names = ("name", "created", "used", "calls", "closed", "lost")
    return {name: getattr(instance, name) for name in names}


async def _arguments(line: Line, instance: "Instance", head: dict[str, Any]) -> Payload:
    """What came with it, up to what the sandbox could hold."""
    said, most = bytearray(), instance.policy.limits.memory
    while (message := await line.receive()) is not None:
        if message.say == "done":
            kind = head.get("media_type")
            return Payload(media_type=kind, data=bytes(said)) if kind else Payload.none()
        said += message.data
        if len(said) > most:
            raise InvalidTask(f"its arguments have more than its limit of memory, {most:,} bytes")
    raise InvalidTask("its arguments ended in the middle")


async def _until_gone(line: Line, scope: anyio.CancelScope) -> None:
    """Nobody waits any more: what he asked for is interrupted, as if he had cancelled it here."""
    if await line.receive() is None:
        scope.cancel()


class Distant:
    """The other end. It has of an instance what those need who use one."""

    here = False

    def __init__(self, holder: Holder, name: str) -> None:
        self._holder = holder
        self.id, self.name = name, ""
        self.created = self.used = 0.0
        self.calls, self.closed, self.lost = 0, False, ""

    async def look(self) -> None:
        """What is known of it now."""
        await self._asked({"do": "look"}, Payload.none(), None)

    async def call(
        self,
        do: str,
        name: str,
        arguments: Payload,
        *,
        log: Log | None = None,
        flow: Flow | None = None,
    ) -> Result[Any]:
        """As for an instance of this process; Conflict if it is closed, lost, or not there."""
        plain = arguments.whole() if isinstance(arguments, Large) else arguments
        return await self._answered({"do": do, "name": name}, plain, log, flow)

    async def restart(self, log: Log | None = None) -> Result[Any]:
        """A fresh object under the same id, where it is."""
        return await self._answered({"do": "restart"}, Payload.none(), log)

    async def close(self) -> None:
        """End it, where it is."""
        with suppress(Conflict):  # it has ended
            await self._asked({"do": "close"}, Payload.none(), None)

    async def _answered(
        self,
        head: dict[str, Any],
        arguments: Payload,
        log: Log | None,
        flow: Flow | None = None,
    ) -> Result[Any]:
        said = await self._asked(head, arguments, log, flow)
        return Result[Any].model_validate_json(said)

    async def _asked(
        self,
        head: dict[str, Any],
        arguments: Payload,
        log: Log | None,
        flow: Flow | None = None,
    ) -> bytes:
        if not self._holder.alive:
            raise self._gone()
        try:
            async with reached(self._holder) as line:
                kind = arguments.media_type
                ask = {**head, "id": self.id, "media_type": kind, "log": log is not None}
                await line.send("ask", head=ask)
                await line.send("data", arguments.data)
                await line.send("done")
                return b"".join([part async for part in self._parts(line, log, flow)])
        except PlatformError:
            if self._holder.alive:
                raise
            raise self._gone() from None
        except NotFound:
            self.closed, self.lost = True, "it was closed where it lived, or its time was over"
            raise Conflict(f"the instance of {self.name} has ended: {self.lost}") from None

    async def _parts(self, line: Line, log: Log | None, flow: Flow | None) -> AsyncIterator[bytes]:
        """Those of the result; what comes before it goes where it belongs."""
        item = bytearray()
        while True:
            message: Message = await heard(line)
            match message.head:
                case {"say": "done"}:
                    return
                case {"say": "known", **known}:
                    for name in known.keys() & {"name", "created", "used", "calls", "lost"}:
                        setattr(self, name, known[name])
                    self.closed = known.get("closed") is True
                case {"say": "stdout" | "stderr" as stream} if log is not None:
                    log(stream, message.data)
                case {"say": "part"}:
                    item += message.data
                case {"say": "yielded", "media_type": str(kind)} if flow is not None:
                    flow.put(Yielded.of(bytes(item), kind, None))
                    item.clear()
                    await flow.room()
                case {"say": "result"}:
                    yield message.data

    def _gone(self) -> Conflict:
        self.lost = f"process {self._holder.pid}, which had it, has ended"
        return Conflict(f"the instance of {self.name} has lost its state: {self.lost}")


async def find(table: Table, name: str) -> Distant:
    """
    The instance of this id, in whichever process of this user on this machine.

    Raises:
        NotFound: None of them has it.
    """
    for holder, row in living(table):
        if (row.kind, row.id) == (KIND, name):
            found = Distant(holder, name)
            with suppress(Conflict, PlatformError):  # it ended as we looked
                await found.look()
                return found
    raise NotFound(
        "no instance has this id, in no process of this user on this machine; its time may be over"
    )
