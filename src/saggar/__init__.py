r"""
Saggar runs code that you did not write, or do not want here, behind real walls.

    >>> import saggar
    >>> saggar.run("print(6 * 7)").stdout
    '42\n'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Names load when they are first used: `import saggar` costs next to nothing.
_HOMES = {
    "Command": "saggar.model.program",
    "ContainerExecutor": "saggar.functions.container",
    "Display": "saggar.model.result",
    "DriverUnavailable": "saggar.errors",
    "Environment": "saggar.model.environment",
    "Executor": "saggar.functions.executor",
    "File": "saggar.model.task",
    "GuestError": "saggar.errors",
    "InvalidTask": "saggar.errors",
    "Limits": "saggar.model.limits",
    "LocalExecutor": "saggar.functions.local",
    "Mount": "saggar.model.environment",
    "Network": "saggar.model.policy",
    "NotFound": "saggar.errors",
    "Overloaded": "saggar.errors",
    "Platform": "saggar.platform",
    "PlatformError": "saggar.errors",
    "Policy": "saggar.model.policy",
    "PolicyDenied": "saggar.errors",
    "PrepareFailed": "saggar.errors",
    "Program": "saggar.model.program",
    "RemoteError": "saggar.functions.errors",
    "Result": "saggar.model.result",
    "Rung": "saggar.model.policy",
    "SaggarError": "saggar.errors",
    "SandboxBroken": "saggar.errors",
    "SandboxExecutor": "saggar.functions.sandbox",
    "ServerUnavailable": "saggar.errors",
    "Settings": "saggar.config",
    "Status": "saggar.model.result",
    "Task": "saggar.model.task",
    "UsageError": "saggar.errors",
    "enter": "saggar.functions.classes",
    "exit": "saggar.functions.classes",
    "open_sandbox": "saggar.platform",
    "open_session": "saggar.platform",
    "remote": "saggar.functions.remote",
    "run": "saggar.platform",
    "submit": "saggar.jobs.submission",
}
# What the systems that came before call theirs; see docs/coming-from.md.
_DOCUMENTED = {
    "BakedExecutor": "saggar.compat.runpod_baked",
    "CodeTools": "saggar.functions.codetools",
    "GpuGroup": "saggar.functions.resources",
    "LiveServerless": "saggar.functions.resources",
    "is_baked_mode_enabled": "saggar.functions.baked",
}

__all__ = [
    "Command",
    "ContainerExecutor",
    "Display",
    "DriverUnavailable",
    "Environment",
    "Executor",
    "File",
    "GuestError",
    "InvalidTask",
    "Limits",
    "LocalExecutor",
    "Mount",
    "Network",
    "NotFound",
    "Overloaded",
    "Platform",
    "PlatformError",
    "Policy",
    "PolicyDenied",
    "PrepareFailed",
    "Program",
    "RemoteError",
    "Result",
    "Rung",
    "SaggarError",
    "SandboxBroken",
    "SandboxExecutor",
    "ServerUnavailable",
    "Settings",
    "Status",
    "Task",
    "UsageError",
    "enter",
    "exit",
    "open_sandbox",
    "open_session",
    "remote",
    "run",
    "submit",
]

if TYPE_CHECKING:
    from saggar.config import Settings
    from saggar.errors import (
        DriverUnavailable,
        GuestError,
        InvalidTask,
        NotFound,
        Overloaded,
        PlatformError,
        PolicyDenied,
        PrepareFailed,
        SaggarError,
        SandboxBroken,
        ServerUnavailable,
        UsageError,
    )
    from saggar.functions.baked import is_baked_mode_enabled as is_baked_mode_enabled
    from saggar.functions.classes import enter, exit  # noqa: A004 - saggar.exit, nothing else
    from saggar.functions.codetools import CodeTools as CodeTools
    from saggar.functions.container import ContainerExecutor
    from saggar.functions.errors import RemoteError
    from saggar.functions.executor import Executor
    from saggar.functions.local import LocalExecutor
    from saggar.functions.remote import remote
    from saggar.functions.resources import GpuGroup as GpuGroup
    from saggar.functions.resources import LiveServerless as LiveServerless
    from saggar.functions.sandbox import SandboxExecutor
    from saggar.jobs.submission import submit
    from saggar.model.environment import Environment, Mount
    from saggar.model.limits import Limits
    from saggar.model.policy import Network, Policy, Rung
    from saggar.model.program import Command, Program
    from saggar.model.result import Display, Result, Status
    from saggar.model.task import File, Task
    from saggar.platform import Platform, open_sandbox, open_session, run


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name) or _DOCUMENTED.get(name)
    if home is None:
        raise AttributeError(f"module 'saggar' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
