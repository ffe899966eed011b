"""The generated compose file: valid, closed, and right about what it refuses."""

import json
from pathlib import Path

import pytest
import yaml

from saggar.cli import main
from saggar.compat import containers
from saggar.deploy import compose
from saggar.deploy.compose import Plan
from saggar.errors import UsageError
from saggar.model.schema import Schema

SPECIFICATION = Schema.of(Path(__file__).parent / "compose-spec.json")


def plan(**fields):
    return Plan(**{"types": ("python", "python"), "config": "/etc/list.json", **fields})


def generate(folder, *words):
    """The exit code, the compose file and the manager's list."""
    files = ["-o", str(folder / "out.yml"), "-c", str(folder / "list.json")]
    code = main(["compose", *words, *files])
    if code:
        return code, None, None
    made = yaml.safe_load((folder / "out.yml").read_text())
    return code, made, json.loads((folder / "list.json").read_text())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"types": ("python",) * 200},
        {"folder": "/home/me/code", "saveto": "/home/me/out"},
        {"env": {"EXECUTION_TIMEOUT": "10", "MEM_LIMIT": "2G", "MEM_RESERVATION": "512m"}},
        {"gpus": ("0", "GPU-5d5ba0d6")},
        {"types": ("python", "registry.example.org/team/node:20")},
    ],
)
def test_it_validates_against_the_specification(fields):
    made = yaml.safe_load(compose.as_yaml(compose.document(plan(**fields))))

    assert None is SPECIFICATION.problem(made)


def test_the_specification_would_notice():
    made = compose.document(plan())
    made["services"]["manager"]["pids_limit"] = ["many"]

    assert "/services/manager/pids_limit" in str(SPECIFICATION.problem(made))


def test_every_container_is_closed():
    services = compose.document(plan(types=("python", "node")))["services"]

    assert ["executor-000", "executor-001", "manager"] == list(services)
    for service in services.values():
        assert service["read_only"] is True
        assert ["ALL"] == service["cap_drop"]
        assert ["no-new-privileges:true"] == service["security_opt"]
        assert service["pids_limit"] > 0
        assert service["mem_limit"]
        assert service["tmpfs"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert not {"privileged", "network_mode", "pid", "devices", "extra_hosts"} & set(service)


def test_an_instance_has_the_documented_defaults():
    first = compose.document(plan(folder="/my/code"))["services"]["executor-000"]

    assert ("python", "256M", 0.25) == (first["image"], first["mem_limit"], first["cpus"])
    assert ["/my/code:/code:ro"] == first["volumes"]
    assert ["127.0.0.1:60000:8432"] == first["ports"]
    assert "/code" == first["environment"]["WORKSPACE_FOLDER"]


def test_the_limits_come_from_env_and_do_not_reach_the_program():
    env = {"MEM_LIMIT": "2G", "CPUS": "0.5", "MEM_RESERVATION": "512M", "EXECUTION_TIMEOUT": "10"}
    first = compose.document(plan(env=env))["services"]["executor-000"]

    assert ("2G", 0.5, "512M") == (first["mem_limit"], first["cpus"], first["mem_reservation"])
    assert "10" == first["environment"]["EXECUTION_TIMEOUT"]
    assert not set(compose.LIMITS) & set(first["environment"])


def test_each_instance_has_one_gpu():
    services = compose.document(plan(gpus=("3", "1")))["services"]
    devices = [
        services[f"executor-00{number}"]["deploy"]["resources"]["reservations"]["devices"]
        for number in (0, 1)
    ]

    assert [[["3"]], [["1"]]] == [[one["device_ids"] for one in each] for each in devices]
    assert "deploy" not in services["manager"]


def test_an_image_that_was_built_here_is_never_looked_for_elsewhere():
    types = ("python", "registry.example.org/team/node:20")
    services = compose.document(plan(types=types))["services"]

    assert "never" == services["executor-000"]["pull_policy"]
    assert "pull_policy" not in services["executor-001"]
    assert "never" == services["manager"]["pull_policy"]


def test_a_dollar_is_no_variable():
    made = compose.as_yaml(compose.document(plan(env={"A": "$HOME"})))

    assert "A: $$HOME" in made


def test_the_manager_can_read_its_list():
    listed = json.dumps(compose.containers(plan(types=("python", "node"))))

    assert [
        containers.Container("0", "http://executor-000:8432", "python"),
        containers.Container("1", "http://executor-001:8432", "node"),
    ] == containers.parse(listed, "list")


def test_the_command_writes_both_files_and_says_what_to_do(tmp_path, capsys):
    (tmp_path / "code").mkdir()
    words = ["-n", "3", "-t", "python:2,node:1", "-m", str(tmp_path / "code")]
    code, made, listed = generate(tmp_path, *words, "-p", "7000", "-s", str(tmp_path / "out"))

    assert 0 == code
    assert None is SPECIFICATION.problem(made)
    assert {"0", "1", "2"} == set(listed)
    assert (
        f"{tmp_path}/out/container_002:/submission" in made["services"]["executor-002"]["volumes"]
    )
    assert (tmp_path / "out" / "container_002").is_dir()
    assert ["executor-000", "executor-001", "executor-002"] == made["services"]["manager"][
        "depends_on"
    ]
    assert "docker compose -f" in capsys.readouterr().out


def test_without_options_there_are_ten_of_python(tmp_path):
    _, made, _ = generate(tmp_path)

    images = [service["image"] for service in made["services"].values()]
    assert ["python"] * 10 + ["saggar/manager"] == images


def test_the_documented_script_is_the_command(tmp_path):
    import subprocess
    import sys

    from tests.conftest import ROOT

    script = [sys.executable, str(ROOT / "generate_compose.py")]
    words = ["--num-containers", "2", "--types", "python:2", "--output", "demo.yml"]
    run = subprocess.run([*script, *words], cwd=tmp_path, capture_output=True, check=False)

    assert (0, b"") == (run.returncode, run.stderr)
    assert (tmp_path / "demo.yml").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-n", "3", "-t", "python:2"], "the counts add up to 2, --num-containers is 3"),
        (["-n", "2", "-t", "python"], "wanted TYPE:COUNT such as python:2, found 'python'"),
        (["-n", "2", "-t", "python:1,python:1"], "'python' stands there twice"),
        (["-n", "2", "-t", "python:two"], "wanted a count of at least 1 in 'python:two'"),
        (["-n", "2", "-t", "Not An Image:2"], "wanted TYPE:COUNT"),
        (["-n", "0"], "--num-containers: wanted at least 1, found 0"),
        (["-n", "1001"], "--num-containers: wanted 1 to 1000, found 1001"),
        (["-n", "2", "-m", "/no/such/folder"], "'/no/such/folder' is not a folder"),
        (["-n", "2", "-p", "65535"], "ports 65535 to 65536, wanted 1 to 65535"),
        (["-n", "2", "-p", "0"], "ports 0 to 1, wanted 1 to 65535"),
        (["-n", "2", "-p", "4999"], "ports 4999 to 5000 take the manager's, 5000"),
        (["-n", "2", "-g", "0"], "1 of them, --num-containers is 2"),
        (["-n", "2", "-g", "0,0"], "0 stands there twice; each instance has its own"),
        (["-n", "2", "-e", "A"], "wanted NAME=VALUE, found 'A'"),
        (["-n", "2", "-e", "A=1,A=2"], "A stands there twice"),
        (["-n", "2", "-e", "MEM_LIMIT=lots"], "wanted a size such as 256M or 2G, found 'lots'"),
        (["-n", "2", "-e", "CPUS=-1"], "wanted a number of cores such as 0.25, found '-1'"),
        (["-n", "2", "-e", "MEM_RESERVATION=1G"], "MEM_RESERVATION is more than MEM_LIMIT"),
        (["-n", "2", "-s", "/a:b"], "a path that is mounted may have no colon"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_written(tmp_path, capsys, words, said):
    code, _, _ = generate(tmp_path, *words)

    assert 2 == code
    assert said in capsys.readouterr().err
    assert [] == list(tmp_path.iterdir())


def test_what_cannot_be_written_is_said(tmp_path, capsys):
    code = main(["compose", "-n", "1", "-o", str(tmp_path / "no" / "x"), "-c", str(tmp_path / "c")])

    assert 70 == code
    assert f"cannot write {tmp_path}/no/x: no such file or directory" in capsys.readouterr().err


def test_counts_of_types_keep_their_order():
    assert ["b", "b", "a"] == compose.types("b:2,a:1", 3)
    with pytest.raises(UsageError):
        compose.types("", 1)
