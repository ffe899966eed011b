import pytest

from saggar.cli.open import asked, main, parser
from saggar.errors import UsageError


def words(*said):
    return asked(parser().read(list(said)))


def test_what_is_asked_for_is_what_is_allowed():
    found = words("--ttl", "1h", "--network", "loopback", "--memory", "1GiB", "--env", "A=b")

    assert 3600 == found["ttl"]
    assert ("loopback", 1 << 30) == (found["policy"].network, found["policy"].limits.memory)
    assert {"A": "b"} == found["env"]


def test_without_a_word_it_is_the_closed_policy():
    from saggar.model.policy import Policy

    found = words()

    assert (None, Policy(), ()) == (found["ttl"], found["policy"], found["files"])


def test_an_image_is_a_containers():
    assert "docker" == words("--image", "some:1")["driver"]


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (["--ttl", "soon"], "--ttl"),
        (["--memory", "much"], "--memory"),
        (["--input", "no-such-file"], "no-such-file"),
        (["--tll", "1h"], "did you mean --ttl"),
    ],
)
def test_a_mistake_is_said_of_its_option(said, complaint):
    with pytest.raises(UsageError, match=complaint):
        main(said)
