"""
Baked programs: called by their names, imported from a folder that was made before.

Baked mode is a policy, `accept={"named"}`; what is here resolves the names. A program's sandbox is
kept, so that a module is imported once; a class has one for each instance.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from saggar.errors import InvalidTask, NotFound, PolicyDenied, UsageError
from saggar.functions.kept import Held, Kept, Reply, Terms
from saggar.functions.manifest import DEFAULT, PACKAGE, Entry, Registry
from saggar.model.environment import Mount
from saggar.model.policy import Policy, Rung
from saggar.model.program import CodeKind, Named, Program
from saggar.model.task import Task
from saggar.platform import background

MODE: Final = "TETRA_BAKED_MODE"
ACCEPT: Final = "SAGGAR_ACCEPT"
STRICT: Final = "SAGGAR_BAKED_STRICT"
INSIDE: Final = Path("/app") / PACKAGE
"""Where the folder is in a jail, whatever it is called outside."""
_ON: Final = frozenset(("true", "1", "yes"))
_OFF: Final = frozenset(("false", "0", "no", ""))


def is_baked_mode_enabled(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether TETRA_BAKED_MODE is true, 1 or yes, in any case, or SAGGAR_ACCEPT is named."""
    return (
        environ.get(MODE, "").strip().lower() in _ON
        or environ.get(ACCEPT, "").strip().lower() == CodeKind.NAMED.value
    )


def is_strict(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether baked mode refuses what is not baked: not if SAGGAR_BAKED_STRICT says so."""
    return environ.get(STRICT, "").strip().lower() not in _OFF - {""}


def check_words(environ: Mapping[str, str] = os.environ) -> None:
    """UsageError for a value that means neither: production mode that was misspelled is none."""
    for name in (MODE, STRICT):
        said = environ.get(name, "").strip().lower()
        if said not in _ON | _OFF:
            raise UsageError(f"{name}: wanted true, 1, yes, false, 0 or no, found {said!r:.60}")
    said = environ.get(ACCEPT, "").strip().lower()
    if said not in {"", CodeKind.NAMED.value}:
        raise UsageError(f"{ACCEPT}: wanted 'named' or nothing, found {said!r:.60}")


class Baked:
    """The programs of a registry."""

    def __init__(
        self,
        registry: Registry,
        terms: Terms | None = None,
        *,
        kept: Kept | None = None,
    ) -> None:
        self.registry = registry
        self._terms = terms or Terms()
        self._kept = kept or Kept()
        self._seen: set[str] = set()
        self._terms_of: dict[str, Terms] = {}

    def has(self, name: str, instance: str) -> bool:
        """Whether this instance of a baked class lives."""
        held = self._kept.find(f"{name}#{instance}")
        return held is not None and held.lives

    async def call(
        self,
        name: str,
        said: Mapping[str, Any],
        instance: str = "",
        *,
        anew: bool = False,
        log: Callable[[str], None] = lambda _: None,
    ) -> tuple[Reply, Held]:
        """
        Call a baked function, or a method of an instance of a baked class.

        Args:
            name: What it was baked under.
            said: The arguments, their format and the method, as `guest/foreign.py` has them.
            instance: Which instance; the only one of its class if empty.
            anew: Whether an instance of this name ends first.
            log: Hears what is imported.

        Raises:
            NotFound: Nothing was baked under this name.
            InvalidTask: The arguments are not as its schema has them, or its file has changed.
        """
        entry = self.registry.find(name)
        method = said["method"] if entry.type == "class" else None
        if method is not None and not entry.has(method):
            raise NotFound(f"Method '{method}' not found in class '{entry.name}'")
        terms = self._around(name, entry)
        self._terms.policy.admit(Task(program=Program(code=Named(name=name))))
        if said["format"] == "json":
            self._judge(name, said["args"], said["kwargs"], method)
        key = f"{name}#{instance}" if entry.type == "class" else name
        if anew:
            await self._kept.end(key)
        held = self._kept.find(key)
        if held is None or not held.lives:
            if method is not None and said["format"] == "json":
                self._judge(name, said["made_args"], said["made_kwargs"])
            self.registry.verify_entry(name, entry)
            self.registry.verify_hashes()
            log(f"Importing baked module: {entry.module}")
        request = {
            **said,
            "kind": entry.type,
            "name": entry.name,
            "module": entry.module,
            "folders": [str(self.registry.folder), str(INSIDE)],
        }
        platform = background().platform
        reply, held = await self._kept.call(platform, key, entry.digest or "", terms, request)
        if key not in self._seen:
            self._seen.add(key)
            if reply.success:
                log(f"Loaded baked callable: {entry.name} from {entry.module}")
        return self._judged(name, entry, reply, method), held

    def _judge(
        self, name: str, args: Any, named: Mapping[str, Any], method: str | None = None
    ) -> None:
        """InvalidTask for arguments that the schema does not allow."""
        problem = self.registry.problem(name, args, named, method)
        if problem is not None:
            raise InvalidTask(f"{name}.{method}: {problem}" if method else f"{name}: {problem}")

    def _judged(self, name: str, entry: Entry, reply: Reply, method: str | None) -> Reply:
        """The reply, or what its schema does not allow about it."""
        if reply.json is None or entry.schemas.of(method).output is None:
            return reply
        from pydantic_core import from_json

        try:
            problem = self.registry.answer_problem(name, from_json(reply.json), method)
        except ValueError as exc:
            problem = str(exc)
        if problem is None:
            return reply
        return Reply(
            success=False,
            error=f"{name}: its answer is not as its schema has it: {problem}",
            stdout=reply.stdout,
            stderr=reply.stderr,
            log=reply.log,
            made=reply.made,
        )

    def _around(self, name: str, entry: Entry) -> Terms:
        """
        What it needs, and the folder that it is in, which it may read.

        Raises:
            PolicyDenied: It was baked to have a network, or GPUs, that this worker has not.
        """
        if name in self._terms_of:
            return self._terms_of[name]
        ours, folder = self._terms, str(self.registry.folder)
        environment = entry.environment
        if ours.environment.host_packages and not environment.packages:
            # One with packages of its own has all of them: what was locked, and nothing else.
            environment = environment.replace(host_packages=True)
        policy = _narrowed(name, ours.policy, entry)
        if policy.isolation > Rung.PROCESS:
            mount = Mount(source=folder, target=str(INSIDE))
            environment = environment.replace(mounts=(*environment.mounts, mount))
            policy = policy.replace(mounts=(*policy.mounts, folder))
        found = self._terms_of[name] = Terms(
            environment,
            policy,
            ours.driver,
            (*ours.secrets, *entry.secrets),
            {**ours.env, **entry.env},
            self.registry.hashes,
        )
        return found


def _narrowed(name: str, policy: Policy, entry: Entry) -> Policy:
    """The worker's policy, with what an entry says of itself: never more."""
    if entry.network is not None and entry.network > policy.network:
        raise PolicyDenied(
            f"{name}: it was baked with network={entry.network.value!r}, and this worker gives"
            f" {policy.network.value!r}: EXECUTION_NETWORK={entry.network.value} gives it"
        )
    if entry.gpu is not None and entry.gpu > policy.gpu:
        raise PolicyDenied(
            f"{name}: it was baked with gpu={entry.gpu}, and this worker gives {policy.gpu}"
        )
    said: dict[str, Any] = {}
    if entry.limits:
        said["limits"] = policy.limits.replace(**entry.limits).within(policy.limits)
    if entry.network is not None:
        said["network"] = entry.network
    if entry.gpu is not None:
        said["gpu"] = entry.gpu
    return policy.replace(**said) if said else policy


def located(workspace: object, registry: "str | os.PathLike[str] | None") -> Path:
    """Where a registry is: as said, else in the workspace, else where images have it."""
    if registry is not None:
        return Path(registry)
    if isinstance(workspace, str | os.PathLike):
        inside = Path(workspace) / PACKAGE / DEFAULT.name
        if inside.is_file():
            return inside
    return DEFAULT
