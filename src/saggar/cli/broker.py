"""`saggar broker`: where jobs wait, and a prompt there."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

from saggar.cli.arguments import Parser
from saggar.cli.jobs import chosen
from saggar.cli.main import complain, say
from saggar.errors import UsageError

SUMMARY = "The broker that jobs wait in, ours or the one that is named: url, cli."
EXAMPLES = """\
examples:
  saggar broker url
  saggar broker cli
  saggar broker cli LRANGE dead_letter 0 -1
  saggar broker cli --results KEYS '*'
  CELERY_BROKER_URL=$(saggar broker url) celery -A saggar.worker inspect ping

cli is redis-cli, or valkey-cli, at the broker; without one of them a single command is answered as
they would. Our own broker runs as long as somebody uses it: cli starts it, url does not.
"""
CLIENTS = ("redis-cli", "valkey-cli")


def main(words: Sequence[str]) -> int:
    """What the first word asks for."""
    return chosen("broker", SUMMARY, EXAMPLES, ACTIONS, words)


def url(words: Sequence[str]) -> int:
    """Where it is."""
    made = Parser("broker url", "The URL of the broker, as Celery spells it.", "")
    made.add_argument("--results", action="store_true", help="that of the results")
    made.add_argument("--json", action="store_true", help="both, as one JSON document")
    options = made.read(words)

    from saggar.config import load, queue_urls, state_dir
    from saggar.jobs.broker import Embedded, celery_url, endpoints

    settings = load()
    broker, results = queue_urls(settings)
    if broker:
        where = endpoints(settings)
        broker, results = where.broker, where.results
    else:
        ours = Embedded(state_dir(settings))
        broker, results = ours.url(0), results or ours.url(1)
    found = {"broker": celery_url(broker), "results": celery_url(results)}
    if options.json:
        import json

        say(json.dumps(found) + "\n")
        return 0
    say(found["results" if options.results else "broker"] + "\n")
    return 0


def cli(words: Sequence[str]) -> int:
    """A prompt there, or one command."""
    if words[:1] in (["-h"], ["--help"]):
        Parser("broker cli", "redis-cli at the broker; what follows is its own.", "").read(words)
    results = words[:1] == ["--results"]
    command = list(words[1:] if results else words)

    from saggar.config import load
    from saggar.jobs.broker import endpoints

    where = endpoints(load())
    at = where.results if results else where.broker
    if client := next(filter(None, map(shutil.which, CLIENTS)), None):
        # Not replaced by it: our own broker lives as long as we do.
        argv, environ = reached(at)
        return subprocess.run([client, *argv, *command], env=environ, check=False).returncode
    if not command:
        raise UsageError(
            "a prompt needs redis-cli or valkey-cli (apt install redis-tools);"
            " one command does not: saggar broker cli LRANGE dead_letter 0 -1"
        )
    return asked(at, command)


def reached(at: str) -> tuple[list[str], dict[str, str]]:
    """How redis-cli gets there; a password is not for everybody who looks at processes."""
    parts, environ = urlsplit(at), dict(os.environ)
    if parts.password is not None:
        environ["REDISCLI_AUTH"] = unquote(parts.password)
    if parts.scheme == "unix":
        database = parse_qs(parts.query).get("db", ["0"])[0]
        return ["-s", unquote(parts.path), "-n", database], environ
    host = parts.netloc.rpartition("@")[2]
    user = ["--user", unquote(parts.username)] if parts.username else []
    return ["-u", urlunsplit(parts._replace(netloc=host)), *user], environ


def asked(at: str, command: Sequence[str]) -> int:
    """One command, answered as redis-cli does where nobody looks."""
    from saggar.jobs.store import answered

    found = answered(at, command)
    if isinstance(found, Exception):
        complain(str(found))
        return 1
    say("".join(f"{line}\n" for line in plain(found)))
    return 0


def plain(found: Any) -> Iterator[str]:
    """An answer, a line for each of its parts."""
    match found:
        case list() | tuple() | set():
            for each in found:
                yield from plain(each)
        case dict():
            for name, each in found.items():
                yield from (*plain(name), *plain(each))
        case bytes():
            yield found.decode(errors="replace")
        case bool():
            yield "OK" if found else "0"
        case None:
            yield ""
        case _:
            yield str(found)


ACTIONS = {
    "url": ("where it is, for CELERY_BROKER_URL", url),
    "cli": ("redis-cli there", cli),
}
