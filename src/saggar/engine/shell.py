"""
The shell, as the host speaks to it: one interpreter in a live sandbox, cell after cell.

Its frames and its pipes are put into the order in which they were written. What it says is its
word; how long it took, what it used, and whether it still lives, is seen from outside.
"""

import os
import re
import secrets
import selectors
import socket
from collections.abc import Iterator, Mapping
from marshal import dumps
from typing import Any, Self

import anyio

from saggar.boundary import frames
from saggar.engine import words
from saggar.engine.keeper import Exited, Started
from saggar.engine.sandbox import Sandbox
from saggar.engine.streams import Pipe, drop
from saggar.errors import SandboxBroken
from saggar.model.event import Output

PIECE = 1 << 18
LARGEST = 4 << 20
"""Bytes of one value or display, whatever the output limit: they are parsed, and kept, by us."""
BIRTH = 10.0
"""Seconds an interpreter may take to take requests."""
SETTLING = 0.05
"""Seconds that what children and C code print waits for the frame that says where it belongs."""
PLENTY = 1 << 14
"""Bytes in the pipes that are taken at once: who writes them should not have to wait."""
STREAMS = ("stdout", "stderr")
MARKS = re.compile(re.escape(frames.mark(0)).replace(b"0" * 16, b"[0-9a-f]{16}"))
Said = frames.Frame | Output


class Shell:
    """One interpreter, from its fork to its end."""

    def __init__(
        self, sandbox: Sandbox, started: Started, channel: socket.socket, outputs: tuple[int, int]
    ) -> None:
        self._sandbox, self._started = sandbox, started
        self._channel = channel
        self._pipes = dict(zip(STREAMS, map(Pipe, outputs), strict=True))
        self._held = {name: bytearray() for name in STREAMS}
        self._decoder = frames.Decoder(largest(sandbox))
        self._unsent = memoryview(b"")
        self._wanted = selectors.EVENT_READ
        self._number = 0
        """Of the last request; an answer with another one is a program's, and not believed."""
        self._signalled = False
        """Whether an interrupt may have come too late for what it was meant for."""
        self.closed = False
        self.lost = False
        """Its channel ended, or what came over it was no frame: nobody can speak to it any more."""
        self._lying = False
        """Whether something lies in a pipe and waits for what was said before it."""
        self._spoken = _watching(channel.fileno(), started.end_told.fileno())
        pipes = [pipe.fd for pipe in self._pipes.values()]
        self._selector = _watching(int(self._spoken.fileno()), *pipes)

    @classmethod
    async def start(cls, sandbox: Sandbox, *, network: bool) -> Self:
        """
        A new one, which takes requests.

        Raises:
            SandboxBroken: The sandbox is gone, or no interpreter came up in it.
        """
        ours, theirs = socket.socketpair()
        stdout, stderr = os.pipe(), os.pipe()
        nothing = os.open(os.devnull, os.O_RDONLY)
        try:
            ours.setblocking(False)
            for fd in (stdout[0], stderr[0]):
                os.set_blocking(fd, False)
            for fd in (stdout[1], stderr[1]):
                sandbox.give(fd)
            started = await sandbox.keeper.start(
                (nothing, stdout[1], stderr[1], theirs.fileno()),
                body="saggar.guest.shell",
                largest=largest(sandbox),
                network=network,
            )
        except BaseException:
            ours.close()
            drop(stdout[0], stderr[0])
            raise
        finally:
            theirs.close()
            drop(stdout[1], stderr[1], nothing)
        shell = cls(sandbox, started, ours, (stdout[0], stderr[0]))
        try:
            await shell._stand()
        except BaseException:
            shell.close()
            raise
        return shell

    async def _stand(self) -> None:
        said: list[str] = []
        with anyio.move_on_after(BIRTH):
            while self.alive:
                await self.heard()
                for one in self.hear():
                    if isinstance(one, Output):
                        said.append(one.data.decode(errors="replace"))
                    elif one.kind == frames.READY:
                        return
        last = "".join(said).strip().rpartition("\n")[2]
        raise SandboxBroken(f"no interpreter came up: {last[:500] or 'nothing was heard of it'}")

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
        if not self._lying:
            await anyio.wait_readable(int(self._selector.fileno()))
            return
        with anyio.move_on_after(SETTLING):
            await anyio.wait_readable(int(self._spoken.fileno()))

    def admit(self, env: Mapping[str, str]) -> None:
        """It takes whatever variables there are."""

    def request(self, do: str, text: str = "", **head: object) -> None:
        """Ask for something; as much of it as the channel takes now, the rest follows in `hear`."""
        blob = text.encode("utf-8", "surrogatepass")
        self._number = secrets.randbits(53)  # one that an earlier cell could not foresee
        said = {"do": do, "number": self._number, "late": self._signalled, **head}
        self._signalled = False
        self._unsent = memoryview(frames.pack(frames.TASK, dumps(said, 2), blob))
        self._write()

    def hear(self) -> Iterator[Said]:
        """
        Everything that is there now, in order.

        What lies in a pipe is left there for a moment: the next frame says what of it was there
        before. Only what nobody speaks of is taken by itself, and what would fill the pipe.
        """
        self._write()
        # Before the frames: what is written later may belong behind one that is not read here.
        lying = {name: pipe.lying() for name, pipe in self._pipes.items()}
        spoken = False
        for said in self._frames():
            spoken = True
            yield said
        waited, self._lying = self._lying, False
        if spoken:
            return
        if not waited and 0 < sum(lying.values()) < PLENTY:
            self._lying = True
        elif self._fill(lying):
            for name in STREAMS:
                yield from self._give(name, len(self._held[name]))

    def rest(self) -> Iterator[Said]:
        """What is left when it has ended, or its request is done; others may go on writing."""
        for name, pipe in self._pipes.items():
            self._held[name] += pipe.rest()
            yield from self._give(name, len(self._held[name]))

    def _frames(self) -> Iterator[Said]:
        # Even with nothing new: whoever listened before may have left in the middle of it.
        try:
            for frame in self._decoder.feed(self._receive()):
                if frame.kind == frames.WRITTEN:
                    yield from self._precede(frame)
                elif frame.kind != frames.DONE or self._answers(frame):
                    yield frame
        except frames.FrameError:
            self._lose()

    def _answers(self, frame: frames.Frame) -> bool:
        return words.json_object(frame.head).get("number") == self._number

    def _receive(self) -> bytes:
        if self.lost:
            return b""
        try:
            data = self._channel.recv(PIECE)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            self._lose()
        return data

    def _precede(self, frame: frames.Frame) -> Iterator[Said]:
        """What stands before these marks was written before what follows."""
        for name, number in zip(STREAMS, words.json_list(frame.head), strict=False):
            if isinstance(number, int) and 0 < number < 1 << 64:
                yield from self._before(name, frames.mark(number))

    def _before(self, name: str, mark: bytes) -> Iterator[Said]:
        held, pipe = self._held[name], self._pipes[name]
        if mark not in held:
            held += pipe.read(pipe.lying()) or b""
        place = held.find(mark)
        if place >= 0:
            yield from self._give(name, place + len(mark))
        elif len(held) > PIECE:  # it has been given already, or never was there
            yield from self._give(name, len(held))

    def _give(self, name: str, count: int) -> Iterator[Said]:
        held = self._held[name]
        data = MARKS.sub(b"", bytes(held[:count]))
        del held[:count]
        if data:
            yield Output.model_construct(kind="output", stream=name, data=data)  # type: ignore[arg-type]

    def _fill(self, lying: Mapping[str, int]) -> bool:
        """Hold so much of what the pipes have; whether there is anything."""
        for name, pipe in self._pipes.items():
            if lying[name]:
                self._held[name] += pipe.read(lying[name]) or b""
            elif pipe.ended:
                self._unregister(pipe.fd)
        return any(self._held.values())

    def _lose(self) -> None:
        if not self.lost:
            self.lost = True
            self._unsent = memoryview(b"")
            self._spoken.unregister(self._channel)

    def _unregister(self, fd: int) -> None:
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def _write(self) -> None:
        if self.lost:
            return
        try:
            while self._unsent:
                self._unsent = self._unsent[self._channel.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent = memoryview(b"")  # its end, or its silence, will be judged
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        if wanted != self._wanted:
            self._spoken.modify(self._channel, wanted)
            self._wanted = wanted

    async def signal(self, number: int) -> None:
        """To it and to what it has started."""
        self._signalled = True
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
            SandboxBroken: It did not answer; it has to be ended.
        """
        self.request(do, text, **head)
        with anyio.move_on_after(patience):
            while self.alive:
                await self.heard()
                for said in self.hear():
                    if isinstance(said, frames.Frame) and said.kind == frames.DONE:
                        return words.json_object(said.head)
        raise SandboxBroken("the interpreter did not answer")

    def close(self) -> None:
        """Close what leads to it; whoever lives at the other end sees the end of it, and ends."""
        if self.closed:
            return
        self.closed = self.lost = True
        self._selector.close()
        self._spoken.close()
        self._channel.close()
        for pipe in self._pipes.values():
            pipe.close()
        self._started.forget()


def _watching(*fds: int) -> selectors.DefaultSelector:
    selector = selectors.DefaultSelector()
    for fd in fds:
        selector.register(fd, selectors.EVENT_READ)
    return selector


def largest(sandbox: Sandbox) -> int:
    """Bytes that one value or one display may have."""
    return min(sandbox.limits.output, LARGEST)
