"""Pid 1 of a container, where it is none; the rest takes a container (tests/containers)."""

import os
import socket
import subprocess

from saggar.boundary import control as ctl
from saggar.drivers.interpreter import OPTIONS, bootstrap, bundle, find, memory_file


def test_it_refuses_to_be_anything_but_pid_1():
    """It ends by killing everybody it can: outside a container that would be everybody."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    modules, host = memory_file("bundle", bundle()), os.pidfd_open(os.getpid())
    words = ["saggar.guest.container", str(modules), str(theirs.fileno()), str(host), ""]
    argv = [find(None).executable, *OPTIONS, "-c", bootstrap(), *words]
    with ours, theirs:
        ran = subprocess.run(argv, pass_fds=[modules, theirs.fileno(), host], check=False)
        record = ctl.unpack(ours.recv(ctl.MAX_RECORD))
    os.close(modules)
    os.close(host)

    assert (1, ctl.FAILED) == (ran.returncode, record.kind)
    assert "not pid 1" in record.text
