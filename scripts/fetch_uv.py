"""
uv without pip: the wheel that the lock file names, checked against its hash, unpacked.

For machines whose python3 has neither venv nor pip. Standard library only.
"""

import hashlib
import io
import platform
import sys
import tomllib
import urllib.request
import zipfile
from pathlib import Path


def suffix() -> str:
    """How the file name of a wheel for this machine ends."""
    kind = "manylinux" if platform.libc_ver()[0] == "glibc" else "musllinux"
    return {"Linux": f"{kind}*_{platform.machine()}.whl", "Darwin": "macosx*.whl"}[
        platform.system()
    ]


def wheel(lock: Path) -> tuple[str, str]:
    """Address and SHA-256 of the wheel for this machine."""
    packages = tomllib.loads(lock.read_text())["package"]
    wheels = next(package["wheels"] for package in packages if package["name"] == "uv")
    fitting = (
        entry
        for entry in wheels
        if Path(entry["url"]).match(f"*{suffix()}") and entry["hash"].startswith("sha256:")
    )
    found = next(fitting, None)
    if found is None:
        sys.exit(f"the lock file names no uv for {platform.platform()}")
    return found["url"], found["hash"].removeprefix("sha256:")


def main(lock: str, folder: str) -> None:
    """Put `uv` into `folder`."""
    url, digest = wheel(Path(lock))
    with urllib.request.urlopen(url, timeout=120) as response:
        body = response.read()
    if hashlib.sha256(body).hexdigest() != digest:
        sys.exit(f"{url} is not what the lock file promises")
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("scripts/uv"))
        program = Path(folder, "uv")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_bytes(archive.read(name))
    program.chmod(0o755)


if __name__ == "__main__":
    main(*sys.argv[1:])
