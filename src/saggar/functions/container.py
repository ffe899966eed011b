"""
Functions in containers: any image that speaks the container protocol, called with JSON.

What the image starts by itself reads one request on stdin and writes one answer to stdout; see
docs/container-protocol.md. The container serves one call and is removed.
"""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from saggar.config import load
from saggar.errors import (
    ExecutionFailed,
    InvalidOutput,
    InvalidTask,
    PolicyDenied,
    PrepareFailed,
)
from saggar.functions.executor import A, B
from saggar.functions.sandbox import TIMEOUT, TaskExecutor, closed
from saggar.model.codec import Payload
from saggar.model.environment import Environment, Mount
from saggar.model.policy import OUR_IMAGES, Network, Policy, Rung
from saggar.model.program import Command, Program
from saggar.model.protocol import LARGEST, Answered, decode_answer, encode_request
from saggar.model.result import ErrorInfo, Result, Status
from saggar.model.task import Task
from saggar.platform import Platform

if TYPE_CHECKING:
    from saggar.model.schema import Source

OUTPUT = LARGEST + (1 << 20)
"""Bytes of stdout and stderr: the largest answer, and room for what is printed beside it."""
PREFIXES = {
    "OUTPUT_VALIDATION": "output validation failed: ",
    "EXECUTION": "",
}
"""How runners begin their messages, where our own errors begin alike."""


class ContainerExecutor(TaskExecutor[A, B]):
    """
    An image that speaks the container protocol.

        stats = ContainerExecutor[list[float], Stats](
            "saggar/runner-python:latest", mounts=[("/srv/stats.py", "/app/execute.py")]
        )
        stats([1, 2, 3])

    Closed by default: no network, a read-only root, user 1000 without capabilities, finite
    everything. Both sides are validated here, whatever the image does.
    """

    def __init__(  # noqa: PLR0913 - the container, its walls, and what may go in and out
        self,
        image: str,
        *,
        cmd: str | Sequence[str] = (),
        disable_net: bool = True,
        read_only_fs: bool = True,
        memory: int | str = "256MiB",
        cpu: float = 1.0,
        timeout: float | str = TIMEOUT,
        user: int = 1000,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
        mounts: Iterable[Mount | tuple[str, str] | tuple[str, str, bool]] = (),
        build: str | PathLike[str] | None = None,
        policy: Policy | None = None,
        platform: Platform | None = None,
        schema_in: "Source | None" = None,
        schema_out: "Source | None" = None,
    ) -> None:
        if not image:
            raise InvalidTask("container image is required")
        mounted = tuple(map(_mount, mounts))
        argv = (cmd,) if isinstance(cmd, str) else tuple(cmd)
        task = Task.of(
            Program(code=Command(argv=argv), language="command"),
            environment=Environment(
                image=image,
                mounts=mounted,
                user=user,
                workdir=workdir,
                writable_root=not read_only_fs,
            ),
            env=env,
        )
        limits = {"memory": memory, "cpu_share": cpu, "output": OUTPUT}
        super().__init__(
            task,
            closed(policy or _policy(task, disable_net), limits, timeout),
            driver="docker",
            platform=platform,
            schema_in=schema_in,
            schema_out=schema_out,
        )
        if build is not None:
            _refuse_under_a_ceiling(image, platform)
            _build(image, build)

    def _carrying(self, payload: Payload) -> Task:
        return self.task.model_copy(update={"stdin": encode_request(payload)})

    def judge(self, result: Result[Any]) -> B:
        """The answer in what the container wrote, or the failure it is."""
        if result.status not in {Status.OK, Status.ERROR} or result.limit:
            return super().judge(result)
        answer = decode_answer(result.stdout_bytes)
        if isinstance(answer, Answered) and result.ok:
            return self._lift(answer.value, result)
        if isinstance(answer, Answered):
            answer = ErrorInfo(type="CRASH", message="the program was ended after it had answered")
        raise _failure(answer, result)


def _failure(error: ErrorInfo, result: Result[Any]) -> Exception:
    """
    The exception for what a runner says went wrong, or for what is no answer at all.

    That the input was wrong, or time was over, is for us to find out: from inside it is hearsay.
    """
    text = error.message.removeprefix(PREFIXES.get(error.type, ""))
    found = result.replace(status=Status.ERROR, error=error)
    match error.type:
        case "OUTPUT_VALIDATION":
            return InvalidOutput(found, text)
        case "EXECUTION":
            return ExecutionFailed(found, text)
    ended = "" if result.ok else f" ({result.summary()})"
    return ExecutionFailed(found, f"{error.type}: {text}{ended}")


def _mount(mount: Mount | tuple[str, str] | tuple[str, str, bool]) -> Mount:
    if isinstance(mount, Mount):
        return mount
    source, target, *rest = mount
    return Mount(source=str(source), target=target, read_only=rest[0] if rest else True)


def _policy(task: Task, disable_net: bool) -> Policy:  # noqa: FBT001
    """The closed policy, but for what the caller of the constructor has named himself."""
    environment = task.program.environment
    mounts = environment.mounts
    return Policy(
        isolation=Rung.CONTAINER,
        network=Network.NONE if disable_net else Network.HOST,
        images=(environment.image or "",),
        mounts=tuple(mount.source for mount in mounts),
        shares=tuple(mount.source for mount in mounts if not mount.read_only),
        users=frozenset({environment.user}),
        best_effort=frozenset({"disk", "inodes"} if environment.writable_root else ()),
    )


def _refuse_under_a_ceiling(image: str, platform: Platform | None) -> None:
    """An image is built by the engine, which asks no policy."""
    ceiling = (platform.settings if platform is not None else load()).ceiling
    if ceiling is not None or image in OUR_IMAGES:
        raise PolicyDenied(
            f"build: {image!r} is not built here, where an operator has set a ceiling or the name"
            " is one of ours; build it beforehand, and allow it with Policy(images=...)"
        )


def _build(image: str, folder: str | PathLike[str]) -> None:
    """The image of that name, built from a folder with a Dockerfile unless it is here."""
    from saggar.drivers.docker.engine import Engine, address

    engine = Engine(address())
    try:
        engine.image(image)
    except PrepareFailed:
        engine.build(image, fspath(folder))
    finally:
        engine.close()
