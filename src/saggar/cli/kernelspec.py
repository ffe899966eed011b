"""`saggar kernelspec install`: a kernel for Jupyter's menus that runs behind walls."""

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saggar.cli.arguments import Parser
from saggar.cli.main import say
from saggar.errors import InvalidTask, PlatformError

SUMMARY = "Give Jupyter a kernel that runs behind walls."
EXAMPLES = """\
examples:
  saggar kernelspec install                       for the user, as "saggar"
  saggar kernelspec install --prefix .venv --name data --package numpy --package pandas
  saggar kernelspec install --name xpython --kernel xpython --package xeus-python --network loopback
  jupyter execute --kernel_name=saggar notebook.ipynb
"""
NAME = "saggar"
PROVISIONER = "saggar"
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")


def main(words: Sequence[str]) -> int:
    """Write it, and say where."""
    options = arguments(words)
    folder = place(options) / options.name.lower()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "kernel.json"
    path.write_text(json.dumps(spec(options), indent=1) + "\n", encoding="utf-8")
    say(f"{path}\n")
    return 0


def arguments(words: Sequence[str]) -> Namespace:
    """What was asked for."""
    parser = Parser("kernelspec", SUMMARY, EXAMPLES)
    parser.usage = "saggar kernelspec install [OPTION...]"
    parser.add_argument("action", choices=["install"], help="write it")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--user", action="store_true", help="for this user (the default)")
    where.add_argument("--prefix", metavar="DIR", help="below this folder: sys.prefix, a .venv")
    parser.add_argument("--name", default=NAME, help=f"what Jupyter calls it ({NAME})")
    parser.add_argument("--display-name", metavar="TEXT", help="what its menus say")
    parser.add_argument(
        "--kernel", default="python", metavar="K", help="python, or one that a package brings"
    )
    parser.add_argument(
        "--package", metavar="P", action="append", default=[], help="install this for it"
    )
    parser.add_argument("--memory", metavar="SIZE", help="of all it starts, together (256MiB)")
    parser.add_argument("--disk", metavar="SIZE", help="in its writable folders (64MiB)")
    parser.add_argument("--network", default="none", choices=["none", "loopback", "host"])
    parser.add_argument("--folder", metavar="DIR", help="copy this into its work folder")
    options = parser.read(words)
    if not options.name or not LETTERS.issuperset(options.name.lower()):
        raise InvalidTask(f"--name: letters, digits, . _ and -, found {options.name!r:.60}")
    return options


def place(options: Namespace) -> Path:
    """Where kernelspecs are."""
    if options.prefix:
        return Path(options.prefix) / "share" / "jupyter" / "kernels"
    try:
        from jupyter_core.paths import jupyter_data_dir
    except ImportError as exc:
        raise PlatformError(
            "kernels for Jupyter need jupyter_client: pip install 'saggar[jupyter]'"
        ) from exc
    return Path(jupyter_data_dir()) / "kernels"


def spec(options: Namespace) -> dict[str, Any]:
    """What stands in it: who starts the kernel, and how."""
    limits = {name: getattr(options, name) for name in ("memory", "disk") if getattr(options, name)}
    config = {
        "kernel": options.kernel,
        "packages": options.package,
        "limits": limits,
        "network": options.network,
        "folder": str(Path(options.folder).resolve()) if options.folder else "",
    }
    language = "python" if "python" in options.kernel else options.kernel
    return {
        # Who knows no provisioners would run this, without walls; let it fail instead.
        "argv": [sys.executable, "-c", REFUSAL, "{connection_file}"],
        "display_name": options.display_name or f"{options.kernel} (saggar)",
        "language": language,
        "interrupt_mode": "signal",
        "metadata": {
            "debugger": False,
            "kernel_provisioner": {
                "provisioner_name": PROVISIONER,
                "config": {name: value for name, value in config.items() if value},
            },
        },
    }


REFUSAL = "raise SystemExit('this kernel is started by the provisioner of saggar only')"
