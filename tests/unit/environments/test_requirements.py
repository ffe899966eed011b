"""What may be said about a package, and what must not get through to an installer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saggar.environments.requirements import normalised
from saggar.errors import InvalidTask


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
