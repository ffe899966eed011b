"""
Whose container it is: a label that tells whether the process that made it is still alive.

A number alone names somebody else tomorrow; with the moment it started, the boot, and the
namespace in which it is counted it never does.
"""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from saggar.drivers.docker.engine import LABEL, Engine
from saggar.drivers.treewatch import life

FOLDER = "containers"
"""Below the runtime folder: a folder for each container that is being born."""


def owner() -> str:
    """This process, by a name that no other one ever has."""
    now = life(os.getpid())
    started = now.started if now else 0
    return f"{os.getpid()}.{started}.{_counted_in()}.{_boot()}"


def dead(name: str) -> bool:
    """Whether the process of that name is certainly gone: one that we cannot see may live."""
    parts = name.split(".")
    if len(parts) != 4 or not parts[0].isdigit():
        return False
    pid, started, counted_in, boot = parts
    if boot != _boot():
        return True
    if counted_in != _counted_in():
        return False
    now = life(int(pid))
    return now is None or str(now.started) != started


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _counted_in() -> str:
    """The pid namespace that numbers us."""
    return str(os.stat("/proc/self/ns/pid").st_ino)


def sweep(engine: Engine, runtime: Path) -> Mapping[str, int]:
    """Remove the containers and folders of dead processes; how many of each. Blocks."""
    left = [one for one, name in engine.labelled(LABEL).items() if dead(name)]
    for container in left:
        engine.remove(container)
    return {"containers": len(left), "container_folders": sweep_folders(runtime)}


def sweep_folders(runtime: Path) -> int:
    """Remove the folders in which containers of dead processes were to be born; how many."""
    found = 0
    with suppress(OSError):
        for folder in (runtime / FOLDER).iterdir():
            if dead(folder.name.rpartition("-")[0]):
                shutil.rmtree(folder, ignore_errors=True)
                found += 1
    return found
