"""The sources of our machine code, assembled again: they say what the bytes in the package do."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import saggar

SOURCES = Path(saggar.__file__).parent / "guest"
MACHINES = ("x86_64", "aarch64")


def assembled(source: str, machine: str, folder: Path, needs: Callable[..., None]) -> bytes:
    """The code that `source` stands for on a machine; leaves the test where a tool is missing."""
    cross = "" if os.uname().machine == machine else f"{machine}-linux-gnu-"
    needs("gcc", f"{cross}as", f"{cross}objcopy")
    others = [f"-U__{name}__" for name in MACHINES if name != machine]
    text = subprocess.run(
        ["gcc", "-E", "-P", f"-D__{machine}__", *others, SOURCES / source],
        capture_output=True,
        check=True,
    ).stdout
    made, code = folder / "made.o", folder / "code"
    subprocess.run([f"{cross}as", "-o", made, "-"], input=text, check=True)
    subprocess.run([f"{cross}objcopy", "-O", "binary", "-j", ".text", made, code], check=True)
    return code.read_bytes()
