"""
A compose file for jobs: the broker, workers for both queues, Flower, the API.

From a `Stack` to one document, closed as the executors' one is, see `compose`. One thing is open on
purpose, and said in the file: a worker builds a jail for each job, and the profiles that engines
have for containers refuse what a jail is built with.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from saggar.deploy.compose import CLOSED, as_yaml
from saggar.errors import PlatformError
from saggar.jobs.job import HEAVY, STANDARD, job_limits
from saggar.model.value import Value

API_PORT: Final = 8000
FLOWER_PORT: Final = 5555
REDIS_PORT: Final = 6379
JOBS_AT: Final = 0
RESULTS_AT: Final = 1
"""The databases, as they are documented."""
WALLS: Final = ("seccomp=unconfined", "systempaths=unconfined", "apparmor=unconfined")
"""
What a container has to be let do so that a jail can be built in it: make namespaces, mount in them,
mount a /proc of their own. Jobs themselves are behind the jail's own filter.
"""
LEAVING: Final = 10
"""Seconds beyond its longest job for which a worker may finish what it runs."""
TEMPORARY: Final = "/tmp:size=256m,mode=1777"
HEADER: Final = """\
# Jobs: the broker, workers for both queues, Flower, the API. Written by `saggar deploy compose`,
# whose options change it; docs/deploy.md says what each part is for. Variables: SAGGAR_KEY is what
# callers of the API show; Flower does not start without FLOWER_BASIC_AUTH=user:password.
"""

_Port = Annotated[int, Field(ge=1, le=65535)]
_REFERENCE: Final = re.compile(
    r"(?:[A-Za-z0-9.-]+(?::\d+)?/)?[a-z0-9._-]+(?:/[a-z0-9._-]+)*"
    r"(?::\w[\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)


def _image(name: str) -> str:
    if not _REFERENCE.fullmatch(name):
        raise ValueError(
            f"wanted an image such as registry.example.org/worker:1, found {name!r:.80}"
        )
    return name


Image = Annotated[str, AfterValidator(_image)]
_Size = Annotated[str, Field(pattern=r"^[1-9]\d*[kmgKMG][bB]?$")]


class Stack(Value):
    """What is to run, and how much of it."""

    workers: Annotated[int, Field(ge=1, le=1000)] = 3
    heavy_workers: Annotated[int, Field(ge=0, le=1000)] = 1
    concurrency: Annotated[int, Field(ge=1, le=256)] = 2
    """Jobs at once in each worker."""
    memory: _Size = "3G"
    """Of each worker, with what runs in its jails."""
    cpus: Annotated[float, Field(gt=0, le=1024)] = 2.0
    redis_memory: _Size = "512mb"
    """After which the broker takes nothing in any more; it drops nothing."""
    context: str = "."
    """The checkout that the images are built from. Empty: they are there, or in a registry."""
    packages: tuple[str, ...] = ()
    """Built into the workers' image, beside Saggar: what CodeTools finds."""
    worker_image: Image = "saggar/worker"
    api_image: Image = "saggar/api"
    redis_image: Image = "redis:7-alpine"
    api_port: _Port = API_PORT
    flower_port: _Port = FLOWER_PORT
    redis_port: _Port = REDIS_PORT


def document(stack: Stack) -> dict[str, Any]:
    """The compose file."""
    services = {"redis": _redis(stack), "celery_worker": _worker(stack, STANDARD, stack.workers)}
    if stack.heavy_workers:
        services["celery_worker_heavy"] = _worker(stack, HEAVY, stack.heavy_workers)
    services |= {"flower": _flower(stack), "api": _api(stack)}
    return {"services": services, "volumes": {"redis_data": {}}}


def text(stack: Stack) -> str:
    """The same as YAML."""
    return HEADER + as_yaml(document(stack))


def write(path: str, content: str) -> None:
    """Write a file, and the folder it is in. PlatformError if that cannot be done."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(content, encoding="utf-8")
    except OSError as exc:
        raise PlatformError(f"cannot write {path}: {(exc.strerror or '').lower()}") from exc


def worker_command(queue: str, concurrency: int) -> list[str]:
    """How a worker is started, as documented."""
    words = ["celery", "-A", "saggar.worker", "worker", "--loglevel=info"]
    return [*words, f"--queue={queue}", f"--concurrency={concurrency}"]


def flower_command() -> list[str]:
    """How Flower is started, as documented."""
    return ["celery", "-A", "saggar.worker", "flower", f"--port={FLOWER_PORT}"]


def api_command() -> list[str]:
    """The API without runs: it has no walls, and no libraries for the code."""
    host = "0.0.0.0"  # noqa: S104 - of its container
    return ["serve", "--jobs-only", "--host", host, "--port", str(API_PORT)]


def redis_command(memory: str) -> list[str]:
    """A broker that keeps what it was given, over a restart and when it is full."""
    return [
        *("redis-server", "--appendonly", "yes", "--appendfsync", "everysec"),
        # Anything else drops jobs that wait as if they had never been.
        *("--maxmemory", memory, "--maxmemory-policy", "noeviction"),
    ]


def broker(host: str) -> dict[str, str]:
    """The documented variables."""
    return {
        "CELERY_BROKER_URL": f"redis://{host}:{REDIS_PORT}/{JOBS_AT}",
        "CELERY_RESULT_BACKEND": f"redis://{host}:{REDIS_PORT}/{RESULTS_AT}",
    }


def patience(queue: str) -> int:
    """Seconds in which a worker of this queue has surely finished what it runs."""
    limits = job_limits(queue)
    return round(limits.wall + limits.grace) + LEAVING


def answers(port: int, path: str) -> list[str]:
    """A program that fails unless this container answers at a path over HTTP."""
    asked = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{port}{path}', timeout=2)"
    return ["python3", "-c", asked]


def _redis(stack: Stack) -> dict[str, Any]:
    return {
        "image": stack.redis_image,
        **CLOSED,
        # Its own user of the image: as root it would want capabilities to become that.
        "user": "redis",
        "command": redis_command(stack.redis_memory),
        "tmpfs": [TEMPORARY],
        "pids_limit": 64,
        # The rewrite of its file takes a copy of what changes meanwhile.
        "mem_limit": _doubled(stack.redis_memory),
        "ports": [f"127.0.0.1:{stack.redis_port}:{REDIS_PORT}"],
        "volumes": ["redis_data:/data"],
        # Alone its exit code says yes while data is still being loaded.
        "healthcheck": _health(["CMD-SHELL", "redis-cli ping | grep -q PONG"], 5),
    }


def _worker(stack: Stack, queue: str, replicas: int) -> dict[str, Any]:
    return {
        **_built(stack, stack.worker_image, "worker.Dockerfile"),
        **CLOSED,
        "security_opt": [*CLOSED["security_opt"], *WALLS],
        "command": worker_command(queue, stack.concurrency),
        "tmpfs": [TEMPORARY],
        "pids_limit": 512,
        "mem_limit": stack.memory,
        "cpus": stack.cpus,
        "environment": broker("redis"),
        "depends_on": _after("redis"),
        "healthcheck": {**_health(["CMD", "worker-entry", "ping"], 30), "start_period": "40s"},
        "stop_grace_period": f"{patience(queue)}s",
        "deploy": {"replicas": replicas},
    }


def _flower(stack: Stack) -> dict[str, Any]:
    return {
        **_built(stack, stack.worker_image, "worker.Dockerfile"),
        **CLOSED,
        "command": flower_command(),
        "tmpfs": [TEMPORARY],
        "pids_limit": 64,
        "mem_limit": "512M",
        "environment": {**broker("redis"), "FLOWER_BASIC_AUTH": None},
        "ports": [f"127.0.0.1:{stack.flower_port}:{FLOWER_PORT}"],
        "depends_on": _after("redis"),
        "healthcheck": _health(["CMD", *answers(FLOWER_PORT, "/healthcheck")], 30),
    }


def _api(stack: Stack) -> dict[str, Any]:
    return {
        **_built(stack, stack.api_image, "api.Dockerfile"),
        **CLOSED,
        "command": api_command(),
        "tmpfs": [TEMPORARY],
        "pids_limit": 128,
        "mem_limit": "512M",
        "environment": {
            **broker("redis"),
            # Published on the loopback only, which is what this says somebody has seen to.
            "SAGGAR_INSECURE_BIND": "1",
            # As whoever starts it has it, if at all: a key does not belong into a file.
            "SAGGAR_KEY": None,
        },
        "ports": [f"127.0.0.1:{stack.api_port}:{API_PORT}"],
        "depends_on": _after("redis"),
        "healthcheck": _health(["CMD", *answers(API_PORT, "/health")], 10),
    }


def _built(stack: Stack, image: str, dockerfile: str) -> dict[str, Any]:
    if not stack.context:
        # A bare name is an image that was built here: a registry may have another of that name.
        ours = image.startswith("saggar/") or "/" not in image
        return {"image": image, **({"pull_policy": "never"} if ours else {})}
    build: dict[str, Any] = {"context": stack.context, "dockerfile": dockerfile}
    if stack.packages and dockerfile == "worker.Dockerfile":
        build["args"] = {"PACKAGES": " ".join(stack.packages)}
    return {"image": image, "build": build, "pull_policy": "build"}


def _after(service: str) -> dict[str, Any]:
    return {service: {"condition": "service_healthy"}}


def _health(test: Sequence[str], every: int) -> Mapping[str, Any]:
    return {"test": list(test), "interval": f"{every}s", "timeout": "20s", "retries": 5}


def _doubled(size: str) -> str:
    number = size.rstrip("kmgbKMGB")
    return f"{2 * int(number)}{size[len(number)]}"
