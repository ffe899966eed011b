import pytest

from saggar import InvalidTask
from saggar.jobs import webhooks


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org",
        "ftp://example.org/",
        "http://",
        "http://[::1",
        "http://user:word@8.8.8.8/",
        "http://8.8.8.8/a b",
        "http://8.8.8.8/\nHost: other",
        "http://8.8.8.8:99999/",
    ],
)
def test_what_is_no_url_is_refused(url: str):
    with pytest.raises(InvalidTask, match="wanted a URL"):
        webhooks.admit(url)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0",
        "100.64.0.1", "224.0.0.1", "[::1]", "[fe80::1]", "[fd00::1]", "[::ffff:10.0.0.1]",
        "localhost", "2130706433", "0x7f.1",
    ],
)  # fmt: skip
def test_private_networks_are_refused_however_they_are_written(host: str):
    with pytest.raises(InvalidTask, match="not everybody's"):
        webhooks.admit(f"http://{host}/done")


def test_the_world_is_admitted():
    webhooks.admit("https://8.8.8.8/done")
    webhooks.admit("https://[2606:4700::1111]/done?x=1")


def test_an_operator_may_admit_his_own_network():
    webhooks.admit("http://127.0.0.1:8080/done", private=True)


def test_a_name_that_nobody_knows_is_refused():
    with pytest.raises(InvalidTask, match="not known"):
        webhooks.admit("https://no-such-host.invalid/")
