"""
The jail: namespaces, Landlock, a system call filter and cgroups around a warm fork server.

What it does not stop: a hole in the kernel that all of these share. In which order the walls rise
is told in `guest/walls.py`; this file finds out how much of them can be had here.
"""

import os
import platform
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from saggar.config import Settings, runtime_dir
from saggar.drivers.interpreter import Interpreter, find
from saggar.drivers.jail import folders, landlock, promises, uids
from saggar.drivers.jail.cgroups import Cgroups
from saggar.drivers.jail.plan import (
    STAGING,
    Ground,
    Ids,
    compile_plan,
    environment_variables,
    executable_inside,
)
from saggar.drivers.jail.process import JailProcess, Space
from saggar.drivers.jail.recipes import RECIPES
from saggar.drivers.jail.server import ForkServer, running
from saggar.errors import DriverUnavailable, PlatformError, SandboxBroken
from saggar.model.limits import Limits
from saggar.model.plan import Capabilities, Layer, WarmKey, around
from saggar.model.policy import Network, Policy, Rung

if TYPE_CHECKING:
    from saggar.drivers.gpu import Passage


class JailDriver:
    """Walls of the kernel around a fork server, whose children serve once."""

    name = "jail"
    warm = True
    images = False
    fixed: frozenset[str] = frozenset()

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings
        self._found: Cgroups | None = None
        self._capabilities: Capabilities | None = None

    async def probe(self) -> Capabilities:
        """What holds here, found by building it once; remembered."""
        if self._capabilities is None:
            self._capabilities = await self._try_rungs()
        return self._capabilities

    async def _try_rungs(self) -> Capabilities:
        reasons = [promises.unsupported()] if promises.unsupported() else []
        for rung in (Rung.JAIL, Rung.LANDLOCK) if not reasons else ():
            key = WarmKey(interpreter="", environment="probe", rung=rung)
            policy = Policy(isolation=rung, best_effort=frozenset(Limits.model_fields))
            try:
                async with self._standing(rung, key, policy, ()):
                    return self._answer(rung, reasons)
            except PlatformError as exc:
                reasons.append(f"{rung}: {exc}")
        return self._answer(None, reasons)

    def _answer(self, rung: Rung | None, reasons: Sequence[str]) -> Capabilities:
        return Capabilities(
            driver=self.name,
            available=rung is not None,
            rung=rung,
            limits={}
            if rung is None
            else promises.supports(rung, Limits(), self._cgroups().supports),
            reasons=tuple(reasons),
            recipes=self._recipes(),
            facts=self._facts(),
            warm=True,
        )

    def close(self) -> None:
        """Remove the cgroups that are kept for the next run."""
        if self._found is not None:
            self._found.close()

    def sweep(self) -> dict[str, int]:
        """Remove cgroups, leases and work folders whose holders are dead; how many of each."""
        runtime = runtime_dir(self._settings)
        return {
            "cgroups": self._cgroups().sweep(),
            "leases": uids.sweep(runtime),
            "folders": folders.sweep(),
        }

    @asynccontextmanager
    async def nursery(
        self, key: WarmKey, policy: Policy, layers: Sequence[Layer]
    ) -> AsyncIterator["JailNursery"]:
        """
        A fork server behind the strongest walls to be had here that reach the policy's floor.

        Raises:
            DriverUnavailable: They do not reach it, or a limit cannot be enforced.
            SandboxBroken: They do, but could not be built for this key.
        """
        if reason := promises.unsupported():
            raise DriverUnavailable(f"{self.name} cannot be had here: {reason}")
        if named := key.of_containers:
            raise DriverUnavailable(f"{self.name} is no container: {named} takes driver='docker'")
        if policy.isolation > Rung.JAIL:
            raise DriverUnavailable(
                f"{self.name} reaches 'jail' at most, not {policy.isolation.value!r};"
                " `saggar doctor` tells what the drivers here reach"
            )
        async with AsyncExitStack() as stack:
            yield await self._strongest(stack, key, policy, layers)

    async def _strongest(
        self, stack: AsyncExitStack, key: WarmKey, policy: Policy, layers: Sequence[Layer]
    ) -> "JailNursery":
        reasons = []
        for rung in (Rung.JAIL, Rung.LANDLOCK):
            if rung < policy.isolation:
                break
            async with AsyncExitStack() as attempt:
                try:
                    standing = self._standing(rung, key, policy, layers)
                    nursery = await attempt.enter_async_context(standing)
                except SandboxBroken as exc:
                    reasons.append(f"{rung}: {exc}")
                    if rung is Rung.JAIL and (await self.probe()).rung is Rung.JAIL:
                        # Not a weaker one for what the task, not the machine, has wrong.
                        raise SandboxBroken(
                            f"{self.name} holds here, but not for what this task asks: {exc}"
                        ) from exc
                    continue
                except OSError as exc:  # no descriptors, no memory: the machine's, not the walls'
                    raise SandboxBroken(f"{self.name} cannot be started now: {exc}") from exc
                stack.push_async_exit(attempt.pop_all())
                return nursery
        raise DriverUnavailable(
            f"{self.name} cannot reach isolation {policy.isolation.value!r} here:"
            f" {'; '.join(reasons)} (`saggar doctor` has the recipes)"
        )

    @asynccontextmanager
    async def _standing(
        self, rung: Rung, key: WarmKey, policy: Policy, layers: Sequence[Layer]
    ) -> AsyncIterator["JailNursery"]:
        """A nursery whose first child stands: that is the proof that the walls can be built."""
        async with self._server(rung, key, policy, layers) as (server, space):
            nursery = JailNursery(self, server, space)
            # While it starts: what does not hold is refused before anything runs.
            self.refuse_unenforceable(rung, policy)
            nursery.first = await nursery.park()
            try:
                yield nursery
            finally:
                if nursery.first is not None:
                    nursery.first.release()

    @asynccontextmanager
    async def _server(
        self, rung: Rung, key: WarmKey, policy: Policy, layers: Sequence[Layer]
    ) -> AsyncIterator[tuple[ForkServer, Space]]:
        if rung is Rung.LANDLOCK and (reason := promises.unconfined(key.network)):
            raise SandboxBroken(reason)
        if rung is Rung.LANDLOCK and key.gpu and (reason := promises.shared_proc()):
            raise SandboxBroken(reason)
        passage = _passage(key.gpu) if key.gpu else None
        interpreter = find(key.interpreter or None)
        with self._ids() as (ids, held), self._staging(rung) as staging:
            async with running() as server:
                # While its interpreter starts.
                ground = Ground(
                    rung=rung.value,
                    staging=staging,
                    ids=ids,
                    memory_enforced=self._cgroups().supports["memory"].enforced,
                    entrances=self._cgroups().hierarchies,
                    gpu=passage,
                )
                server.build(compile_plan(key, policy.limits, layers, interpreter, ground), held)
                yield server, self._space(ground, interpreter, layers, policy.limits)

    @contextmanager
    def _staging(self, rung: Rung) -> Iterator[str]:
        """Where the root is put together, or where the children's folders are."""
        if rung is Rung.JAIL:
            yield STAGING
            return
        with folders.held() as folder:
            yield folder

    @contextmanager
    def _ids(self) -> Iterator[tuple[Ids, tuple[int, ...]]]:
        """The host ids behind the walls, and the descriptors that keep them ours."""
        if os.geteuid() != 0:
            yield Ids(os.geteuid(), os.getegid(), 1), ()
            return
        try:
            block = uids.lease(runtime_dir(self._settings))
        except PermissionError as exc:
            raise DriverUnavailable(f"{self.name} needs user ids of its own: {exc}") from exc
        with block:
            yield Ids(block.base, block.base, block.count), (block.fd,)

    def _recipes(self) -> dict[str, str]:
        return {**RECIPES, **self._cgroups().recipes}

    def _facts(self) -> dict[str, str]:
        from saggar.drivers import gpu

        found = self._cgroups().supports
        groups = sorted({how.how for how in found.values() if how.enforced})
        return {
            "kernel": platform.release(),
            "landlock": f"version {landlock.abi()}" if landlock.abi() else "off",
            "cgroups": "; ".join(groups) or "none that can be written",
            "networks": ", ".join(Network),
            "user ids": "a leased block" if os.geteuid() == 0 else "the caller's own",
            "gpu": gpu.fact(gpu.look()),
        }

    def _space(
        self, ground: Ground, interpreter: Interpreter, layers: Sequence[Layer], limits: Limits
    ) -> Space:
        inside = ground.rung == Rung.JAIL
        python = executable_inside(interpreter) if inside else interpreter.executable
        site = [(layer.target if inside else layer.path) for layer in layers if layer.python_path]
        found = self._cgroups().supports.items()
        kept = frozenset(name for name, finding in found if finding.enforced)
        variables = around(environment_variables(python, ground), layers, inside=inside)
        return Space(
            ground.rung,
            variables,
            tuple(site),
            (limits.disk, limits.inodes),
            own_uid=inside or os.geteuid() == 0,
            kept=kept,
            gpu=ground.gpu is not None,
        )

    def _cgroups(self) -> Cgroups:
        if self._found is None:
            self._found = Cgroups.discover()
        return self._found

    async def park(self, server: ForkServer, space: Space, *, hurried: bool) -> JailProcess:
        """One more child, in a cgroup where there are any."""
        try:
            cgroup = self._cgroups().take() if space.kept else None
            entrances = cgroup.entrances() if cgroup is not None else ()
            release = cgroup.release if cgroup is not None else None
            child = await server.park(entrances, release, hurried=hurried)
            try:
                return JailProcess(server, child, cgroup, space)
            except BaseException:
                child.abandon()
                raise
        except OSError as exc:
            raise SandboxBroken(f"no child can be had: {exc}") from exc

    def refuse_unenforceable(self, rung: Rung, policy: Policy) -> None:
        """DriverUnavailable for limits that do not hold on this rung and are not best effort."""
        found = promises.supports(rung, policy.limits, self._cgroups().supports)
        missing = {
            name: support.why_not
            for name, support in found.items()
            if not support.enforced and name not in policy.best_effort
        }
        if missing:
            reasons = "; ".join(f"{name} ({why})" for name, why in missing.items())
            names = ", ".join(map(repr, missing))
            raise DriverUnavailable(
                f"{self.name} cannot enforce here: {reasons};"
                f" Policy(best_effort={{{names}}}) would do without"
            )


def _passage(count: int) -> "Passage":
    from saggar.drivers import gpu  # few runs have one, and a short one starts quickly

    return gpu.passage(gpu.look(), count)


class JailNursery:
    """A fork server, and the children it parks."""

    def __init__(self, driver: JailDriver, server: ForkServer, space: Space) -> None:
        self._driver = driver
        self._server = server
        self._space = space
        self.first: JailProcess | None = None
        """The child that proved the walls; the first one to be handed out."""
        self._admitted: set[tuple[float, frozenset[str]]] = set()

    @property
    def alive(self) -> bool:
        """Whether it can park another one."""
        return self._server.alive

    @property
    def born(self) -> int:
        """How many children it has had."""
        return self._server.born

    def admit(self, policy: Policy) -> None:
        """Let a policy pass all of whose limits hold here. DriverUnavailable if not."""
        asked = (policy.limits.cpu_share, policy.best_effort)  # nothing else makes a difference
        if asked not in self._admitted:
            self._driver.refuse_unenforceable(Rung(self._space.rung), policy)
            self._admitted.add(asked)

    async def park(self, *, hurried: bool = False) -> JailProcess:
        """One more child behind finished walls. SandboxBroken if they could not be built."""
        if (first := self.first) is not None:
            self.first = None
            return first
        return await self._driver.park(self._server, self._space, hurried=hurried)
