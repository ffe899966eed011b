"""Requirements, and the surroundings in which uv runs."""

import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saggar.environments import python
from saggar.environments.python import find_uv, identify, normalised, site_packages
from saggar.errors import InvalidTask, PrepareFailed

REAL = os.path.realpath(sys.executable)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("numpy", "numpy"),
        (" NumPy ", "numpy"),
        ("ruamel.yaml", "ruamel-yaml"),
        ("zope__interface", "zope-interface"),
        ("numpy == 2.*", "numpy==2.*"),
        ("numpy>=2,<3", "numpy<3,>=2"),
        ("numpy < 3 , >= 2", "numpy<3,>=2"),
        ("uvicorn[Standard, http_tools]>=0.30", "uvicorn[http-tools,standard]>=0.30"),
        ("torch==2.1.0+cpu", "torch==2.1.0+cpu"),
        ("pandas~=2.2", "pandas~=2.2"),
        ("old===1!2.0.post1", "old===1!2.0.post1"),
        (
            "tomli>=2;  python_version < '3.11'",
            "tomli>=2 ; python_version < '3.11'",
        ),
        ("evil.zip", "evil-zip"),
        ("requirements.txt", "requirements-txt"),
    ],
)
def test_a_requirement_has_one_form(written, meant):
    assert (meant,) == normalised([written])


def test_requirements_are_a_set():
    assert ("a", "b>=1") == normalised(["b >= 1", "A", "a", "b>=1"])


@pytest.mark.parametrize(
    "package",
    [
        "",
        " ",
        "-r /etc/passwd",
        "--index-url=http://evil",
        "--extra-index-url http://evil six",
        "six --hash=sha256:00",
        "six --index-url http://evil",
        "six\n--index-url http://evil",
        "six\r-e .",
        "six \\\n--pre",
        "six # comment",
        "six; python_version > '3' --hash=sha256:00",
        "six; python_version > '3'\n-r x",
        "six ; extra == '$HOME'",
        "six @ https://evil/six.whl",
        "six@file:///etc/passwd",
        "git+https://evil/six",
        "https://evil/six.whl",
        "file:///six.whl",
        "./six",
        "/six",
        "../six",
        "six/",
        "-six",
        "six-",
        ".six",
        "six==",
        "six==1.0 2.0",
        "six[",
        "six[]",
        "six>=1,",
        "six (>=1)",
        "sïx",
        "six\0",
        "a" * 1001,
    ],
)
def test_what_is_not_a_name_with_versions_is_refused(package):
    with pytest.raises(InvalidTask, match="wanted a package"):
        normalised([package])


@pytest.mark.parametrize(
    ("package", "reason"),
    [("-r x", "options"), ("six @ https://evil/x", "URLs"), ("./six", "URLs"), ("six==", "PEP")],
)
def test_a_refusal_says_why(package, reason):
    with pytest.raises(InvalidTask, match=reason):
        normalised([package])


@given(st.text(max_size=40))
def test_no_text_becomes_more_than_one_line_or_an_option(text):
    try:
        (line,) = normalised([text])
    except InvalidTask:
        return

    assert line.isprintable()
    assert line[0].isalnum()
    assert " -" not in line


@given(st.text(st.sampled_from("ab.-_[], <=>1*;'\"()")))
def test_a_normal_form_is_its_own_normal_form(text):
    try:
        once = normalised([text])
    except InvalidTask:
        return

    assert once == normalised(once)


async def test_the_running_interpreter_is_known_without_asking_it():
    version = ".".join(map(str, sys.version_info[:3]))

    assert version == (await identify(sys.executable)).split()[0]


async def test_an_interpreter_asked_says_the_same_as_one_that_runs(tmp_path):
    other = tmp_path / "python"
    other.symlink_to(REAL)

    assert await identify(sys.executable) == await identify(str(other))


@pytest.mark.parametrize("path", ["/nowhere/python", "/bin/false", "/etc/passwd"])
async def test_what_is_no_interpreter_is_refused(path):
    with pytest.raises(PrepareFailed, match=path):
        await identify(path)


def test_uv_is_found_beside_the_interpreter(tmp_path, monkeypatch):
    beside = tmp_path / "bin" / "uv"
    beside.parent.mkdir()
    beside.write_text("#!/bin/sh\n")
    beside.chmod(0o755)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))

    assert str(beside) == find_uv()


def test_without_uv_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "uv", None)

    with pytest.raises(PrepareFailed, match="pip install uv"):
        find_uv()


def test_uv_sees_index_and_proxies_and_nothing_else_of_ours():
    env = python._surroundings(
        {
            "PATH": "/bin",
            "https_proxy": "http://proxy",
            "SSL_CERT_FILE": "/ca",
            "UV_DEFAULT_INDEX": "https://index",
            "UV_NO_VERIFY_HASHES": "1",
            "UV_NO_BINARY": "1",
            "PIP_INDEX_URL": "https://other",
            "PYTHONPATH": "/evil",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
    )

    assert {
        "PATH": "/bin",
        "https_proxy": "http://proxy",
        "SSL_CERT_FILE": "/ca",
        "UV_DEFAULT_INDEX": "https://index",
        "UV_NO_PROGRESS": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "NO_COLOR": "1",
    } == env


def test_an_index_that_only_pip_knows_is_used():
    env = python._surroundings({"PIP_INDEX_URL": "https://a", "PIP_EXTRA_INDEX_URL": "https://b"})

    assert ("https://a", "https://b") == (env["UV_DEFAULT_INDEX"], env["UV_INDEX"])


def test_a_password_in_a_url_does_not_reach_the_log():
    assert "at https://***@index/simple" == python._readable(b"at https://me:word@index/simple")


def test_site_packages_are_folders_python_looks_into():
    found = site_packages()

    assert any(os.path.isdir(os.path.join(folder, "pytest")) for folder in found)
    assert set(found) <= {os.path.realpath(entry) for entry in sys.path}
