"""The manager's list of containers, and how its mistakes are named."""

import json

import pytest

from saggar.compat.containers import Container, InvalidConfig, parse, read

GOOD = {"0": {"url": "http://executor-000:8432", "type": "python"}}


def test_the_list_is_found_by_its_variable(tmp_path, monkeypatch):
    path = tmp_path / "list.json"
    path.write_text(json.dumps(GOOD))
    monkeypatch.setenv("CONTAINER_CONFIG_PATH", str(path))

    assert [Container("0", "http://executor-000:8432", "python")] == read()


def test_a_list_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("CONTAINER_CONFIG_PATH", raising=False)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InvalidConfig, match=r"container_config.json: no such file or directory"):
        read()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "list is not JSON: .* line 1 column 2"),
        ("[]", "list: the document: wanted an object"),
        ("{}", "wanted at least one container"),
        ('{"0": 1}', "/0: wanted an object"),
        ('{"0": {"type": "python"}}', "/0/url: is missing"),
        ('{"0": {"url": "http://a"}}', "/0/type: is missing"),
        ('{"0": {"url": "http://a", "type": 1}}', "/0/type: wanted text, found 1"),
        ('{"0": {"url": "http://a", "type": "x", "tpye": 1}}', "/0/tpye: no such field"),
        ('{"0": {"url": "ftp://a", "type": "x"}}', "/0/url: wanted a url .* found 'ftp://a'"),
        ('{"0": {"url": "http://a:x", "type": "x"}}', "/0/url: wanted a url"),
        ('{"0": {"url": "http:///x", "type": "x"}}', "/0/url: wanted a url"),
        ('{"0": {"url": "http://me@a", "type": "x"}}', "/0/url: .* without user"),
        ('{"0": {"url": "http://a?b", "type": "x"}}', "/0/url: .* without user, query"),
        ('{"a/b": {"url": "http://a", "type": "x"}}', "/a~1b: an id is letters"),
        ('{"0": {}, "0": {}}', "/0: stands here twice"),
        (
            '{"0": {"url": "http://a", "type": "x"}, "1": {"url": "http://a/", "type": "x"}}',
            "/1/url: container 0 has the same url http://a",
        ),
    ],
)
def test_a_mistake_has_the_pointer_to_it(text, said):
    with pytest.raises(InvalidConfig, match=said):
        parse(text, "list")
