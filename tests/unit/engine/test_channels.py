"""The sockets of a kernel, without one."""

import os
import stat

import pytest

from saggar.engine.channels import CHANNELS, Channel, Listeners


@pytest.fixture
def listeners():
    made = Listeners()
    yield made
    made.close()


def test_sockets_listen_where_only_their_user_may_enter(listeners):
    mode = stat.S_IMODE(os.stat(listeners.folder).st_mode)

    assert 0o700 == mode
    assert len(CHANNELS) == len(os.listdir(listeners.folder))
    assert 100 > max(len(listeners.path(number)) for number in range(1, 6))


def test_who_connected_stays_connected_when_the_names_are_gone(listeners):
    ours = Channel(listeners.connect("shell"), "DEALER", 1000)
    theirs, _ = listeners.sockets[0].accept()
    listeners.close()
    theirs.sendall(b"\xff")

    assert not os.path.exists(listeners.folder)
    assert b"\xff" == theirs.recv(1)
    assert [] == list(ours.read())
    ours.socket.close()
    theirs.close()


def test_names_that_somebody_removed_are_made_again(listeners):
    os.unlink(listeners.path(1))
    listeners.listen()

    listeners.connect("shell").close()
