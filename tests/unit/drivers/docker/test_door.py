"""The door, with somebody real who comes in."""

import os
import socket

import anyio

from saggar.drivers.docker.door import door


def knock(path):
    visitor = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    visitor.connect(path)
    return visitor


async def test_whoever_comes_in_is_greeted_and_given_what_he_needs(tmp_path):
    read, write = os.pipe()
    with door(tmp_path / "doors", "me") as way_in:
        with knock(f"{way_in.folder}/control") as visitor:
            with anyio.fail_after(5):
                control = await way_in.admit(b"welcome", (read,))
            data, fds, _, _ = socket.recv_fds(visitor, 100, 4)
        with control:
            os.write(write, b"through")

            assert (b"welcome", b"through") == (data, os.read(fds[0], 10))
    for fd in (read, write, *fds):
        os.close(fd)


def test_only_we_can_enter_the_folder_around_it(tmp_path):
    with door(tmp_path / "doors", "me") as way_in:
        assert 0o700 == os.stat(tmp_path / "doors").st_mode & 0o777
        assert os.path.basename(way_in.folder).startswith("me-")


def test_nothing_of_it_is_left(tmp_path):
    with door(tmp_path / "doors", "me"):
        pass

    assert [] == os.listdir(tmp_path / "doors")


def test_a_path_that_is_longer_than_an_address_can_be_will_do(tmp_path):
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    with door(deep, "me") as way_in:
        assert os.path.exists(f"{way_in.folder}/control")
