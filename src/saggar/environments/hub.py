"""
What talks to the model hub: a program of its own, so that nothing of ours needs its library.

    python hub.py LIBRARY resolve|fetch REQUEST

LIBRARY is a folder to import from, or empty; REQUEST is JSON. The answer is one JSON document on
stdout; what it does meanwhile is said on stderr, a line at a time. The token is in HF_TOKEN.
"""

import json
import os
import sys
import threading
from typing import Any

KNOWN = {
    "GatedRepoError": "gated",
    "RepositoryNotFoundError": "missing",
    "RevisionNotFoundError": "revision",
    "OfflineModeIsEnabled": "unreachable",
    "LocalEntryNotFoundError": "unreachable",
    "ConnectError": "unreachable",
    "ConnectionError": "unreachable",
    "TimeoutException": "unreachable",
    "Timeout": "unreachable",
}
"""What went wrong, by the name of the exception or of one it is a kind of."""
REFUSED = {401: "gated", 403: "gated", 404: "missing"}
PAUSE = 1.0
"""Seconds between two lines about one download."""


def main(library: str, what: str, request: str) -> None:
    """Do what was asked for, or say why it cannot be done."""
    if library:
        sys.path.insert(0, library)
    accelerate()
    try:
        answer: object = {"resolve": resolve, "fetch": fetch}[what](json.loads(request))
    except Exception as exc:  # noqa: BLE001 (the edge: it is told, and judged by who asked)
        answer = {"problem": problem(exc), "message": str(exc), "type": type(exc).__name__}
    sys.stdout.write(json.dumps(answer))


def accelerate() -> None:
    """HF_HUB_ENABLE_HF_TRANSFER, whichever way this version of the library is accelerated."""
    from importlib.metadata import version
    from importlib.util import find_spec

    if os.environ.get("HF_HUB_ENABLE_HF_TRANSFER", "").upper() not in {"1", "ON", "YES", "TRUE"}:
        return
    os.environ.setdefault("HF_XET_HIGH_PERFORMANCE", "1")
    # It is an error to ask an old version for what is not installed, and no use to ask a new one.
    if find_spec("hf_transfer") is None or not version("huggingface_hub").startswith("0."):
        del os.environ["HF_HUB_ENABLE_HF_TRANSFER"]


def resolve(request: dict[str, Any]) -> object:
    """Which commit each of the models is at, and how large it is."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=request["endpoint"], token=os.environ.get("HF_TOKEN") or False)
    found = []
    for name, revision in request["models"]:
        request["at"] = name
        about = api.model_info(name, revision=revision, files_metadata=True)
        size = sum(file.size or 0 for file in about.siblings or ())
        found.append([name, revision, about.sha, size])
    return found


def fetch(request: dict[str, Any]) -> object:
    """Bring each of the models into a cache; what is in it already is not fetched again."""
    from huggingface_hub import snapshot_download

    for name, revision, commit, size in request["models"]:
        folder = os.path.join(request["cache"], "models--" + name.replace("/", "--"))
        with Watched(name, folder, size):
            snapshot_download(
                name,
                revision=commit,
                cache_dir=request["cache"],
                endpoint=request["endpoint"],
                token=os.environ.get("HF_TOKEN") or False,
            )
        # The name that the program will look it up by.
        reference = os.path.join(folder, "refs", revision)
        os.makedirs(os.path.dirname(reference), exist_ok=True)
        with open(reference, "w", encoding="ascii") as file:
            file.write(commit)
    return "done"


def problem(exc: BaseException) -> str:
    """Which kind of failure it is; empty for none that we know."""
    causes = chain(exc)
    for cause in causes:
        for kind in type(cause).__mro__:
            if kind.__name__ in KNOWN:
                return KNOWN[kind.__name__]
    statuses = [getattr(getattr(one, "response", None), "status_code", None) for one in causes]
    return next((REFUSED[status] for status in statuses if status in REFUSED), "")


def chain(exc: BaseException | None) -> list[BaseException]:
    """An exception and what it came from."""
    found: list[BaseException] = []
    while exc is not None and exc not in found:
        found.append(exc)
        exc = exc.__cause__ or exc.__context__
    # The innermost knows best: a refusal is wrapped into "not found on disk either".
    return found[::-1]


class Watched:
    """Says how much of a download there is, for as long as it lasts."""

    def __init__(self, name: str, folder: str, size: int) -> None:
        self.name = name
        self.folder = folder
        self.size = size
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self) -> None:
        self.say()
        self.thread.start()

    def __exit__(self, *exc: object) -> None:
        self.over.set()
        self.thread.join()

    def watch(self) -> None:
        """Look again and again; the end of the download ends it."""
        while not self.over.wait(PAUSE):
            self.say()

    def say(self) -> None:
        """One line."""
        blobs = os.path.join(self.folder, "blobs")
        here = 0
        for name in os.listdir(blobs) if os.path.isdir(blobs) else ():
            try:
                here += os.stat(os.path.join(blobs, name)).st_size
            except FileNotFoundError:  # renamed meanwhile
                continue
        part = min(100, round(100 * here / self.size)) if self.size else 100
        sys.stderr.write(f"downloading {self.name}: {part} % of {self.size / 1e6:.1f} MB\n")
        sys.stderr.flush()


if __name__ == "__main__":
    main(*sys.argv[1:4])
