"""
The engine: the one door to Docker's or Podman's API, over a unix socket of this machine.

Everything here blocks, and is called in worker threads. What the client library raises ends here:
whoever calls sees our errors only.
"""

import hashlib
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from saggar.errors import DriverUnavailable, PrepareFailed, SandboxBroken

PATIENCE = 30
"""Seconds the engine may take for one answer; a loaded one takes several for a start."""
LABEL = "saggar.owner"
"""On every container of ours: which process it belongs to."""
SEEN = "SaggarSeesProcesses"
"""Among what is known of the engine: whether its processes have numbers here."""
LATE = 600.0
"""Seconds after which what an engine did not confirm to have made will not come any more."""
GONE = (404, 409)
"""There is no such container, or its removal is under way."""
NO_GPU = "could not select device driver"
"""What the engine says when it starts a container with GPUs and knows nobody who brings them."""
HOW_TO_START = "apt install docker.io; or name one with DOCKER_HOST=unix:///path/to/docker.sock"


@dataclass(frozen=True, slots=True)
class Image:
    """What is known of an image before anything runs in it."""

    reference: str
    id: str
    environment: Mapping[str, str]
    argv: tuple[str, ...]
    """What it starts by itself; empty if nothing."""
    cwd: str


def name_for(owner: str) -> str:
    """How the names of an owner's containers begin."""
    return f"saggar-{hashlib.sha256(owner.encode()).hexdigest()[:16]}-"


def address() -> str:
    """
    Where the engine listens: as DOCKER_HOST says, else where Docker or Podman usually do.

    Raises:
        DriverUnavailable: Nowhere here.
    """
    if named := os.environ.get("DOCKER_HOST", ""):
        if not named.startswith("unix://"):
            raise DriverUnavailable(
                f"docker needs an engine on this machine, at a unix socket; DOCKER_HOST is {named}"
            )
        return named
    for path in _usual_places():
        if os.path.exists(path):
            return f"unix://{path}"
    raise DriverUnavailable(
        f"no container engine: nothing at {', '.join(_usual_places())}; {HOW_TO_START}"
    )


def _usual_places() -> tuple[str, ...]:
    own = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.geteuid()}")
    return (
        "/var/run/docker.sock",
        f"{own}/docker.sock",
        f"{own}/podman/podman.sock",
        "/run/podman/podman.sock",
    )


class Engine:
    """An engine that answers when it is asked; nothing is sent before that."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._connecting = threading.Lock()
        self._listener = 0
        """The number of the engine's process here; 0 if it has none."""
        self._unconfirmed: dict[str, float] = {}
        """Containers that were asked for and never answered for, by name: since when."""

    @cached_property
    def _client(self) -> Any:
        # By ourselves first: the client leaves the socket open over which nobody answered.
        with socket.socket(socket.AF_UNIX) as trial:
            try:
                # Not settimeout: then one that has just much to do would be given no time at all.
                patience = struct.pack("ll", PATIENCE, 0)
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
                trial.connect(self.address.removeprefix("unix://"))
                who = trial.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
                self._listener = struct.unpack("3i", who)[0]
            except OSError as exc:
                raise DriverUnavailable(
                    f"no container engine answers at {self.address}: {exc.strerror or exc}"
                ) from exc
        try:
            from docker import APIClient
        except ImportError as exc:
            raise DriverUnavailable(
                "docker needs the engine's client; pip install 'saggar[docker]'"
            ) from exc
        return APIClient(base_url=self.address, version="auto", timeout=PATIENCE, max_pool_size=32)

    @contextmanager
    def _asking(self) -> Iterator[Any]:
        """The client; what goes wrong with it is told as our error."""
        # The first one makes it, and imports for a quarter of a second.
        with _told(self.address), self._connecting:
            client = self._client
        with _told(self.address):
            yield client

    def about(self) -> dict[str, Any]:
        """What the engine says of itself: version, cgroups, runtimes, what it can limit."""
        with self._asking() as client:
            return {**client.version(), **client.info(), SEEN: self._listener > 0}

    def image(self, reference: str) -> Image:
        """
        What is known of an image that is here; nothing is ever pulled.

        Raises:
            PrepareFailed: It is not here; says how to get it.
        """
        with self._asking() as client:
            from docker.errors import ImageNotFound

            try:
                found = client.inspect_image(reference)
            except ImageNotFound:
                raise PrepareFailed(_how_to_get(reference)) from None
        said = found.get("Config") or {}
        variables = dict(one.partition("=")[::2] for one in said.get("Env") or ())
        argv = (*(said.get("Entrypoint") or ()), *(said.get("Cmd") or ()))
        return Image(reference, found["Id"], variables, argv, said.get("WorkingDir") or "/")

    def build(self, reference: str, folder: str) -> None:
        """
        Build an image from a folder with a Dockerfile; takes as long as that takes.

        Raises:
            PrepareFailed: It cannot be built; what was said while it was tried is its log.
        """
        log: list[str] = []
        try:
            with self._asking() as client:
                for said in client.build(path=folder, tag=reference, rm=True, decode=True):
                    log.append(str(said.get("stream") or said.get("error") or ""))
                    if "error" in said:
                        raise PrepareFailed(
                            f"image {reference!r} cannot be built from {folder!r}: {said['error']}",
                            log="".join(log),
                        )
        except TypeError as exc:  # what the client says of a folder that is none
            raise PrepareFailed(f"image {reference!r} cannot be built: {exc}") from None

    def create(self, spec: Mapping[str, Any]) -> str:
        """Make a container that does not run yet; its id. DriverUnavailable if it cannot be had."""
        with self._asking() as client:
            from docker.errors import APIError

            self._remove_unconfirmed(client)
            name = name_for(spec.get("Labels", {}).get(LABEL, "")) + secrets.token_hex(8)
            try:
                self._unconfirmed[name] = time.monotonic()
                container = str(client.create_container_from_config(spec, name)["Id"])
                del self._unconfirmed[name]
                return container
            except APIError as exc:
                del self._unconfirmed[name]
                if exc.is_client_error():  # a limit it does not take, a runtime it does not have
                    raise DriverUnavailable(
                        f"docker cannot make this container: {_said(exc)}"
                    ) from exc
                raise

    def _remove_unconfirmed(self, client: Any) -> None:
        """What was made after we had given up: nobody else knows that it is there."""
        from docker.errors import APIError

        now = time.monotonic()
        for name, since in list(self._unconfirmed.items()):
            if now - since < PATIENCE:
                continue  # somebody may be waiting for it in another thread
            try:
                client.remove_container(name, force=True, v=True)
            except APIError as exc:
                if exc.response is None or exc.response.status_code not in GONE:
                    raise
                if now - since < LATE:
                    continue
            self._unconfirmed.pop(name, None)

    def start(self, container: str) -> None:
        """Let it run."""
        with self._asking() as client:
            client.start(container)

    def runs(self, container: str) -> bool:
        """Whether it was started and has not ended."""
        with self._asking() as client:
            from docker.errors import NotFound

            try:
                return bool(client.inspect_container(container)["State"]["Running"])
            except NotFound:
                return False

    def holds(self, container: str, path: str) -> bool:
        """Whether there is something at `path` in a container, running or not."""
        with self._asking() as client:
            url = f"{client.base_url}/v{client.api_version}/containers/{container}/archive"
            return bool(client.head(url, params={"path": path}).ok)

    def remove(self, container: str) -> None:
        """Kill it if it runs, and remove it; gone is gone."""
        with self._asking() as client:
            from docker.errors import APIError

            try:
                client.remove_container(container, force=True, v=True)
            except APIError as exc:
                if exc.response is None or exc.response.status_code not in GONE:
                    raise

    def labelled(self, label: str) -> dict[str, str]:
        """
        Every container of ours with a label, running or not: its id, and what the label says.

        Of ours: an image hands its labels on to containers that have nothing to do with us, so
        each must also be called as we call those of that owner.
        """
        with self._asking() as client:
            self._remove_unconfirmed(client)
            found = client.containers(all=True, filters={"label": [label]})
        said = ((one["Id"], one["Labels"][label], one.get("Names") or ()) for one in found)
        return {
            container: owner
            for container, owner, names in said
            if any(name.lstrip("/").startswith(name_for(owner)) for name in names)
        }

    def close(self) -> None:
        """Close its connections; asked again it makes new ones."""
        if "_client" in self.__dict__:
            self._client.close()
            del self.__dict__["_client"]


@contextmanager
def _told(address: str) -> Iterator[None]:
    try:
        yield
    except (DriverUnavailable, PrepareFailed):
        raise
    except Exception as exc:
        raise _translated(exc, address) from exc


def _translated(exc: Exception, address: str) -> Exception:
    from docker.errors import APIError, DockerException
    from requests.exceptions import RequestException

    if isinstance(exc, APIError):
        if NO_GPU in _said(exc):
            return DriverUnavailable(
                f"the container engine gives no GPUs: {_said(exc)}; install"
                " nvidia-container-toolkit, and restart the engine"
            )
        return SandboxBroken(f"the container engine refused: {_said(exc)}")
    if isinstance(exc, DockerException | RequestException):
        return DriverUnavailable(f"no container engine answers at {address}: {exc}"[:500])
    return exc


def _said(exc: Any) -> str:
    return str(exc.explanation or exc).strip()[:500]


def _how_to_get(reference: str) -> str:
    if reference.startswith("saggar/"):
        name = reference.removeprefix("saggar/").partition(":")[0]
        target = f"build-{name}" if name.startswith("runner-") else "build-runners"
        return f"image {reference!r} is not here; build it with `make {target}`"
    return f"image {reference!r} is not here; build it, or get it with `docker pull {reference}`"
