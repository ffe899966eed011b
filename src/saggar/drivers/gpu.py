"""
GPUs: what this machine has of NVIDIA's, and what of it a sandbox has to see.

Apart from the drivers, which show it each in their own way. `look` reads the machine; `passage`
chooses from what was read and is pure, so it is tested where there is no GPU.
"""

import os
import platform
import re
import stat
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from glob import glob
from pathlib import Path
from typing import Final

from saggar.errors import DriverUnavailable

LIBRARIES: Final = "/opt/nvidia/lib"
"""Where a sandbox finds the driver's libraries, wherever this machine has them."""
CONTROL, MEMORY, TOOLS = "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"
_CARD: Final = re.compile(r"/dev/nvidia(\d+)")
_CAPABILITIES: Final = "/dev/nvidia-caps/"
"""Parts of a card that was divided (MIG); without theirs they cannot be used."""
_ANYBODY: Final = 0o006
_CACHE: Final = "/etc/ld.so.cache"
_LINE: Final = re.compile(r"\s*(\S+) \(([^)]*)\) => (\S+)")
_MACHINES: Final = {"x86_64": "x86-64", "aarch64": "AArch64"}
"""What `ldconfig -p` calls the libraries of a machine."""
_PARTS: Final = (
    "cuda cudadebugger nvidia-ml nvidia-cfg nvidia-nvvm nvidia-nvvm70 nvidia-ptxjitcompiler"
    " nvidia-gpucomp nvidia-opencl nvidia-compiler nvidia-allocator nvidia-fatbinaryloader"
    " nvidia-pkcs11 nvidia-pkcs11-openssl3 nvidia-sandboxutils nvcuvid nvidia-encode nvoptix"
)
_LIBRARY: Final = re.compile(rf"lib(?:{'|'.join(_PARTS.split())})\.so(?:\.\d+)+")
"""What comes with the driver, and has to be of its very version; CUDA itself comes in packages."""
_FOLDERS: Final = ("/usr/local/nvidia/lib64", "/usr/lib/wsl/lib", "/run/opengl-driver/lib")
"""Where they are on machines that do not tell ldconfig."""
# Without /sys the start of CUDA fails, with error 304. These tell of the driver and of processors.
_ABOUT: Final = (
    "/sys/module/nvidia",
    "/sys/module/nvidia_uvm",
    "/sys/module/nvidia_modeset",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
)
_BUS: Final = "/sys/bus/pci/devices"


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU: its device is /dev/nvidia and the number."""

    number: int
    model: str = ""
    bus: str = ""
    """What it is called on the bus: 0000:65:00.0."""
    folder: str = ""
    """Where the kernel tells about it."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is of NVIDIA's on a machine."""

    nodes: Mapping[str, int] = field(default_factory=dict)
    """Devices, and who may open them: the bits of their modes."""
    cards: tuple[Card, ...] = ()
    libraries: Mapping[str, str] = field(default_factory=dict)
    """What a library is asked for by, and the file that it is."""
    folders: tuple[str, ...] = ()
    """Of /sys."""


@dataclass(frozen=True, slots=True)
class Passage:
    """What a sandbox is shown, so that programs in it find so many GPUs."""

    cards: tuple[Card, ...]
    devices: tuple[str, ...]
    libraries: tuple[tuple[str, str], ...]
    """Path inside, path on the host."""
    folders: tuple[str, ...]
    """Shown where they are."""
    links: tuple[tuple[str, str], ...]
    """Path inside, and what it says."""

    @property
    def seen(self) -> tuple[str, ...]:
        """What is read of it, where a sandbox sees all of the host's paths and may open few."""
        return (*(path for _, path in self.libraries), *self.folders)

    def variables(self, *, inside: bool) -> dict[str, str]:
        """What a program finds in its environment: at a place of ours inside, or where it lies."""
        folders = dict.fromkeys(os.path.dirname(path) for _, path in self.libraries)
        return {"LD_LIBRARY_PATH": LIBRARIES if inside else ":".join(folders)}


def passage(machine: Machine, count: int) -> Passage:
    """
    The first `count` GPUs, and all that takes.

    Raises:
        DriverUnavailable: Something is missing; says what, and where it comes from.
    """
    if reason := lacking(machine, count):
        raise DriverUnavailable(f"gpu={count} cannot be had here: {reason}")
    cards = machine.cards[:count]
    wanted = {CONTROL, MEMORY, TOOLS, *(f"/dev/nvidia{card.number}" for card in cards)}
    devices = [
        path
        for path, mode in machine.nodes.items()
        if path in wanted or (path.startswith(_CAPABILITIES) and mode & 0o004)
    ]
    libraries = [(f"{LIBRARIES}/{name}", path) for name, path in machine.libraries.items()]
    located = [card for card in cards if card.folder]
    return Passage(
        cards=cards,
        devices=tuple(sorted(devices)),
        libraries=tuple(sorted(libraries)),
        folders=(*machine.folders, *(card.folder for card in located)),
        links=(
            (f"{LIBRARIES}/libcuda.so", "libcuda.so.1"),
            *((f"{_BUS}/{card.bus}", f"../../..{card.folder[4:]}") for card in located),
        ),
    )


def lacking(machine: Machine, count: int) -> str:
    """Why so many GPUs cannot be shown to a sandbox of this machine; empty if they can."""
    if CONTROL not in machine.nodes:
        return (
            f"there is no {CONTROL}; NVIDIA's driver is not loaded (nvidia-smi loads it), or this"
            " is a container without it (docker run --gpus all)"
        )
    if MEMORY not in machine.nodes:
        return f"there is no {MEMORY}; nvidia-modprobe -u -c=0 makes it"
    if len(machine.cards) < count:
        return f"there are {len(machine.cards)} GPUs ({names(machine.cards) or 'no /dev/nvidia0'})"
    needed = (CONTROL, MEMORY, *(f"/dev/nvidia{card.number}" for card in machine.cards[:count]))
    for path in needed:
        if (mode := machine.nodes[path]) & _ANYBODY != _ANYBODY:
            return (
                f"{path} cannot be opened by everybody (its mode is {mode:04o}), and a sandbox is"
                " nobody in particular; options nvidia NVreg_DeviceFileMode=0666 in"
                " /etc/modprobe.d makes it so"
            )
    if "libcuda.so.1" not in machine.libraries:
        return (
            "there is no libcuda.so.1 among what `ldconfig -p` lists; it comes with the driver"
            " (libnvidia-compute, nvidia-driver-libs)"
        )
    return ""


def names(cards: Iterable[Card]) -> str:
    """What they are, for people."""
    return ", ".join(card.model or f"/dev/nvidia{card.number}" for card in cards)


def fact(machine: Machine) -> str:
    """For the probe: what could be passed, or why nothing."""
    if reason := lacking(machine, 1):
        return f"none: {reason}"
    return f"{len(machine.cards)} that can be passed: {names(machine.cards)}"


def look() -> Machine:
    """What this machine has; costs nothing where that is nothing."""
    nodes = dict(_nodes())
    if not nodes:
        return Machine()
    told = dict(map(card_of, _told()))
    numbers = sorted(int(found[1]) for found in map(_CARD.fullmatch, nodes) if found)
    cards = tuple(_located(number, *told.get(number, ("", ""))) for number in numbers)
    folders = tuple(path for path in _ABOUT if os.path.isdir(path))
    return Machine(nodes, cards, _libraries(), folders)


def _nodes() -> Iterable[tuple[str, int]]:
    for path in sorted(glob("/dev/nvidia*") + glob(f"{_CAPABILITIES}*")):
        found = os.stat(path, follow_symlinks=False)
        if stat.S_ISCHR(found.st_mode):
            yield path, stat.S_IMODE(found.st_mode)


def _told() -> list[tuple[str, str]]:
    """What the driver tells about each card, and what it is called on the bus."""
    files = sorted(glob("/proc/driver/nvidia/gpus/*/information"))
    return [(Path(file).parent.name, Path(file).read_text("utf-8", "replace")) for file in files]


def card_of(told: tuple[str, str]) -> tuple[int, tuple[str, str]]:
    """Number, model and place on the bus; -1 where the driver does not say the number."""
    bus, text = told
    said = dict(re.findall(r"^([^:\n]+):[ \t]*(.*?)[ \t]*$", text, re.MULTILINE))
    number = said.get("Device Minor", "")
    return int(number) if number.isdecimal() else -1, (said.get("Model", ""), bus)


def _located(number: int, model: str, bus: str) -> Card:
    folder = os.path.realpath(f"{_BUS}/{bus}") if bus else ""
    inside = folder.startswith("/sys/devices/") and os.path.isdir(folder)
    return Card(number, model, bus, folder if inside else "")


def _libraries() -> Mapping[str, str]:
    try:
        changed = os.stat(_CACHE).st_mtime_ns
    except OSError:
        changed = 0
    return _libraries_at(changed)


@lru_cache(maxsize=1)
def _libraries_at(changed: int) -> Mapping[str, str]:
    """Asked again only when the linker's cache is another one: it takes a program to read it."""
    del changed
    found = {}
    for folder in _FOLDERS:
        for path in sorted(glob(f"{folder}/*.so.*")):
            if _LIBRARY.fullmatch(name := os.path.basename(path)):
                found[name] = os.path.realpath(path)
    return found | libraries_of(_listed(), platform.machine())


def _listed() -> str:
    for program in ("/sbin/ldconfig", "/usr/sbin/ldconfig"):
        if os.path.exists(program):
            run = subprocess.run(
                [program, "-p"], capture_output=True, text=True, timeout=30, check=False
            )
            return run.stdout
    return ""


def libraries_of(listed: str, machine: str) -> dict[str, str]:
    """The driver's libraries among what `ldconfig -p` lists, by what they are asked for."""
    found: dict[str, str] = {}
    for name, kind, path in _LINE.findall(listed):
        if _LIBRARY.fullmatch(name) and _MACHINES.get(machine, machine) in kind.split(","):
            found.setdefault(name, os.path.realpath(path))
    return found
