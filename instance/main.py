# ruff: noqa: INP001 - a program of its own, not a part of a package
"""
The instance as its container starts it: `saggar instance`, for all who reach the container.

`--check` asks one that runs whether it is healthy, for the container's own health check.
"""

import os
import sys
import urllib.request

ALL = "0.0.0.0"  # noqa: S104 - of the container's own network


def check() -> int:
    """0 if an instance answers here."""
    port = os.environ.get("PORT") or "8432"
    # Straight to it, whatever proxy the container was told to use for the rest of the world.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
        return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(check())
    from saggar.cli import main

    sys.exit(main(["instance", "--host", ALL, *sys.argv[1:]]))
