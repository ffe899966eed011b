"""
A Jupyter kernel, as the host speaks to it: in place of the shell, for whoever needs a real one.

The host makes the sockets, connects to them, and hands over the listening ends; no path leads out
of the sandbox or into it. What the kernel says is turned into the frames that the shell would have
said, so that everything behind it (cell, verdict, session) judges both alike.
"""

import secrets
import selectors
import time
from collections.abc import Iterator, Mapping
from signal import SIGINT
from typing import Any, Self

import anyio

from saggar.boundary import frames
from saggar.engine import translated, zmtp
from saggar.engine.channels import PIECE, Channel, Listeners, Spec, placed
from saggar.engine.interpreter import Said, TooMuch
from saggar.engine.jupyter import Garbled, Signer
from saggar.engine.jupyter import Said as Message
from saggar.engine.keeper import Exited, Started
from saggar.engine.sandbox import Sandbox
from saggar.engine.shell import largest
from saggar.engine.streams import Pipe
from saggar.errors import InvalidTask, SandboxBroken
from saggar.model.event import Output

SPOKEN = {"shell": "DEALER", "iopub": "SUB", "control": "DEALER"}
"""Those the host itself connects to, and as what."""
STREAMS = ("stdout", "stderr")
BIRTH = 30.0
"""Seconds a kernel may take to take requests; one that is no child of ours starts from nothing."""
AGAIN = 0.1
"""Seconds after which a new kernel is asked once more, if what it publishes was not heard yet."""
LATE = 0.3
"""Seconds after an answer in which its end must have been published, or the other way round: the
one or the other may have been lost. As long again as something comes, up to LATEST."""
LATEST = 0.6
EARLY = 0.02
SLACK = 1 << 18


class Kernel:
    """One kernel, from its start to its end; an `Interpreter`."""

    def __init__(  # noqa: PLR0913, PLR0917 - what one is made of
        self,
        sandbox: Sandbox,
        started: Started,
        channels: Mapping[str, Channel],
        outputs: tuple[int, int],
        key: str,
        spec: Spec | None,
    ) -> None:
        self._sandbox, self._started, self._spec = sandbox, started, spec
        self._channels = channels
        self._pipes = dict(zip(STREAMS, map(Pipe, outputs), strict=True))
        self._signer = Signer(key)
        self._largest = largest(sandbox)
        self.lost = False
        """One of its channels ended, or what came was no message."""
        self._awaited = ""
        """The number of the request whose answer is waited for."""
        self._reply: Mapping[str, Any] | None = None
        self._heard_idle = self._told_error = False
        self._begun = 0.0
        """When it has begun with what was asked."""
        self._interrupt_at = 0.0
        """When it is to be interrupted, or once more."""
        self._late = self._latest = 0.0
        """When to wait no longer for the other one of answer and end."""
        self._overdue = ""
        """The request that ended without its end being published: what it still says is dropped."""
        self._selector = selectors.DefaultSelector()
        self._epoll: int = self._selector.fileno()  # type: ignore[attr-defined, unused-ignore]
        sockets = [one.socket.fileno() for one in channels.values()]
        pipes = [pipe.fd for pipe in self._pipes.values()]
        for fd in (*sockets, *pipes, started.end_told.fileno()):
            self._selector.register(fd, selectors.EVENT_READ)

    @classmethod
    async def start(cls, sandbox: Sandbox, *, network: bool, spec: Spec | None = None) -> Self:
        """
        A new one, which takes requests: ipykernel, or the program that `spec` names.

        Raises:
            SandboxBroken: The sandbox is gone, or no kernel came up in it.
        """
        key = secrets.token_hex(16)
        listeners = Listeners()
        channels: dict[str, Channel] = {}
        try:
            longest = 2 * largest(sandbox) + SLACK
            for name, kind in SPOKEN.items():
                channels[name] = Channel(listeners.connect(name), kind, longest)
            started, outputs = await placed(
                sandbox, listeners, key, spec, network=network, session=True
            )
        except BaseException:
            for channel in channels.values():
                channel.socket.close()
            raise
        finally:
            listeners.close()  # we are connected, and nobody else shall be
        kernel = cls(sandbox, started, channels, outputs, key, spec)
        try:
            await kernel._stand()
        except BaseException:
            kernel.close()
            raise
        return kernel

    async def _stand(self) -> None:
        """Until it has answered, and is heard: a kernel drops what it publishes to nobody."""
        said = bytearray()
        published = answered = False
        asked_again = 0.0
        with anyio.move_on_after(BIRTH):
            while self.alive and not (published and answered):
                if not published and time.monotonic() > asked_again:
                    asked_again = time.monotonic() + AGAIN
                    self._send("shell", "kernel_info_request", {})
                with anyio.move_on_after(AGAIN):
                    await self.heard()
                said += b"".join(one.data for one in self._native())
                del said[:-PIECE]
                published = bool(list(self._messages("iopub"))) or published
                answered = bool(list(self._messages("shell"))) or answered
        if not (published and answered):
            said += b"".join(one.data for one in self._native())
            last = said.decode(errors="replace").strip().rpartition("\n")[2]
            await anyio.sleep(1)
            said += b"".join(one.data for one in self._native())
            raise SandboxBroken(f"no kernel came up: {last[:500] or 'nothing was heard of it'}")

    @property
    def alive(self) -> bool:
        """Whether it can be asked something."""
        return self._started.exit is None and not self.lost

    @property
    def exited(self) -> Exited | None:
        """How it ended; None while it lives."""
        return self._started.exit

    async def heard(self) -> None:
        """Wait until it has said something, or has ended."""
        due = self._interrupt_at if self._begun else 0.0
        with anyio.move_on_after(max(0.0, due - time.monotonic()) if due else None):
            await anyio.wait_readable(self._epoll)
        if due and time.monotonic() >= due:
            await self._interrupt()

    async def _interrupt(self) -> None:
        """Once more if it has only just begun: what goes on around a cell swallows an interrupt."""
        now = time.monotonic()
        early = now - self._begun < EARLY
        self._interrupt_at = now + AGAIN if early else 0.0
        await self._sandbox.keeper.signal(self._started, SIGINT)

    def admit(self, env: Mapping[str, str]) -> None:
        """Variables for one cell are a word between us and our own kernel."""
        if env and self._spec is not None:
            raise InvalidTask(
                f"env: the kernel {self._spec.name!r} knows no variables for one cell;"
                " give them to the session"
            )

    def request(self, do: str, text: str = "", **head: object) -> None:
        """Ask for something: "run" or "load"."""
        self._reply, self._heard_idle, self._told_error, self._late = None, False, False, 0.0
        self._begun = self._interrupt_at = 0.0
        asked: dict[str, object] = {"largest": self._largest, "kept": head.get("kept", True)}
        asked |= {name: head[name] for name in ("env", "path", "folder") if head.get(name)}
        content = {
            "code": text,
            "silent": False,
            "store_history": do == "run" and bool(head.get("kept", True)),
            "user_expressions": {},
            "allow_stdin": False,
            # One at a time is the session's business: what comes next need not fear this one.
            "stop_on_error": False,
        }
        self._awaited = self._send("shell", "execute_request", content, {translated.ASKED: asked})

    def _send(
        self,
        channel: str,
        kind: str,
        content: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        number, parts = self._signer.pack(kind, content, metadata or {})
        if not self.lost:
            try:
                self._channels[channel].send(parts)
            except OSError:
                self._lose()
            else:
                self._watch(channel)
        return number

    def _watch(self, name: str) -> None:
        """Be told of room where something is left to be sent."""
        channel = self._channels[name]
        fd = channel.socket.fileno()
        try:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.write() else 0)
        except OSError:
            self._lose()
            return
        if self._selector.get_key(fd).events != wanted:
            self._selector.modify(fd, wanted)

    def hear(self) -> Iterator[Said]:
        """Everything that is there now; DONE when a request was answered, and its end published."""
        for name in SPOKEN:
            if not self.lost:
                self._watch(name)
        yield from self._native()
        # The answer is looked for first: what was published before it is there by now, then.
        for message in self._messages("shell"):
            self._take(message)
        yield from self._published()
        for _ in self._messages("control"):
            pass
        if self._reply is not None and self._heard_idle:
            yield from self._finish(self._reply)
        elif self._late and time.monotonic() > self._late:
            yield from self._finish(self._reply or {"status": "lost"})
        elif not self._late and (self._reply is not None or self._heard_idle):
            self._late = time.monotonic() + LATE
            self._latest = self._late + LATEST

    def rest(self) -> Iterator[Said]:
        """What is left when it has ended, or its request is done."""
        yield from self._published()
        yield from self._native()

    def _native(self) -> Iterator[Output]:
        """What was written to 1 and 2 as they were before the kernel took them over."""
        for name, pipe in self._pipes.items():
            if data := pipe.read():
                yield Output.model_construct(kind="output", stream=name, data=data)  # type: ignore[arg-type]
            elif data is not None and pipe.fd in self._selector.get_map():
                self._selector.unregister(pipe.fd)

    def _messages(self, name: str) -> Iterator[Message | TooMuch]:
        if self.lost:
            return
        try:
            for parts in self._channels[name].read():
                if isinstance(parts, zmtp.TooLong):
                    yield TooMuch()
                else:
                    yield self._signer.unpack(parts)
        except (EOFError, OSError, zmtp.NotSpoken, Garbled):
            self._lose()

    def _lose(self) -> None:
        if not self.lost:
            self.lost = True
            for channel in self._channels.values():
                self._selector.unregister(channel.socket.fileno())

    def _take(self, message: Message | TooMuch) -> None:
        """An answer; only one is ever waited for, so what is too long to be read is that."""
        if isinstance(message, TooMuch):
            message = Message("execute_reply", self._awaited, {"status": "error"}, {})
        if message.parent == self._awaited and message.kind == "execute_reply":
            self._reply = message.content

    def _published(self) -> Iterator[Said]:
        for message in self._messages("iopub"):
            if isinstance(message, TooMuch):
                yield message
            else:
                yield from self._translated(message)

    def _translated(self, message: Message) -> Iterator[Said]:
        """A published message, as the shell would have said it."""
        content, ours = message.content, message.parent == self._awaited
        ended = message.kind == "status" and content.get("execution_state") == "idle"
        if message.parent and message.parent == self._overdue:
            self._overdue = "" if ended else self._overdue
            return
        if ours and self._late:
            self._late = min(time.monotonic() + LATE, self._latest)
        match message.kind:
            case "execute_input" if ours:
                self._begun = time.monotonic()
            case "stream":
                name = "stderr" if content.get("name") == "stderr" else "stdout"
                data = str(content.get("text", "")).encode("utf-8", "replace")
                yield Output.model_construct(kind="output", stream=name, data=data)  # type: ignore[arg-type]
            case "display_data" | "update_display_data" as kind:
                yield translated.display(content, update=kind == "update_display_data")
            case "clear_output":
                yield translated.frame(frames.CLEARED, wait=bool(content.get("wait")))
            case "execute_result" if ours:
                yield translated.display(content, role="result")
                yield translated.value(content, message.metadata)
            case "error" if ours:
                self._told_error = True
                yield translated.error(content)
            case "status" if ours and ended:
                self._heard_idle = True

    def _finish(self, reply: Mapping[str, Any]) -> Iterator[Said]:
        self._overdue = "" if self._heard_idle else self._awaited
        self._reply, self._heard_idle, self._late = None, False, 0.0
        if reply.get("status") != "ok" and not self._told_error:
            yield translated.error(reply)
        for page in translated.pages(reply):
            yield translated.display({"data": page})
        count = reply.get("execution_count")
        yield translated.frame(frames.DONE, count=count, refused=reply.get("refused"))

    async def signal(self, number: int) -> None:
        """To it and to what it has started; an interrupt the way it wants it."""
        if number == SIGINT and self._spec is not None and self._spec.by_message:
            self._send("control", "interrupt_request", {})
        elif number == SIGINT and self._spec is None and not self._begun:
            self._interrupt_at = time.monotonic()  # it has no ear for it before its cell has begun
        elif number == SIGINT and self._spec is None:
            await self._interrupt()
        else:
            await self._sandbox.keeper.signal(self._started, number)

    async def ended(self, patience: float) -> bool:
        """Whether it is dead within so many seconds."""
        return await self._started.within(patience)

    async def ask(
        self, do: str, text: str = "", *, patience: float = 10.0, **head: object
    ) -> dict[str, Any]:
        """
        Ask a question that runs no code of the user's, and wait for its answer.

        Raises:
            InvalidTask: This kernel has no answer to it.
            SandboxBroken: It did not answer; it has to be ended.
        """
        if do == "variables" and self._spec is not None:
            raise InvalidTask(f"the kernel {self._spec.name!r} cannot say what was named")
        content = {"code": text}
        if "cursor" in head:
            content["cursor_pos"] = head["cursor"]  # type: ignore[assignment]
        if "detail" in head:
            content["detail_level"] = head["detail"]  # type: ignore[assignment]
        number = self._send("shell", f"{do}_request", content)
        with anyio.move_on_after(patience):
            while self.alive:
                await anyio.wait_readable(self._channels["shell"].socket)
                for message in self._messages("shell"):
                    if isinstance(message, Message) and message.parent == number:
                        return translated.answer(do, message.content)
        raise SandboxBroken("the kernel did not answer")

    def close(self) -> None:
        """Close what leads to it."""
        self._selector.close()
        for channel in self._channels.values():
            channel.socket.close()
        for pipe in self._pipes.values():
            pipe.close()
        self._started.forget()
