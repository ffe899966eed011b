"""A kernel for clients of somebody else's: notebooks, and whoever speaks Jupyter's protocol."""

from collections.abc import Mapping
from typing import Any

from saggar.engine.channels import CHANNELS, Listeners, Spec, placed
from saggar.engine.keeper import Exited, Started
from saggar.engine.sandbox import Sandbox
from saggar.engine.streams import Pipe


class Hosted:
    """
    A kernel for clients of somebody else's, which reach it by paths in a folder of ours.

    It may be started again on the same paths; who was connected finds the next one there.
    """

    def __init__(self, sandbox: Sandbox, key: str, spec: Spec | None, *, network: bool) -> None:
        self._sandbox, self._key, self._spec, self._network = sandbox, key, spec, network
        self._listeners = Listeners()
        self._started: Started | None = None
        self._pipes: tuple[Pipe, ...] = ()

    @property
    def sandbox(self) -> Sandbox:
        """Where it lives."""
        return self._sandbox

    @property
    def connection(self) -> dict[str, Any]:
        """What a client has to know, in the words of a connection file."""
        ports = {f"{name}_port": number for number, name in enumerate(CHANNELS, 1)}
        return {
            **ports,
            "transport": "ipc",
            "ip": self._listeners.prefix,
            "key": self._key,
            "signature_scheme": "hmac-sha256",
        }

    async def start(self, env: Mapping[str, str] | None = None) -> None:
        """Start it, or the next one. SandboxBroken if that cannot be."""
        if self._started is not None:
            self._forget()
            self._listeners.listen()
        started, outputs = await placed(
            self._sandbox,
            self._listeners,
            self._key,
            self._spec,
            network=self._network,
            session=False,
            env=env,
        )
        self._started, self._pipes = started, tuple(map(Pipe, outputs))

    @property
    def exited(self) -> Exited | None:
        """How it ended; None while it lives, or has never lived."""
        return None if self._started is None else self._started.exit

    def said(self) -> str:
        """What it wrote where it is not published, such as why it could not begin."""
        return b"".join(pipe.read() or b"" for pipe in self._pipes).decode(errors="replace")

    async def signal(self, number: int) -> None:
        """To it and to what it has started."""
        if self._started is not None:
            await self._sandbox.keeper.signal(self._started, number)

    async def close(self) -> None:
        """End it with its sandbox; nobody can connect any more."""
        await self._sandbox.close()
        self._forget()
        self._listeners.close()

    def _forget(self) -> None:
        if self._started is not None:
            self._started.forget()
        for pipe in self._pipes:
            pipe.close()
        self._started, self._pipes = None, ()
