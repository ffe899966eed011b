"""Looks for the host: its files, its environment, its processes. Says what it got."""

import os
import sys
from pathlib import Path

WANTED = (
    *sys.argv[1:],
    "/etc/shadow",
    "/root/.ssh/id_rsa",
    "/proc/1/environ",
    "/proc/kcore",
    "/var/run/docker.sock",
    "/dev/sda",
    "/dev/mem",
)


def look(path):
    """The beginning of a file, or why there is none."""
    try:
        with open(path, "rb") as file:
            return f"READ {file.read(60)!r}"
    except OSError as error:
        return error.strerror


for path in WANTED:
    print(f"{path}: {look(path)}")
for name in sorted(os.listdir("/")):
    print(f"/{name}", end=" ")
processes = sorted(int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
print(f"\nprocesses: {processes}")
print(f"environment: {dict(os.environ)}")
