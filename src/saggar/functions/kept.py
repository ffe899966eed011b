"""
What foreign requests and baked programs run in: a fresh sandbox for one, or one that is kept for
the next, with an object and what it has imported in it.

Kept ones are found by a key, once each; beyond a number the one unused for longest ends. What is
inside is `guest/foreign.py`, which answers in plain words: nothing of it is unpickled here.
"""

import marshal
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio

import saggar
from saggar.errors import Conflict
from saggar.functions.answers import settled
from saggar.functions.errors import RemoteError
from saggar.model.codec import Payload
from saggar.model.environment import Environment
from saggar.model.policy import Policy
from saggar.model.program import ALL_KINDS, Pickled, Program
from saggar.model.result import Result
from saggar.model.task import Task
from saggar.platform import Platform

if TYPE_CHECKING:
    from saggar.engine.instance import Instance

MODULE: Final = "saggar_foreign"
MODULES: Final = {
    MODULE: "foreign.py",
    "saggar_hooks": "hooks.py",
    "saggar_lifting": "lifting.py",
}
"""What goes along, by the names that it has inside: files of `guest`."""
PRELOAD: Final = (
    "asyncio",
    "base64",
    "dataclasses",
    "decimal",
    "hashlib",
    "importlib.util",
    "logging",
    "pathlib",
    "tempfile",
    "uuid",
)
"""Of the standard library: what is inside imports them, and a fork has them already."""
MOST: Final = 64
IDLE: Final = 900.0
"""Seconds without a call after which a kept one ends."""
MAX_AGE: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Terms:
    """Where requests run."""

    environment: Environment = field(default_factory=Environment)
    policy: Policy = field(default_factory=Policy)
    driver: str | None = None
    secrets: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] | None = None
    """Of all files of a baked folder, where only what has them may be imported."""

    def walls(self) -> Policy:
        """
        The policy for what is ours inside.

        Which form of code may run has been judged by what was asked; ours is bytes. An answer is
        shared memory, which has a file's length and no place on a disk.
        """
        limits = self.policy.limits
        most = max(limits.memory, limits.file_size)
        return self.policy.replace(accept=ALL_KINDS, limits=limits.replace(file_size=most))


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a request."""

    success: bool
    result: bytes | None = None
    """A pickle, never opened here."""
    json: bytes | None = None
    error: str | None = None
    text: str | None = None
    """What a client of old expects where the result would be."""
    stdout: str = ""
    stderr: str = ""
    log: str = ""
    made: bool = False
    """Whether there is an object that a next call finds."""


@dataclass(slots=True)
class Held:
    """A sandbox with an object in it, and who made it of what."""

    of: str
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    live: "Instance | None" = None
    created: float = field(default_factory=time.time)
    used: float = field(default_factory=time.time)
    calls: int = 0

    @property
    def lives(self) -> bool:
        """Whether there is an object that a next call finds."""
        return self.live is not None and not self.live.closed and not self.live.lost


class Kept:
    """The sandboxes that are kept. Everything of it happens on one event loop."""

    def __init__(self, most: int = MOST, idle: float = IDLE, max_age: float = MAX_AGE) -> None:
        self._most, self._idle, self._max_age = most, idle, max_age
        self._held: OrderedDict[str, Held] = OrderedDict()

    def find(self, key: str) -> Held | None:
        """The one of this key, if there is one."""
        return self._held.get(key)

    async def call(
        self, platform: Platform, key: str, of: str, terms: Terms, said: Mapping[str, Any]
    ) -> tuple[Reply, Held]:
        """
        Have a request done in the one of this key, which is made if there is none.

        One of this key that was made of something else ends first.
        """
        while True:
            held = await self._of(key, of)
            async with held.lock:
                if self._held.get(key) is held:  # it has not ended while we waited
                    return await self._asked(platform, key, held, terms, said), held

    async def _asked(
        self, platform: Platform, key: str, held: Held, terms: Terms, said: Mapping[str, Any]
    ) -> Reply:
        live = held.live
        if live is None or not held.lives:
            live = held.live = await self._opened(platform, terms, key)
            held.created, held.calls = time.time(), 0
        held.used, held.calls = time.time(), held.calls + 1
        result = await live.call("call", "perform", Payload.json([[dict(said)], {}]))
        reply = _reply(result, str(said["name"]))
        if live.lost or (said["kind"] == "class" and not reply.made):
            await self._drop(key, held)
        return reply

    async def _of(self, key: str, of: str) -> Held:
        found = self._held.get(key)
        if found is not None and found.of != of:
            await self.end(key)
            found = None
        if found is None:
            while len(self._held) >= self._most:
                await self.end(self._unused())
            found = self._held[key] = Held(of)
        self._held.move_to_end(key)
        return found

    def _unused(self) -> str:
        """The one that was not called for longest; one in a call only if all are."""
        idle = (key for key, held in self._held.items() if not held.lock.locked())
        return next(idle, next(iter(self._held)))

    async def _opened(self, platform: Platform, terms: Terms, name: str) -> "Instance":
        hashes = None if terms.hashes is None else dict(terms.hashes)
        task = _task("Worker", terms, [hashes])
        live, result = await platform.open_own(
            task,
            name=name,
            walls=terms.walls(),
            driver=terms.driver,
            idle=self._idle,
            max_age=self._max_age,
        )
        if live is None:
            settled(result, name, lambda value: value, pickles=False)
            raise Conflict(f"{name}: no instance could be made")
        return live

    async def end(self, key: str) -> None:
        """End the one of this key, after the call that it is in."""
        held = self._held.pop(key, None)
        if held is not None:
            async with held.lock:
                await self._drop(key, held)

    async def _drop(self, key: str, held: Held) -> None:
        if self._held.get(key) is held:
            del self._held[key]
        live, held.live = held.live, None
        if live is not None:
            await live.close()


async def once(platform: Platform, terms: Terms, said: Mapping[str, Any]) -> Reply:
    """Have a request done in a fresh sandbox."""
    task = _task("perform", terms, [dict(said)])
    result = await platform.run_own(task, walls=terms.walls(), driver=terms.driver)
    return _reply(result, str(said["name"]))


def _task(entry: str, terms: Terms, args: list[Any]) -> Task:
    environment = terms.environment.replace(preload=(*terms.environment.preload, *PRELOAD))
    program = Program(code=Pickled(payload=_program(entry)), environment=environment)
    given = Payload.json([args, {}])
    return Task(program=program, input=given, env=dict(terms.env), secrets=terms.secrets)


@cache
def _program(entry: str) -> bytes:
    """What is inside, as a captured function is: by the name it has in a module that goes along."""
    from importlib.metadata import version

    modules = {}
    for name, file in MODULES.items():
        text = (Path(saggar.__file__).with_name("guest") / file).read_text(encoding="utf-8")
        code = marshal.dumps(compile(text, f"<{name}>", "exec", dont_inherit=True))
        modules[name] = False, code, text, f"<{name}>"
    said = {
        "made_by": (*sys.version_info[:2], version("cloudpickle")),
        "pickle": f"c{MODULE}\n{entry}\n.".encode(),
        "modules": modules,
        "sources": {},
        "pickles": False,
        "streams": False,
    }
    return marshal.dumps(said, 2)


def _reply(result: Result[Any], name: str) -> Reply:
    """What a sandbox said, each word of the kind it should be."""
    try:
        answer = settled(result, name, lambda value: value, pickles=False)
    except RemoteError as exc:
        answer = {"error": f"{exc}\n{exc.remote_traceback}".strip().encode()}
    if not isinstance(answer, dict):
        answer = {"error": f"{name}: it answered without a word".encode()}
    said = {name: value for name, value in answer.items() if isinstance(value, bytes)}

    def words(name: str) -> str | None:
        return said[name].decode(errors="replace") if name in said else None

    return Reply(
        success=answer.get("success") is True,
        made=answer.get("made") is True,
        result=said.get("result"),
        json=said.get("json"),
        error=words("error"),
        text=words("text"),
        log=words("log") or "",
        stdout=result.stdout,
        stderr=result.stderr,
    )
