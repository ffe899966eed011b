"""
Models: fetched from the hub before the run, and shown where the program's libraries look for them.

A model is named as on the hub, with a revision if one is meant: "org/name", "org/name@v1.0". What
it stands for is written down once, so that it stays the same. Files are fetched into a cache that
outlives a failure; a layer shares them, it does not copy them.
"""

import hashlib
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from anyio import to_thread

from saggar.environments import commands, tree
from saggar.environments.commands import Command
from saggar.environments.recipe import Stale, Workshop
from saggar.errors import InvalidTask, PrepareFailed
from saggar.model.plan import Layer

INSIDE: Final = "/opt/saggar/models"
LIBRARY: Final = ("huggingface-hub>=0.25",)
"""What downloads, where it is not installed beside us."""
TIMEOUT: Final = 3600.0
"""Seconds, at least: models are larger than packages."""
_HUB: Final = "https://huggingface.co"
_PROGRAM: Final = Path(__file__).with_name("hub.py")
_PART: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_NAME: Final = re.compile(
    rf"(?P<name>{_PART}(?:/{_PART})?)(?:@(?P<revision>[\w][\w./+-]{{0,254}}))?", re.ASCII
)
_PASSED: Final = re.compile(
    r"HF_(?!HOME|TOKEN|ENDPOINT|HUB_CACHE|ASSETS_CACHE|HUB_DISABLE_PROGRESS_BARS)\w+"
    r"|(?i:https?_proxy|all_proxy|no_proxy)|SSL_CERT_(?:FILE|DIR)|REQUESTS_CA_BUNDLE"
    r"|CURL_CA_BUNDLE|PATH|LANG|TMPDIR"
)


def normalised(models: Iterable[str]) -> tuple[str, ...]:
    """
    The same models, each with its revision, sorted.

    Raises:
        InvalidTask: One of them is not a name as the hub has them.
    """
    return tuple(sorted({f"{name}@{revision}" for name, revision in map(_split, models)}))


def _split(model: str) -> tuple[str, str]:
    found = _NAME.fullmatch(model)
    if found is None or ".." in model or "--" in found["name"] or model.endswith("/"):
        raise InvalidTask(
            f"wanted a model such as 'org/name' or 'org/name@v1', found {model!r:.80}"
        )
    return found["name"], found["revision"] or "main"


def endpoint(environ: Mapping[str, str]) -> str:
    """The hub: HF_ENDPOINT, or the one everybody means."""
    return environ.get("HF_ENDPOINT", "").rstrip("/") or _HUB


def is_installed() -> bool:
    """Whether the library that downloads is installed beside us."""
    return find_spec("huggingface_hub") is not None


def offline(layer: Layer) -> Layer:
    """The same for a program without a network: its libraries do not try to reach the hub."""
    return layer.replace(env=(("HF_HUB_OFFLINE", "1"), ("HF_HUB_DISABLE_TELEMETRY", "1")))


@dataclass(frozen=True, slots=True)
class Models:
    """Models of one hub, as one token opens them."""

    names: tuple[str, ...]
    endpoint: str
    token: str
    cache: Path
    """Where downloads are until they are finished."""
    library: str = ""
    """A folder that the library is in; empty where it is installed beside us."""
    older: tuple[Path, ...] = ()
    """Layers that may have some of the files."""
    kind: str = "models"

    @property
    def made_for(self) -> str:
        """Whose they are: what one token has opened is not shown to who has another or none."""
        if not self.token:
            return self.endpoint
        return f"{self.endpoint} token {hashlib.sha256(self.token.encode()).hexdigest()[:16]}"

    @property
    def surroundings(self) -> str:
        """The same: another hub may have something else under the same name."""
        return self.made_for

    async def resolve(self, at: Workshop) -> str:
        """
        The lock: the commit that each of the models is at, and how large it is.

        Raises:
            PrepareFailed: There is no such model or revision, or it is not for everybody.
        """
        at.progress(f"looking up {', '.join(map(_readable, self.names))}")
        found = await self._ask(at, "resolve", {"models": [_split(name) for name in self.names]})
        return "".join(f"{json.dumps(model)}\n" for model in found)

    async def install(self, lock: str, at: Workshop) -> None:
        """
        Fetch what a lock names, or what is missing of it, and move it into `site`.

        Raises:
            Stale: A commit has gone from the hub.
            PrepareFailed: It cannot be fetched.
        """
        models = [json.loads(line) for line in lock.splitlines()]
        cache = self.cache / hashlib.sha256(json.dumps([self.made_for, lock]).encode()).hexdigest()
        await to_thread.run_sync(self._seed, cache, [model[0] for model in models])
        await self._ask(at, "fetch", {"models": models, "cache": str(cache)})
        shutil.rmtree(cache / ".locks", ignore_errors=True)
        (at.folder / "site").mkdir()
        cache.rename(at.folder / "site" / "hub")

    def layer(self, site: Path, digest: str) -> Layer:
        """What huggingface_hub, and whoever builds on it, takes for its home."""
        return Layer(path=str(site), target=f"{INSIDE}/{digest[:16]}", search=(("HF_HOME", ("",)),))

    def _seed(self, cache: Path, names: list[str]) -> None:
        """What older layers have of these models is linked, not fetched again."""
        cache.mkdir(parents=True, exist_ok=True)
        for folder in {"models--" + name.replace("/", "--") for name in names}:
            for layer in self.older:
                with suppress(FileNotFoundError):  # one that was taken away meanwhile
                    if (layer / "hub" / folder).is_dir():
                        _link(layer / "hub" / folder, cache / folder)

    async def _ask(self, at: Workshop, what: str, request: dict[str, Any]) -> Any:
        def hear(line: str) -> None:
            if line.startswith("downloading "):
                at.progress(line)

        words = [self.library, what, json.dumps({**request, "endpoint": self.endpoint})]
        command = Command(
            [sys.executable, "-I", str(_PROGRAM), *words],
            env=self._environment(at),
            cwd=at.folder,
            timeout=max(TIMEOUT, at.timeout),
            keeps=(at.turn,),
            hear=hear,
        )
        said = await commands.run(command, lambda _: "the library that downloads models failed")
        answer = json.loads(said.output)
        if isinstance(answer, dict):
            raise self._failure(answer, said.log, what)
        return answer

    def _environment(self, at: Workshop) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}
        # A home of its own: no token but the one that was given, no cache but ours.
        ours = {"HF_HOME": str(at.folder / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return {**kept, **ours, "HOME": str(at.folder), "HF_TOKEN": self.token}

    def _failure(self, answer: dict[str, str], log: str, what: str) -> PrepareFailed:
        said = commands.redacted(answer["message"], [self.token] if self.token else ())
        name = next((n for n in map(_readable, self.names) if n.partition("@")[0] in said), "")
        which = name or ", ".join(map(_readable, self.names))
        key = "the token in HF_TOKEN does not open it" if self.token else "HF_TOKEN is not set"
        message = {
            "gated": f"the model {which} is not open to everybody, and {key}",
            "missing": f"there is no model {which} at {self.endpoint}, or it is private and {key}",
            "revision": f"the model {which} has no such revision",
            "unreachable": f"the model hub at {self.endpoint} cannot be reached",
        }.get(answer["problem"], f"the model {which} cannot be fetched: {said[:200]}")
        kind = Stale if (what, answer["problem"]) == ("fetch", "revision") else PrepareFailed
        return kind(message, f"{log}{answer['type']}: {said}\n")


def sweep(root: Path, unused_since: float) -> tuple[str, ...]:
    """Remove downloads that were begun and not finished since then; which these were."""
    removed = []
    with suppress(FileNotFoundError):
        for folder in sorted((root / "hub").iterdir()):
            if folder.stat().st_mtime < unused_since:
                tree.delete(folder)
                removed.append(folder.name)
    return tuple(removed)


def _link(source: Path, target: Path) -> None:
    """The same tree once more: files as further names of the same files, links as links."""
    for path, found in tree.walk(str(source)):
        other = target / os.path.relpath(path, source)
        if stat.S_ISDIR(found.st_mode):
            other.mkdir(parents=True, exist_ok=True)
            continue
        other.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(other):
            os.link(path, other, follow_symlinks=False)


def _readable(name: str) -> str:
    return name.removesuffix("@main")
