"""The driver itself: what it is called, what it found here, and where its children come from."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from saggar.config import Settings
from saggar.drivers.interpreter import find
from saggar.drivers.process.folders import sweep_folders
from saggar.drivers.process.nursery import ProcessNursery, open_nursery
from saggar.drivers.process.promises import admit, shortcomings, sufficient, supports
from saggar.errors import DriverUnavailable, PlatformError
from saggar.model.plan import Capabilities, Layer, WarmKey
from saggar.model.policy import Policy, Rung


class ProcessDriver:
    """One interpreter for each task, started when it is asked for; none is kept waiting."""

    name = "process"
    warm = False
    images = False
    fixed: frozenset[str] = frozenset()

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings
        self._capabilities: Capabilities | None = None

    async def probe(self) -> Capabilities:
        """What is kept here, found by starting a child once; remembered."""
        if self._capabilities is None:
            self._capabilities = await self._try()
        return self._capabilities

    async def _try(self) -> Capabilities:
        from saggar.drivers import gpu

        key = WarmKey(interpreter="", environment="probe", rung=Rung.PROCESS)
        try:
            async with self.nursery(key, sufficient(), ()) as nursery:
                (await nursery.park()).release()
        except PlatformError as exc:
            return Capabilities(driver=self.name, available=False, reasons=(str(exc),))
        return Capabilities(
            driver=self.name,
            available=True,
            rung=Rung.PROCESS,
            limits=supports(),
            reasons=tuple(shortcomings()),
            warm=self.warm,
            facts={"gpu": gpu.fact(gpu.look())},
        )

    def close(self) -> None:
        """Nothing is kept between nurseries."""

    def sweep(self) -> Mapping[str, int]:
        """Remove the folders of hosts that are dead; how many there were."""
        return {"process_folders": sweep_folders()}

    @asynccontextmanager
    async def nursery(
        self, key: WarmKey, policy: Policy, layers: Sequence[Layer]
    ) -> AsyncIterator[ProcessNursery]:
        """
        Where children are started one by one; they and their folders are gone when it closes.

        Raises:
            DriverUnavailable: The policy asks for what takes walls; says for what.
        """
        if key.mounts or key.root:
            raise DriverUnavailable("process shows the host's own files, and cannot mount others")
        if named := key.of_containers:
            raise DriverUnavailable(f"process is no container: {named} takes driver='docker'")
        if key.gpu:  # its programs see every device that this user can open, asked for or not
            from saggar.drivers import gpu

            gpu.passage(gpu.look(), key.gpu)
        admit(policy)
        interpreter = find(key.interpreter or None).executable
        site = tuple(layer.path for layer in layers if layer.python_path)
        async with open_nursery(interpreter, site, tuple(layers)) as nursery:
            yield nursery
