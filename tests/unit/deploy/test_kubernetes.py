"""The manifests: valid, closed, as the document has them, and those at the root."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from saggar.cli import main
from saggar.deploy import kubernetes
from saggar.deploy.kubernetes import Cluster
from saggar.errors import InvalidTask
from saggar.model.schema import Schema

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
DEFINITIONS = json.loads((HERE / "kubernetes-1.33.json").read_text())["$defs"]
KEDA = Schema.of(HERE / "keda-scaledobject.json")


def problem(document):
    """What is wrong about a document, by the schema of its kind. None: nothing."""
    kind = document["kind"]
    if kind == "ScaledObject":
        return KEDA.problem(document)
    if kind == "Kustomization":
        return None
    return Schema.of({"$ref": f"#/$defs/{kind}", "$defs": DEFINITIONS}).problem(document)


def made(**fields):
    """Every document by kind and name, read again."""
    found = {}
    for documents in kubernetes.files(Cluster(**fields)).values():
        for one in yaml.safe_load_all(kubernetes.text(documents)):
            found[one["kind"], one.get("metadata", {}).get("name")] = one
    return found


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"autoscaler": "keda", "namespace": "jobs", "prometheus": "http://prometheus.x:9090"},
        {"memory": ("512Mi", "1Gi"), "cpu": ("1", "2"), "replicas": 1, "concurrency": 16},
    ],
)
def test_every_document_is_valid(fields):
    found = made(**fields)

    assert {} == {name: said for name, one in found.items() if (said := problem(one))}
    assert 13 == len(found)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (("Deployment", "celery-worker"), {"replica": 5}),
        (("Deployment", "celery-worker"), {"selector": {"app": "celery-worker"}}),
        (("StatefulSet", "redis"), {"replicas": "one"}),
        (("HorizontalPodAutoscaler", "celery-worker-hpa"), {"maxReplicas": "many"}),
        (("ScaledObject", "celery-worker-keda"), {"maxReplicas": 20}),
        (("Service", "redis-service"), {"port": 6379}),
        (("NetworkPolicy", "redis"), {"podSelectors": {}}),
    ],
)
def test_the_schemas_would_notice(name, change):
    document = made()[name]
    document["spec"] |= change

    assert problem(document) is not None


def test_the_folder_at_the_root_is_what_is_written_by_default():
    written = {name: kubernetes.text(one) for name, one in kubernetes.files(Cluster()).items()}

    assert written == {path.name: path.read_text() for path in (ROOT / "kubernetes").iterdir()}


def test_the_workers_are_as_documented():
    worker = made()["Deployment", "celery-worker"]["spec"]
    pod = worker["template"]
    container = pod["spec"]["containers"][0]

    assert 5 == worker["replicas"]
    assert worker["selector"]["matchLabels"] == pod["metadata"]["labels"]
    assert {
        "requests": {"memory": "2Gi", "cpu": "1000m"},
        "limits": {"memory": "4Gi", "cpu": "2000m"},
    } == container["resources"]
    assert {
        "name": "CELERY_BROKER_URL",
        "value": "redis://redis-service:6379/0",
    } in container["env"]
    assert ["celery", "-A", "saggar.worker", "worker"] == container["args"][:4]


def test_the_autoscaler_is_as_documented():
    spec = made()["HorizontalPodAutoscaler", "celery-worker-hpa"]["spec"]
    external = spec["metrics"][0]["external"]

    assert (2, 20) == (spec["minReplicas"], spec["maxReplicas"])
    assert "celery_queue_depth" == external["metric"]["name"]
    assert {"type": "AverageValue", "averageValue": "50"} == external["target"]
    assert ("Deployment", "celery-worker") == (
        spec["scaleTargetRef"]["kind"],
        spec["scaleTargetRef"]["name"],
    )


def test_keda_follows_the_same_queue_within_the_same_bounds():
    spec = made()["ScaledObject", "celery-worker-keda"]["spec"]

    assert (2, 20) == (spec["minReplicaCount"], spec["maxReplicaCount"])
    assert 'celery_queue_depth{queue="code_execution"}' in spec["triggers"][0]["metadata"]["query"]
    assert "50" == spec["triggers"][0]["metadata"]["threshold"]


@pytest.mark.parametrize(
    ("autoscaler", "used"),
    [
        ("hpa", ["celery-worker-hpa.yaml"]),
        ("keda", ["celery-worker-keda.yaml"]),
        ("none", []),
    ],
)
def test_one_autoscaler_is_used(autoscaler, used):
    resources = made(autoscaler=autoscaler)["Kustomization", None]["resources"]

    assert used == [name for name in resources if "hpa" in name or "keda" in name]


def test_every_pod_is_closed():
    for (kind, name), one in made().items():
        if kind not in ("Deployment", "StatefulSet"):
            continue
        pod = one["spec"]["template"]["spec"]
        inside = pod["containers"][0]["securityContext"]

        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert inside["readOnlyRootFilesystem"] is True, name
        assert inside["allowPrivilegeEscalation"] is False, name
        assert ["ALL"] == inside["capabilities"]["drop"], name
        assert pod["containers"][0]["resources"]["limits"]["memory"], name


def test_only_workers_may_build_namespaces_and_they_do_it_in_one_of_the_pods_own():
    for (kind, name), one in made().items():
        if kind != "Deployment":
            continue
        pod = one["spec"]["template"]["spec"]
        unmasked = pod["containers"][0]["securityContext"].get("procMount") == "Unmasked"

        assert name.startswith("celery-worker") == unmasked
        # The API server takes the one without the other for a mistake.
        assert unmasked == (pod.get("hostUsers") is False)


def test_the_broker_is_open_to_its_clients_only():
    policy = made()["NetworkPolicy", "redis"]["spec"]
    allowed = {one["podSelector"]["matchLabels"]["app"] for one in policy["ingress"][0]["from"]}

    assert {"celery-worker", "celery-worker-heavy", "api", "flower"} == allowed
    assert "egress" not in policy


def test_passwords_come_from_a_secret():
    text = "".join(kubernetes.text(one) for one in kubernetes.files(Cluster()).values())

    assert 2 == text.count("secretKeyRef")
    assert "password" not in text.lower()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"replicas": 0}, "replicas"),
        ({"memory": ("2Gi", "lots")}, "memory"),
        ({"namespace": "Not-A-Name"}, "namespace"),
        ({"prometheus": "prometheus:9090"}, "prometheus"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(fields, named):
    with pytest.raises(InvalidTask, match=named):
        Cluster(**fields)


def test_the_command_writes_the_users_values(tmp_path, capsys):
    words = ["--replicas", "8", "--most", "40", "--memory", "4Gi", "8Gi", "--autoscaler", "keda"]
    images = ["--worker-image", "registry.example.org/worker:1"]
    code = main(["deploy", "k8s", *words, *images, "-o", str(tmp_path)])
    worker = next(yaml.safe_load_all((tmp_path / "celery-worker-deployment.yaml").read_text()))

    assert 0 == code
    assert 8 == worker["spec"]["replicas"]
    container = worker["spec"]["template"]["spec"]["containers"][0]
    assert "registry.example.org/worker:1" == container["image"]
    assert "8Gi" == container["resources"]["limits"]["memory"]
    assert "kubectl apply -k" in capsys.readouterr().out


def test_kubectl_puts_them_together(tmp_path):
    """Where it is installed: it needs no cluster for that."""
    if shutil.which("kubectl") is None:
        pytest.skip("not on PATH: kubectl")
    kubernetes.write_all(Cluster(namespace="jobs"), str(tmp_path))
    found = subprocess.run(
        ["kubectl", "kustomize", tmp_path], capture_output=True, text=True, timeout=50, check=True
    )

    documents = list(yaml.safe_load_all(found.stdout))
    assert 11 == len(documents)
    assert {"jobs"} == {one["metadata"]["namespace"] for one in documents}
