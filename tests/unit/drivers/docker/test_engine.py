"""Finding an engine, and what is said where none answers. Sockets are real, engines are not."""

import socket

import pytest

from saggar.drivers.docker import engine as door
from saggar.drivers.docker.engine import Engine, address
from saggar.errors import DriverUnavailable


@pytest.fixture
def nowhere(monkeypatch):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(door, "_usual_places", lambda: ("/no/such.sock",))


def test_an_engine_is_where_docker_host_says(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///somewhere/docker.sock")

    assert "unix:///somewhere/docker.sock" == address()


def test_an_engine_on_another_machine_is_refused(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "tcp://engine:2375")

    with pytest.raises(DriverUnavailable, match=r"on this machine.*tcp://engine:2375"):
        address()


def test_an_engine_is_found_where_one_usually_listens(nowhere, monkeypatch, tmp_path):
    path = str(tmp_path / "docker.sock")
    monkeypatch.setattr(door, "_usual_places", lambda: ("/no/such.sock", path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)

        assert f"unix://{path}" == address()


def test_where_there_is_none_the_way_to_one_is_told(nowhere):
    with pytest.raises(DriverUnavailable, match=r"/no/such\.sock; apt install docker\.io"):
        address()


def test_a_socket_that_nobody_listens_at_is_no_engine(tmp_path):
    with pytest.raises(DriverUnavailable, match="no container engine answers at unix:"):
        Engine(f"unix://{tmp_path}/docker.sock").about()


def test_an_engine_that_lets_nobody_in_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(door, "PATIENCE", 1)
    path = str(tmp_path / "docker.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)

        with pytest.raises(DriverUnavailable, match="no container engine answers at unix:"):
            Engine(f"unix://{path}").about()


@pytest.mark.parametrize(
    ("reference", "remedy"),
    [
        ("saggar/runner-node:latest", "`make build-runner-node`"),
        ("saggar/other", "`make build-runners`"),
        ("alpine:3.20", "`docker pull alpine:3.20`"),
    ],
)
def test_a_missing_image_is_told_with_how_to_get_it(reference, remedy):
    assert remedy in door._how_to_get(reference)
