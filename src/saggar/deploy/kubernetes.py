"""
The same for Kubernetes: a folder of manifests, and the kustomization that says which are used.

From a `Cluster` to a name and documents for each file. Two ways to follow the queue are written, a
HorizontalPodAutoscaler and KEDA's ScaledObject; the kustomization uses one of them, as two would
pull at the same Deployment.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from saggar.deploy.compose import as_yaml
from saggar.deploy.jobs import (
    API_PORT,
    FLOWER_PORT,
    REDIS_PORT,
    Image,
    answers,
    api_command,
    broker,
    flower_command,
    patience,
    redis_command,
    worker_command,
    write,
)
from saggar.errors import UsageError
from saggar.jobs.job import HEAVY, STANDARD
from saggar.model.value import Value

REDIS: Final = "redis-service"
WORKER: Final = "celery-worker"
HEAVY_WORKER: Final = "celery-worker-heavy"
METRIC: Final = "celery_queue_depth"
SECRET: Final = "saggar"  # noqa: S105 - the name of one
USER: Final = 1000
"""Of our images."""
REDIS_USER: Final = 999
"""Of Redis' own images."""
HEADER: Final = (
    "# Written by `saggar deploy k8s`, whose options change it; docs/deploy.md says more.\n"
)

_Count = Annotated[int, Field(ge=1, le=1000)]
_Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
_Memory = Annotated[str, Field(pattern=r"^[1-9]\d*[KMGT]i?$")]
_Cpu = Annotated[str, Field(pattern=r"^[1-9]\d*m?$")]
Document = Mapping[str, Any]


class Cluster(Value):
    """What is to run, and how much of it."""

    namespace: _Name | None = None
    replicas: _Count = 5
    heavy_replicas: _Count = 1
    concurrency: Annotated[int, Field(ge=1, le=256)] = 2
    """Jobs at once in each worker."""
    memory: tuple[_Memory, _Memory] = ("2Gi", "4Gi")
    """Of each worker: what is kept for it, and what it may have at most."""
    cpu: tuple[_Cpu, _Cpu] = ("1000m", "2000m")
    autoscaler: Literal["hpa", "keda", "none"] = "hpa"
    least: _Count = 2
    most: _Count = 20
    queue_depth: _Count = 50
    """Waiting jobs for each worker beyond which there are to be more workers."""
    prometheus: Annotated[str, Field(pattern=r"^https?://\S+$")] = "http://prometheus-server"
    """Whom KEDA asks for the depth of the queue."""
    worker_image: Image = "your-registry/saggar-worker:latest"
    api_image: Image = "your-registry/saggar-api:latest"
    redis_image: Image = "redis:7-alpine"
    redis_memory: Annotated[str, Field(pattern=r"^[1-9]\d*[kmg]b$")] = "512mb"
    storage: _Memory = "2Gi"
    """For the broker's file."""


def files(cluster: Cluster) -> dict[str, list[Document]]:
    """Every file by its name. UsageError if the numbers of workers contradict each other."""
    if not cluster.least <= cluster.most:
        raise UsageError(f"workers: at least {cluster.least} and at most {cluster.most}")
    made: dict[str, list[Document]] = {
        "redis.yaml": [_service(REDIS, "redis", REDIS_PORT), _redis(cluster)],
        "celery-worker-deployment.yaml": [
            _worker(cluster, WORKER, STANDARD, cluster.replicas),
            _worker(cluster, HEAVY_WORKER, HEAVY, cluster.heavy_replicas),
        ],
        "celery-worker-hpa.yaml": [_hpa(cluster)],
        "celery-worker-keda.yaml": [_keda(cluster)],
        "api.yaml": [_service("api", "api", API_PORT), _api(cluster)],
        "flower.yaml": [_service("flower", "flower", FLOWER_PORT), _flower(cluster)],
        "network-policy.yaml": _network_policies(),
    }
    return made | {"kustomization.yaml": [_kustomization(cluster, made)]}


def text(documents: Sequence[Document]) -> str:
    """One file as YAML."""
    return HEADER + "---\n".join(as_yaml(document) for document in documents)


def write_all(cluster: Cluster, folder: str) -> list[str]:
    """Write them; their names. PlatformError if one cannot be written."""
    made = files(cluster)
    for name, documents in made.items():
        write(f"{folder}/{name}", text(documents))
    return list(made)


def _redis(cluster: Cluster) -> Document:
    probe = {"exec": {"command": ["sh", "-c", "redis-cli ping | grep -q PONG"]}}
    container = {
        "name": "redis",
        "image": cluster.redis_image,
        "command": redis_command(cluster.redis_memory),
        "ports": [{"containerPort": REDIS_PORT}],
        "resources": {
            "requests": {"memory": "256Mi", "cpu": "100m"},
            "limits": {"memory": "1Gi", "cpu": "1000m"},
        },
        "readinessProbe": {**probe, "periodSeconds": 5, "timeoutSeconds": 5},
        # A restart reads all of the file again: only what is really gone is worth one.
        "livenessProbe": {"tcpSocket": {"port": REDIS_PORT}, "failureThreshold": 6},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "securityContext": _closed(),
    }
    claim = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": cluster.storage}},
        },
    }
    spec = {
        "serviceName": REDIS,
        "replicas": 1,
        **_pods("redis", {**_pod(REDIS_USER), "containers": [container]}),
        "volumeClaimTemplates": [claim],
    }
    return _named("apps/v1", "StatefulSet", "redis", spec)


def _worker(cluster: Cluster, name: str, queue: str, replicas: int) -> Document:
    (kept, most), (share, cores) = cluster.memory, cluster.cpu
    container = {
        "name": "worker",
        "image": cluster.worker_image,
        "args": worker_command(queue, cluster.concurrency),
        "resources": {
            "requests": {"memory": kept, "cpu": share},
            "limits": {"memory": most, "cpu": cores},
        },
        "env": _environment(),
        # A broker that is away for minutes is no reason to start workers again.
        "livenessProbe": {
            "exec": {"command": ["worker-entry", "ping"]},
            "initialDelaySeconds": 60,
            "periodSeconds": 60,
            "timeoutSeconds": 20,
            "failureThreshold": 10,
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        # A jail is built of namespaces and mounts, and has a /proc of its own. Its inside is behind
        # its own filter; the pod's user namespace makes its root nobody outside.
        "securityContext": {
            **_closed(),
            "procMount": "Unmasked",
            "seccompProfile": {"type": "Unconfined"},
            "appArmorProfile": {"type": "Unconfined"},
        },
    }
    pod = {
        **_pod(USER),
        "hostUsers": False,
        "terminationGracePeriodSeconds": patience(queue),
        "containers": [container],
        "volumes": [_tmp()],
    }
    return _named("apps/v1", "Deployment", name, {"replicas": replicas, **_pods(name, pod)})


def _api(cluster: Cluster) -> Document:
    asked = {"httpGet": {"path": "/health", "port": API_PORT}}
    container = {
        **_small("api", cluster.api_image, API_PORT),
        "args": api_command(),
        "env": [*_environment(), _secret("SAGGAR_KEY", "key")],
        "readinessProbe": asked,
        "livenessProbe": {**asked, "failureThreshold": 6},
    }
    return _single("api", container)


def _flower(cluster: Cluster) -> Document:
    container = {
        **_small("flower", cluster.worker_image, FLOWER_PORT),
        "args": flower_command(),
        "env": [*_environment(), _secret("FLOWER_BASIC_AUTH", "flower")],
        "readinessProbe": {
            "exec": {"command": answers(FLOWER_PORT, "/healthcheck")},
            "timeoutSeconds": 5,
        },
    }
    return _single("flower", container)


def _small(name: str, image: str, port: int) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "ports": [{"containerPort": port}],
        "resources": {
            "requests": {"memory": "256Mi", "cpu": "100m"},
            "limits": {"memory": "512Mi", "cpu": "1000m"},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        "securityContext": _closed(),
    }


def _single(name: str, container: Document) -> Document:
    pod = {**_pod(USER), "containers": [container], "volumes": [_tmp()]}
    return _named("apps/v1", "Deployment", name, {"replicas": 1, **_pods(name, pod)})


def _hpa(cluster: Cluster) -> Document:
    metric = {
        "metric": {"name": METRIC, "selector": {"matchLabels": {"queue": STANDARD}}},
        "target": {"type": "AverageValue", "averageValue": str(cluster.queue_depth)},
    }
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": WORKER},
        "minReplicas": cluster.least,
        "maxReplicas": cluster.most,
        "metrics": [{"type": "External", "external": metric}],
        # Whoever goes finishes what it runs; that is no reason to go at every lull.
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
    }
    return _named("autoscaling/v2", "HorizontalPodAutoscaler", f"{WORKER}-hpa", spec)


def _keda(cluster: Cluster) -> Document:
    # Not its Redis trigger: Celery's own list is kept short, the queue is more than that.
    trigger = {
        "type": "prometheus",
        "metricType": "AverageValue",
        "metadata": {
            "serverAddress": cluster.prometheus,
            "query": f'max({METRIC}{{queue="{STANDARD}"}})',
            "threshold": str(cluster.queue_depth),
        },
    }
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": WORKER},
        "minReplicaCount": cluster.least,
        "maxReplicaCount": cluster.most,
        "cooldownPeriod": 300,
        "triggers": [trigger],
    }
    return _named("keda.sh/v1alpha1", "ScaledObject", f"{WORKER}-keda", spec)


def _network_policies() -> list[Document]:
    clients = [{"podSelector": {"matchLabels": {"app": name}}} for name in _CLIENTS]
    to_redis = {
        "to": [{"podSelector": {"matchLabels": {"app": "redis"}}}],
        "ports": [{"protocol": "TCP", "port": REDIS_PORT}],
    }
    to_names = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
    workers = {"matchExpressions": [{"key": "app", "operator": "In", "values": list(_CLIENTS[:2])}]}
    return [
        _named(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            "redis",
            {
                "podSelector": {"matchLabels": {"app": "redis"}},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": clients, "ports": to_redis["ports"]}],
            },
        ),
        _named(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            WORKER,
            {
                "podSelector": workers,
                "policyTypes": ["Ingress", "Egress"],
                # Webhooks and package indexes, but no database of anybody's. Jobs reach nothing.
                "egress": [to_redis, to_names, {"ports": [{"protocol": "TCP", "port": 443}]}],
            },
        ),
    ]


_CLIENTS: Final = (WORKER, HEAVY_WORKER, "api", "flower")


def _kustomization(cluster: Cluster, made: Mapping[str, Any]) -> Document:
    left = {"hpa", "keda"} - {cluster.autoscaler}
    unused = {f"{WORKER}-{name}.yaml" for name in left}
    named = {"namespace": cluster.namespace} if cluster.namespace else {}
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        **named,
        "resources": [name for name in made if name not in unused],
    }


def _service(name: str, app: str, port: int) -> Document:
    spec = {"selector": {"app": app}, "ports": [{"port": port, "targetPort": port}]}
    return _named("v1", "Service", name, spec)


def _named(version: str, kind: str, name: str, spec: Document) -> Document:
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "saggar"}},
        "spec": spec,
    }


def _pods(name: str, pod: Document) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }


def _pod(user: int) -> dict[str, Any]:
    return {
        "automountServiceAccountToken": False,
        # Or the variables of a service named flower would be taken for Flower's own.
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def _closed() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _tmp() -> dict[str, Any]:
    return {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}}


def _environment() -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in broker(REDIS).items()]


def _secret(name: str, key: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": SECRET, "key": key}}}
