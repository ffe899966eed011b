import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from saggar import InvalidTask, PlatformError
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
        "http://8.8.8.8/ü",
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
        "[64:ff9b::7f00:1]", "[64:ff9b:1::1]", "[::127.0.0.1]", "[fec0::1]", "[2001:0:7f00:1::]",
        "[2002:7f00:1::]",
    ],
)  # fmt: skip
def test_private_networks_are_refused_however_they_are_written(host: str):
    with pytest.raises(InvalidTask, match="not everybody's"):
        webhooks.admit(f"http://{host}/done")


def test_the_world_is_admitted():
    webhooks.admit("https://8.8.8.8/done")
    webhooks.admit("https://[2606:4700::1111]/done?x=1")


def test_a_url_has_an_end():
    with pytest.raises(InvalidTask, match="2048 characters at most"):
        webhooks.admit(f"http://8.8.8.8/{'a' * 3000}")


@contextmanager
def receiver(*said: bytes, pause: float = 0) -> Iterator[str]:
    """Who takes what is posted, and says these; its URL."""

    def answer() -> None:
        with server.accept()[0] as taken, suppress(OSError):
            asked = b""
            # What is left unread resets the connection.
            while not asked.endswith(b"{}") and (more := taken.recv(65536)):
                asked += more
            for part in said:
                taken.sendall(part)
                over.wait(pause)

    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/done"
        over.set()
        thread.join()


def test_who_takes_it_after_a_word_before_has_taken_it():
    with receiver(b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\nHTTP/1.1 20", b"4 \r\n\r\n") as url:
        webhooks.post(url, b"{}", private=True)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: http://8.8.8.8/\r\n\r\n", "answered 302"),
        (b"hello\r\n\r\n", "hello"),
        (b"", "nobody takes"),
    ],
)
def test_who_says_anything_else_has_not(said: bytes, why: str):
    with receiver(said) as url, pytest.raises(PlatformError, match=why):
        webhooks.post(url, b"{}", private=True)


def test_a_byte_now_and_then_is_no_answer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(webhooks, "PATIENCE", 0.5)
    parts = [b"HTTP/1.1 103 \r\nX: ", *[b"a"] * 200]
    began = time.monotonic()
    with (
        receiver(*parts, pause=0.05) as url,
        pytest.raises(PlatformError, match=r"no answer within 0\.5 s|timed out"),
    ):
        webhooks.post(url, b"{}", private=True)

    assert time.monotonic() - began < 8


def test_an_operator_may_admit_his_own_network():
    webhooks.admit("http://127.0.0.1:8080/done", private=True)


def test_a_name_that_nobody_knows_is_refused():
    with pytest.raises(InvalidTask, match="not known"):
        webhooks.admit("https://no-such-host.invalid/")
