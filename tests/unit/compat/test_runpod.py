"""RunPod's values, between their words and ours."""

import logging

import pytest
from pydantic import ValidationError

from saggar.compat.runpod import FunctionRequest, FunctionResponse
from saggar.compat.runpod_baked import refusal
from saggar.compat.runpod_log import JobLog
from saggar.compat.runpod_prepare import NotPrepared, environment_of
from saggar.compat.runpod_words import checked, response, said_of
from saggar.compat.runpod_worker import terms
from saggar.errors import InvalidTask, UsageError
from saggar.functions.kept import Reply
from saggar.model.environment import Environment
from saggar.model.policy import Network, Rung

CODE = "def f(): return 1"


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({}, 'function_name is required when execution_type is "function"'),
        (
            {"function_name": "f"},
            'function_code is required when execution_type is "function" and baked=False',
        ),
        ({"execution_type": "class"}, 'class_name is required when execution_type is "class"'),
        (
            {"execution_type": "class", "class_name": "C"},
            'class_code is required when execution_type is "class" and baked=False',
        ),
    ],
)
def test_what_is_missing_is_said_in_the_documented_words(said, text):
    with pytest.raises(ValidationError) as caught:
        FunctionRequest(**said)

    assert text == str(caught.value.errors()[0]["ctx"]["error"])


def test_code_may_be_missing_only_where_it_was_baked():
    assert FunctionRequest(function_name="f", baked=True).code is None
    assert FunctionRequest(execution_type="class", class_name="C", baked=True).code is None


def test_a_request_of_any_generation_is_read():
    request = FunctionRequest(
        function_name="f", function_code=CODE, args=None, dependencies=None, of_tomorrow=1
    )

    assert [] == request.args
    assert ("__call__", True, True, False) == (
        request.method_name,
        request.create_new_instance,
        request.accelerate_downloads,
        request.baked,
    )
    assert "of_tomorrow" not in request.model_dump()


def test_what_is_neither_function_nor_class_is_a_function():
    request = FunctionRequest(execution_type="lambda", function_name="f", function_code=CODE)

    assert "function" == said_of(request)["kind"]


def test_a_response_has_every_field():
    fields = "success result json_result error stdout instance_id instance_info"

    assert fields.split() == list(FunctionResponse(success=True).model_dump())


@pytest.mark.parametrize("path", ["../m.py", "/m.py", "a/../../m.py", "", "a\0b.py"])
def test_a_module_stays_in_its_folder(path):
    with pytest.raises(InvalidTask, match="modules"):
        checked({path: "x = 1"})


def test_modules_have_an_end():
    with pytest.raises(InvalidTask, match="more than 8 MiB"):
        checked({"m.py": "#" * (8 << 20) + "\n"})


def test_plain_arguments_want_json():
    with pytest.raises(InvalidTask, match="serialization_format 'json'"):
        said_of(FunctionRequest(function_name="f", function_code=CODE, args=[1]))


def test_a_format_that_nobody_knows_is_refused():
    request = FunctionRequest(function_name="f", function_code=CODE, serialization_format="yaml")

    with pytest.raises(InvalidTask, match="serialization_format"):
        said_of(request)


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"function_code": CODE}, "code"),
        ({"class_code": CODE}, "code"),
        ({"modules": {"m.py": ""}}, "modules"),
        ({"dependencies": ["numpy"]}, "dependencies"),
        ({"system_dependencies": ["git"]}, "system_dependencies"),
        ({"hf_models_to_cache": ["org/name"]}, "hf_models_to_cache"),
        ({"args": ["gAVLAS4="]}, "pickled arguments"),
        ({"constructor_kwargs": {"a": "gAVLAS4="}}, "pickled arguments"),
    ],
)
def test_baked_mode_refuses_what_is_more_than_a_name_and_json(said, what):
    request = FunctionRequest(function_name="f", baked=True, **said)

    assert f"came with {what};" in refusal(request)


def test_baked_mode_takes_names_and_json():
    plain = FunctionRequest(function_name="f", baked=True, args=[1], serialization_format="json")

    assert "" == refusal(plain)
    assert "" == refusal(FunctionRequest(function_name="f", baked=True))


@pytest.mark.parametrize("name", ["--index-url=http://evil.example", "-r /etc/passwd", "a\n-e ."])
def test_no_option_gets_through_as_a_package(name):
    request = FunctionRequest(function_name="f", function_code=CODE, dependencies=[name])

    with pytest.raises(NotPrepared, match="Failed tasks: python_dependencies: "):
        environment_of(request, Environment())


def test_without_acceleration_no_model_is_fetched_ahead():
    said = {"function_name": "f", "function_code": CODE, "hf_models_to_cache": ["org/name"]}
    request = FunctionRequest(**said, accelerate_downloads=False)

    assert ("org/name",) == environment_of(FunctionRequest(**said), Environment()).models
    assert () == environment_of(request, Environment()).models


def test_the_closed_terms_are_what_no_variable_says():
    found = terms({})

    assert (Rung.JAIL, Network.NONE, False, frozenset()) == (
        found.policy.isolation,
        found.policy.network,
        found.policy.host_packages,
        found.policy.best_effort,
    )
    assert (600.0, 2 << 30) == (found.policy.limits.wall, found.policy.limits.memory)


def test_the_operator_says_more_by_variables():
    found = terms(
        {
            "EXECUTION_TIMEOUT": "5s",
            "EXECUTION_ISOLATION": "landlock",
            "EXECUTION_NETWORK": "host",
            "EXECUTION_BEST_EFFORT": "cpu-share, disk",
            "EXECUTION_HOST_PACKAGES": "yes",
            "EXECUTION_GPU": "2",
        }
    )

    assert (5.0, Rung.LANDLOCK, Network.HOST) == (
        found.policy.limits.wall,
        found.policy.isolation,
        found.policy.network,
    )
    assert frozenset({"cpu_share", "disk"}) == found.policy.best_effort
    assert found.policy.host_packages
    assert found.environment.host_packages
    assert 2 == found.policy.gpu


@pytest.mark.parametrize(
    "variable", ["EXECUTION_TIMEOUT", "EXECUTION_MEMORY", "EXECUTION_ISOLATION", "EXECUTION_GPU"]
)
def test_a_variable_that_does_not_fit_is_named(variable):
    with pytest.raises(UsageError, match=variable):
        terms({variable: "many"})


def test_what_was_printed_comes_by_stream_behind_the_workers_lines(monkeypatch):
    monkeypatch.setenv("LOG_LEVEL", "INFO")
    log = JobLog()
    log.detail("not shown")
    log.say("Executing function: f")
    reply = Reply(success=True, result=b"x", stdout="out\n", stderr="err\n", log="logged\n")

    found = response(reply, log)

    first, empty, *rest = found.stdout.splitlines()
    assert first.endswith("| INFO  | Executing function: f")
    assert ["", "out", "err", "logged"] == [empty, *rest]
    assert "eA==" == found.result


def test_a_job_log_keeps_its_last_thousand_lines(caplog):
    caplog.set_level(logging.CRITICAL)
    log = JobLog()
    for number in range(1500):
        log.say(f"line {number}")

    lines = log.before("").rstrip("\n").splitlines()
    assert 1000 == len(lines)
    assert lines[0].endswith("line 500")
