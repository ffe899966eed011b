"""`saggar env`: the layers that environments are made of: list, show, remove, build ahead."""

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from saggar.cli.arguments import Parser
from saggar.cli.main import say
from saggar.cli.progress import progress, until_ended
from saggar.errors import NotFound, UsageError
from saggar.model.environment import Environment
from saggar.model.quantity import format_bytes, parse_bytes, parse_seconds

if TYPE_CHECKING:
    from saggar.environments.layers import Stored
    from saggar.environments.store import Store
    from saggar.model.plan import Layer

VERBS = {
    "ls": "the layers on this machine, the most recently used first",
    "show": "one layer: what was asked for, its lock, where its files are",
    "prune": "remove layers: these, or those that nobody used lately",
    "prepare": "build an environment before somebody waits for it",
}
SUMMARY = "Layers of packages, system packages and models: built once, shown read-only."
EXAMPLES = """\
  ls       {ls}
  show     {show}
  prune    {prune}
  prepare  {prepare}

  saggar env prepare --package numpy --python 3.12
  saggar env prepare --system-package ffmpeg --model org/name@v1
  saggar env ls
  saggar env show 3fa9c1
  saggar env prune --unused 7d --size 10GiB
  saggar env prune 3fa9c1 77e0d2

A layer under a living sandbox stays. What is removed is built again when it is asked for: from the
same lock if it was unused, resolved anew if it was named.
""".format(**VERBS)


def main(words: Sequence[str]) -> int:
    """What the first word asks for."""
    match words:
        case [verb, *rest] if verb in VERBS:
            say(globals()[verb](rest))
            return 0
        case [verb, *_] if not verb.startswith("-"):
            raise NotFound.among("command of saggar env", verb, VERBS)
        case _:
            Parser("env", SUMMARY, EXAMPLES).read(words)
            raise UsageError(f"saggar env takes one of {', '.join(VERBS)}; see saggar env --help")


def ls(words: Sequence[str]) -> str:
    """The layers, as a table or as JSON."""
    options = _parser("ls").read(words)
    found = _store().list()
    if options.json:
        return _json([asdict(layer) for layer in found])
    rows = [_row(layer) for layer in found]
    return _table([("digest", "kind", "size", "used", "what"), *rows]) if rows else "no layers\n"


def show(words: Sequence[str]) -> str:
    """Everything about one layer."""
    parser = _parser("show")
    parser.add_argument("digest", help="the digest, or how it begins")
    options = parser.read(words)
    store = _store()
    found = store.find(options.digest)
    about = {**asdict(found), "folder": str(store.folder(found)), "lock": store.lock(found)}
    if options.json:
        return _json(about)
    shown = {
        "digest": found.digest,
        "kind": found.kind,
        "asked for": ", ".join(found.requirements),
        "made for": found.python,
        "size": format_bytes(found.size),
        "used": _date(found.used),
        "folder": about["folder"],
    }
    width = max(map(len, shown))
    lines = [f"{name.ljust(width)}  {value}" for name, value in shown.items()]
    return "\n".join([*lines, "", about["lock"].rstrip(), ""])


def prune(words: Sequence[str]) -> str:
    """Remove layers, and say which."""
    parser = _parser("prune")
    parser.add_argument("digests", nargs="*", metavar="DIGEST", help="these, or how they begin")
    parser.add_argument("--unused", metavar="TIME", help="those unused for this long (30d)")
    parser.add_argument("--size", metavar="SIZE", help="the longest unused, until the rest fits")
    options = parser.read(words)
    if options.digests and (options.unused or options.size):
        raise UsageError("prune: name layers, or say --unused and --size; not both")
    removed = _named(options.digests) if options.digests else _unused(options)
    if options.json:
        return _json({"removed": removed})
    return "".join(f"{name} removed\n" for name in removed) or "nothing to remove\n"


def prepare(words: Sequence[str]) -> str:
    """Build what is missing, with what takes time on stderr; the layers."""
    parser = _parser("prepare")
    parser.add_argument("--python", metavar="VERSION", help="for this Python; a version, or a path")
    _listed(parser, "--package", "a Python package, with or without versions: 'numpy==2.*'")
    _listed(parser, "--system-package", "a package of this machine's distribution: ffmpeg")
    _listed(parser, "--model", "a model of the hub: org/name, org/name@revision")
    parser.add_argument(
        "--host-packages", action="store_true", help="beside the packages installed here"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing meanwhile")
    options = parser.read(words)
    environment = Environment(
        packages=options.package,
        system_packages=options.system_package,
        models=options.model,
        python=options.python,
        host_packages=options.host_packages,
    )
    if environment in {Environment(), Environment(python=options.python)}:
        raise UsageError("prepare: nothing to build; name a --package, --system-package or --model")
    with progress(quiet=options.quiet) as tell:
        layers = _prepared(environment, tell)
    if options.json:
        return _json([layer.model_dump() for layer in layers])
    return "".join(f"{layer.path}\n" for layer in layers) or "all of it is on this machine\n"


def _prepared(environment: Environment, tell: Any) -> "Sequence[Layer]":
    from saggar.config import load
    from saggar.platform import Platform

    async def built() -> "Sequence[Layer]":
        async with Platform(load()) as platform:
            return await platform.prepare(environment, progress=tell)

    return until_ended(built)


def _named(digests: Sequence[str]) -> list[str]:
    store = _store()
    found = [store.find(digest).digest for digest in digests]  # all of them before the first goes
    for digest in found:
        store.remove(digest)
    return found


def _unused(options: Namespace) -> list[str]:
    from saggar.environments.layers import MONTH

    try:
        age = MONTH if options.unused is None else parse_seconds(options.unused)
        most = None if options.size is None else parse_bytes(options.size)
    except ValueError as exc:
        raise UsageError(f"prune: {exc}") from None
    store = _store()
    return [*store.gc(max_age=age), *(() if most is None else store.evict(most))]


def _store() -> "Store":
    from saggar.config import load
    from saggar.environments.store import Store

    return Store.of(load())


def _parser(verb: str) -> Parser:
    parser = Parser(f"env {verb}", f"{VERBS[verb][0].upper()}{VERBS[verb][1:]}.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _listed(parser: Parser, option: str, text: str) -> None:
    parser.add_argument(option, action="append", default=[], metavar="NAME", help=text)


def _row(layer: "Stored") -> tuple[str, ...]:
    digest = layer.digest.removeprefix("sha256:")[:12]
    what = ", ".join(layer.requirements)
    return digest, layer.kind, format_bytes(layer.size), _date(layer.used), f"{what:.100}"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines) + "\n"


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _json(document: Sequence[Any] | Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"
