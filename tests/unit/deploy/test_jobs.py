"""The compose file for jobs: valid, closed, what the document asks for, and the one at the root."""

import subprocess
from pathlib import Path

import pytest
import yaml

from saggar.cli import main
from saggar.deploy import jobs
from saggar.deploy.jobs import Stack
from saggar.errors import InvalidTask
from saggar.model.schema import Schema

ROOT = Path(__file__).parents[3]
SPECIFICATION = Schema.of(Path(__file__).parent / "compose-spec.json")


def made(**fields):
    """The file, read again."""
    return yaml.safe_load(jobs.text(Stack(**fields)))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"heavy_workers": 0, "workers": 12, "concurrency": 8, "memory": "12g", "cpus": 0.5},
        {"context": "", "worker_image": "registry.example.org/team/worker:1"},
        {"packages": ("torch", "transformers==4.50"), "api_port": 80},
    ],
)
def test_it_validates_against_the_specification(fields):
    assert None is SPECIFICATION.problem(made(**fields))


def test_the_specification_would_notice():
    wrong = made()
    wrong["services"]["celery_worker"]["deploy"]["replicas"] = ["three"]

    assert "/services/celery_worker/deploy/replicas" in str(SPECIFICATION.problem(wrong))


def test_the_file_at_the_root_is_what_is_written_by_default():
    assert jobs.text(Stack()) == (ROOT / "docker-compose.yml").read_text()


def test_the_services_are_the_documented_ones():
    services = made()["services"]
    worker = services["celery_worker"]

    assert ["redis", "celery_worker", "celery_worker_heavy", "flower", "api"] == list(services)
    assert {"replicas": 3} == worker["deploy"]
    assert {
        "CELERY_BROKER_URL": "redis://redis:6379/0",
        "CELERY_RESULT_BACKEND": "redis://redis:6379/1",
    } == worker["environment"]
    assert "celery -A saggar.worker worker --loglevel=info --queue=code_execution" in " ".join(
        worker["command"]
    )
    assert "--queue=code_execution_heavy" in services["celery_worker_heavy"]["command"]
    assert "celery -A saggar.worker flower --port=5555" == " ".join(services["flower"]["command"])
    assert ["127.0.0.1:8000:8000"] == services["api"]["ports"]


def test_the_broker_keeps_what_it_was_given():
    redis = made()["services"]["redis"]

    assert "--appendonly yes" in " ".join(redis["command"])
    assert "--maxmemory-policy noeviction" in " ".join(redis["command"])
    assert ["redis_data:/data"] == redis["volumes"]
    assert {"redis_data": {}} == made()["volumes"]
    assert redis["healthcheck"]["test"]


def test_the_broker_alone_needs_nothing_else():
    """`docker compose up -d redis`: no variable of any service has to be set for it."""
    assert "depends_on" not in made()["services"]["redis"]
    assert "$" not in jobs.text(Stack()).partition("services:")[2]


def test_every_container_is_closed():
    for name, service in made()["services"].items():
        assert service["read_only"] is True, name
        assert ["ALL"] == service["cap_drop"], name
        assert "no-new-privileges:true" == service["security_opt"][0], name
        assert service["pids_limit"] > 0, name
        assert service["mem_limit"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert not {"privileged", "network_mode", "pid", "devices", "cap_add"} & set(service), name


def test_only_workers_may_build_namespaces():
    services = made()["services"]
    open_ones = [name for name, one in services.items() if len(one["security_opt"]) > 1]

    assert ["celery_worker", "celery_worker_heavy"] == open_ones
    assert list(jobs.WALLS) == services["celery_worker"]["security_opt"][1:]


def test_no_password_is_in_the_file():
    services = made()["services"]

    assert None is services["flower"]["environment"]["FLOWER_BASIC_AUTH"]
    assert None is services["api"]["environment"]["SAGGAR_KEY"]


def test_a_worker_may_finish_its_longest_job():
    services = made()["services"]

    assert "130s" == services["celery_worker"]["stop_grace_period"]
    assert "310s" == services["celery_worker_heavy"]["stop_grace_period"]


def test_images_of_this_checkout_are_never_looked_for_elsewhere():
    built = made()["services"]["celery_worker"]
    there = made(context="", api_image="registry.example.org/api:1")["services"]

    assert "build" == built["pull_policy"]
    assert "never" == there["celery_worker"]["pull_policy"]
    assert "pull_policy" not in there["api"]


def test_packages_are_built_into_the_workers_image_only():
    services = made(packages=("torch", "transformers"))["services"]

    assert {"PACKAGES": "torch transformers"} == services["celery_worker"]["build"]["args"]
    assert "args" not in services["api"]["build"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"workers": 0}, "workers"),
        ({"memory": "much"}, "memory"),
        ({"cpus": 0}, "cpus"),
        ({"api_port": 70000}, "api_port"),
        ({"redis_image": "redis\n"}, "redis_image"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(fields, named):
    with pytest.raises(InvalidTask, match=named):
        Stack(**fields)


def test_the_command_writes_the_users_values(tmp_path, capsys):
    output = tmp_path / "new" / "jobs.yml"
    words = ["--workers", "7", "--memory", "6G", "--package", "torch", "--api-port", "9000"]
    code = main(["deploy", "compose", *words, "--context", str(ROOT), "-o", str(output)])
    services = yaml.safe_load(output.read_text())["services"]

    assert 0 == code
    assert {"replicas": 7} == services["celery_worker"]["deploy"]
    assert ("6G", "torch") == (
        services["celery_worker"]["mem_limit"],
        services["celery_worker"]["build"]["args"]["PACKAGES"],
    )
    assert ["127.0.0.1:9000:8000"] == services["api"]["ports"]
    assert f"docker compose -f {output} up -d redis" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "wanted one of compose, k8s"),
        (("helm",), "helm"),
        (("compose", "--worker", "2"), "did you mean --workers"),
        (("compose", "--workers", "0"), "stack.workers: must be greater than or equal to 1"),
        (("compose", "--context", "src"), "no worker.Dockerfile in"),
        (("k8s", "--least", "30"), "at least 30 and at most 20"),
        (("k8s", "--worker-image", 'a b"c'), "wanted an image such as"),
        (("compose", "--worker-image", "a:b:c"), "wanted an image such as"),
    ],
)
def test_the_command_says_what_was_wrong(words, said, capsys):
    code = main(["deploy", *words])

    assert 2 == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["worker", "api"])
def test_the_images_get_what_the_checkout_lets_through(name):
    """What a Dockerfile copies is in the build's context, see .dockerignore."""
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    text = (ROOT / f"{name}.Dockerfile").read_text()

    assert "\nARG BASE=python:3.13-slim\nFROM ${BASE}" in text
    assert "USER 1000:1000" in text
    assert {"!src", "!pyproject.toml", "!runners/python/runner.py"} <= set(allowed)
    assert "!scripts/worker-entry" in allowed


def entry(*words, **variables):
    return subprocess.run(
        [ROOT / "scripts" / "worker-entry", *words],
        env={"PATH": "/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_flower_does_not_start_without_a_password():
    found = entry(*jobs.flower_command())

    assert 2 == found.returncode
    assert "FLOWER_BASIC_AUTH=user:password" in found.stderr


def test_a_worker_does_not_start_where_no_jail_can_be_built(tmp_path):
    doctor = tmp_path / "saggar"
    doctor.write_text("#!/bin/sh\necho user namespaces are refused\nexit 70\n")
    doctor.chmod(0o755)
    found = entry("celery", "worker", PATH=f"{tmp_path}:/usr/bin:/bin")

    assert 70 == found.returncode
    assert "user namespaces are refused" in found.stderr


def test_whatever_else_is_asked_for_is_started():
    assert "hello\n" == entry("echo", "hello").stdout
