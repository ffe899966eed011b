"""
A provisioner: any Jupyter client starts its kernels behind our walls.

Found by its entry point when a kernelspec names it (`saggar kernelspec install` writes one). The
client speaks with the kernel as ever, over unix sockets in a folder of its user's. What the client
runs for itself, its libzmq among it, hears what the kernel says, as it would from any kernel.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from traitlets import Dict, List, Unicode

from saggar.engine.hosted import Hosted
from saggar.model.environment import Environment
from saggar.model.policy import Network, Policy
from saggar.platform import shared

T = TypeVar("T")
LOOK = 0.05
"""Seconds between two looks at whether it has ended."""


class Provisioner(KernelProvisionerBase):
    """One kernel of a Jupyter client's; its traits are the `config` of the kernelspec."""

    kernel = Unicode("python", help="python, or a kernelspec that one of the packages brings")
    packages = List(Unicode(), help="what is installed for it, such as 'numpy==2.*'")
    limits = Dict(help="as saggar.Limits has them, such as {'memory': '1GiB'}")
    network = Unicode("none", help="none, loopback or host")
    driver = Unicode("", help="who builds the walls; the setting of this machine if empty")
    folder = Unicode("", help="a folder of this machine that is copied into its work folder")

    _hosted: Hosted | None = None

    @property
    def has_process(self) -> bool:
        """Whether there is one, dead or alive, that was not cleaned up."""
        return self._hosted is not None

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:  # noqa: ARG002 - Jupyter's
        """Open a sandbox and start the kernel in it; in the same one when it is started again."""
        if self._hosted is not None and not self._hosted.sandbox.alive:
            await self.cleanup()
        if self._hosted is None:
            self._hosted = await self._open()
        await _there(self._hosted.start, dict(self.kernel_spec.env))
        # Clients of Jupyter's keep the key as bytes; a connection file, and we, as text.
        known = self._hosted.connection
        self.connection_info: Any = {**known, "key": known["key"].encode()}
        return self.connection_info

    async def _open(self) -> Hosted:
        policy = Policy(network=Network(self.network))
        platform = shared().platform
        hosted = await _there(
            platform.open_kernel,
            self.kernel,
            key=self.parent.session.key.decode(),
            environment=Environment(packages=tuple(self.packages)),
            limits=dict(self.limits) or None,
            policy=policy,
            driver=self.driver or None,
        )
        try:
            if self.folder:
                await _there(hosted.sandbox.files.upload, self.folder, ".")
        except BaseException:
            await _there(hosted.close)
            raise
        return hosted

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Nothing of ours goes in: neither the variables nor the folder of the client."""
        kwargs.pop("extra_arguments", None)
        return {**await super().pre_launch(**kwargs), "cmd": self.kernel_spec.argv}

    async def poll(self) -> int | None:
        """None while it lives; else its exit code, or the number of its signal below zero."""
        exited = None if self._hosted is None else self._hosted.exited
        if self._hosted is not None and exited is None:
            return None
        if exited is None:
            return 0
        return exited.code if exited.code is not None else -(exited.signal or signal.SIGKILL)

    async def wait(self) -> int | None:
        """Until it has ended; however long that takes is for the client to say."""
        while (code := await self.poll()) is None:  # noqa: ASYNC110 - an event of another loop's
            await asyncio.sleep(LOOK)
        if code and self._hosted is not None and (said := self._hosted.said().strip()):
            self.log.warning("the kernel ended with %d: %s", code, said[-2000:])
        return code

    async def send_signal(self, signum: int) -> None:
        """To it and to what it has started; 0 asks for nothing."""
        if signum and self._hosted is not None and self._hosted.exited is None:
            await _there(self._hosted.signal, signum)

    async def kill(self, restart: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - Jupyter's
        """At once."""
        await self.send_signal(signal.SIGKILL)

    async def terminate(self, restart: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - as above
        """Politely."""
        await self.send_signal(signal.SIGTERM)

    async def cleanup(self, restart: bool = False) -> None:  # noqa: FBT001, FBT002 - as above
        """The sandbox ends with the last one of its kernels."""
        if self._hosted is not None and not restart:
            hosted, self._hosted = self._hosted, None
            await _there(hosted.close)


async def _there(function: Callable[..., Awaitable[T]], /, *args: Any, **named: Any) -> T:
    """On the platform's own loop."""
    return await shared().acall(function, *args, **named)
