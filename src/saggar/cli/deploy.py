"""`saggar deploy compose|k8s`: the files that jobs are run with elsewhere."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from saggar.cli.arguments import Parser
from saggar.cli.main import say
from saggar.errors import UsageError

SUMMARY = "Write what jobs are deployed with: the broker, workers, Flower, the API."
WAYS: Final = ("compose", "k8s")
EXAMPLES = """\
examples:
  saggar deploy compose
  saggar deploy compose --workers 6 --memory 6G --package torch --package transformers
  saggar deploy k8s --worker-image registry.example.org/worker:1 --replicas 8 --most 40
  saggar deploy k8s --autoscaler keda --prometheus http://prometheus.monitoring:9090 -o kubernetes

Each has a --help of its own.
"""
SHARED: Final = {
    "concurrency": (int, "N", "jobs at once in each worker"),
    "worker_image": (str, "IMAGE", "the workers' and Flower's image"),
    "api_image": (str, "IMAGE", "the image of the API"),
    "redis_image": (str, "IMAGE", "the broker's image"),
    "redis_memory": (str, "SIZE", "after which the broker takes nothing in any more"),
}
COMPOSE: Final = {
    "workers": (int, "N", "standard workers"),
    "heavy_workers": (int, "N", "workers for the heavy queue"),
    "memory": (str, "SIZE", "of each worker"),
    "cpus": (float, "N", "of each worker"),
    "context": (str, "DIR", 'the checkout that the images are built from; "" builds none'),
    "api_port": (int, "PORT", "where the API is, on 127.0.0.1"),
    "flower_port": (int, "PORT", "where Flower is, on 127.0.0.1"),
    "redis_port": (int, "PORT", "where the broker is, on 127.0.0.1"),
}
K8S: Final = {
    "namespace": (str, "NAME", "written into the kustomization"),
    "replicas": (int, "N", "standard workers, to begin with"),
    "heavy_replicas": (int, "N", "workers for the heavy queue"),
    "least": (int, "N", "standard workers at least"),
    "most": (int, "N", "standard workers at most"),
    "queue_depth": (int, "N", "waiting jobs for each worker beyond which there are to be more"),
    "prometheus": (str, "URL", "whom KEDA asks for the depth of the queue"),
    "storage": (str, "SIZE", "for the broker's file"),
}
Options = Mapping[str, tuple[type, str, str]]


def main(words: Sequence[str]) -> int:
    """Write the files of one way, and say what to do with them."""
    match list(words):
        case ["compose", *rest]:
            return compose(rest)
        case ["k8s" | "kubernetes", *rest]:
            return k8s(rest)
        case []:
            raise UsageError(f"deploy: wanted one of {', '.join(WAYS)}; see saggar deploy --help")
    parser = Parser("deploy", SUMMARY, EXAMPLES)
    parser.add_argument("way", choices=WAYS, help="for Docker Compose, or for Kubernetes")
    parser.read(words)
    raise AssertionError  # whatever else there is has been refused


def compose(words: Sequence[str]) -> int:
    """A compose file."""
    from saggar.deploy import jobs

    parser = _parser("compose", jobs.Stack(), {**COMPOSE, **SHARED})
    parser.add_argument(
        "--package",
        action="append",
        metavar="NAME",
        help="built into the workers' image, for what CodeTools runs; can be repeated",
    )
    parser.add_argument("-o", "--output", default="docker-compose.yml", metavar="FILE")
    options = vars(parser.read(words))
    output, packages = options.pop("output"), options.pop("package") or ()
    stack = jobs.Stack(packages=tuple(packages), **options)
    _check_context(stack.context, os.path.dirname(os.path.abspath(output)))
    jobs.write(output, jobs.text(stack))
    say(f"""\
{output}: redis, {stack.workers} + {stack.heavy_workers} workers, flower, api; on 127.0.0.1 only

  docker compose -f {output} up -d redis
  FLOWER_BASIC_AUTH=user:password SAGGAR_KEY=... docker compose -f {output} up -d --build
  http://localhost:{stack.api_port}/health    http://localhost:{stack.flower_port}
""")
    return 0


def k8s(words: Sequence[str]) -> int:
    """A folder of manifests."""
    from saggar.deploy import kubernetes

    usual = kubernetes.Cluster()
    parser = _parser("k8s", usual, {**K8S, **SHARED})
    parser.add_argument("--autoscaler", choices=("hpa", "keda", "none"), default=usual.autoscaler)
    for name in ("memory", "cpu"):
        kept, most = getattr(usual, name)
        parser.add_argument(
            f"--{name}",
            nargs=2,
            default=(kept, most),
            metavar=("REQUEST", "LIMIT"),
            help=f"of each worker ({kept} {most})",
        )
    parser.add_argument("-o", "--output", default="kubernetes", metavar="DIR")
    options = vars(parser.read(words))
    output = options.pop("output")
    wished = {
        name: tuple(said) if isinstance(said, list) else said for name, said in options.items()
    }
    written = kubernetes.write_all(kubernetes.Cluster(**wished), output)
    say(f"""\
{output}: {", ".join(written)}

  kubectl create secret generic {kubernetes.SECRET} \\
    --from-literal=key="$SAGGAR_KEY" --from-literal=flower="$FLOWER_BASIC_AUTH"
  kubectl apply -k {output}
""")
    return 0


def _check_context(context: str, folder: str) -> None:
    """It is a checkout, as compose will look for it: from where its file is."""
    place = os.path.join(folder, context)
    if context and not os.path.isfile(os.path.join(place, "worker.Dockerfile")):
        raise UsageError(
            f"--context: no worker.Dockerfile in {place}; name a checkout of Saggar, or"
            ' --context "" and images that are built already'
        )


def _parser(way: str, usual: Any, options: Options) -> Parser:
    parser = Parser(f"deploy {way}", SUMMARY)
    for name, (kind, metavar, said) in options.items():
        default = getattr(usual, name)
        shown = "" if default is None else f" ({default})"
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(
            option, type=kind, default=default, metavar=metavar, help=f"{said}{shown}"
        )
    return parser
