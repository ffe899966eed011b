"""The rules for Prometheus: well formed, and about what is really said."""

import re
import shutil
import subprocess

import pytest
import yaml
from tests.conftest import ROOT
from tests.unit.telemetry.test_metrics import STAND

from saggar.telemetry.metrics import render

PATH = ROOT / "deploy" / "alerts.yml"
TESTS = PATH.with_name("alerts.test.yml")
RULES = [rule for group in yaml.safe_load(PATH.read_text())["groups"] for rule in group["rules"]]
WORDS = {"rate", "increase", "offset", "and", "on", "absent", "queue", "m", "s"}
PAIRS = {")": "(", "]": "[", "}": "{"}


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_a_rule_is_well_formed(rule):
    left = []
    for letter in rule["expr"]:
        if letter in "([{":
            left.append(letter)
        elif letter in ")]}":
            assert left
            assert PAIRS[letter] == left.pop()

    assert [] == left
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert {"summary", "description"} == rule["annotations"].keys()


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_a_rule_is_about_what_we_say(rule):
    exported = set(re.findall(r"^(\w+)[ {]", render(STAND)[0].decode(), re.MULTILINE))
    named = set(re.findall(r"[a-z_]{2,}", rule["expr"])) - WORDS

    assert named
    assert named <= exported


def test_the_alerts_that_are_promised_are_there():
    found = {rule["alert"]: rule for rule in RULES}

    assert ("celery_queue_depth > 100", "5m") == (
        found["SaggarQueueDeep"]["expr"],
        found["SaggarQueueDeep"]["for"],
    )
    assert {
        "SaggarWaitRising",
        "SaggarNoWorker",
        "SaggarScratchLow",
        "SaggarWorkerStuck",
    } <= found.keys()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool")
def test_prometheus_itself_takes_them():
    subprocess.run(["promtool", "check", "rules", PATH], check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool")
def test_each_rule_speaks_of_the_numbers_it_is_for_and_of_no_others():
    """Prometheus's own test of rules: numbers over time, and what is told when."""
    run = subprocess.run(
        ["promtool", "test", "rules", TESTS], check=False, capture_output=True, text=True
    )

    assert 0 == run.returncode, run.stdout + run.stderr


def test_every_rule_has_a_test_in_which_it_speaks():
    told = {
        expected["alertname"]
        for test in yaml.safe_load(TESTS.read_text())["tests"]
        for expected in test["alert_rule_test"]
        if expected["exp_alerts"]
    }

    assert {rule["alert"] for rule in RULES} == told
