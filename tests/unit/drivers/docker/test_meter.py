"""A cgroup's files, read where they are: those of the process that tests."""

import os

from saggar.drivers.docker import meter as module
from saggar.drivers.docker.meter import Meter


def test_a_process_that_is_not_known_here_has_used_nothing_that_we_know_of():
    found = Meter(0).reading()

    assert (None, None, None, None) == (found.cpu, found.memory, found.current, found.processes)


def test_a_group_that_is_gone_is_no_number(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_folders", lambda _: {"": str(tmp_path)})
    (tmp_path / "memory.current").write_text("4096\n")
    meter = Meter(1)
    meter.close()

    assert None is meter.reading().current


def test_version_2_is_read_from_one_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_folders", lambda _: {"": str(tmp_path)})
    for name, text in {
        "cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
        "memory.peak": "8192\n",
        "memory.current": "4096\n",
        "memory.events": "low 0\noom 3\noom_kill 2\n",
        "pids.current": "4\n",
        "pids.events": "max 5\n",
    }.items():
        (tmp_path / name).write_text(text)
    meter = Meter(1)
    found = meter.reading()
    meter.close()

    assert (2.5, 8192, 4096, 3) == (found.cpu, found.memory, found.current, found.processes)
    assert (2, 5) == (found.oom_kills, found.refused_forks)


def test_version_1_is_read_from_a_folder_for_each_controller(tmp_path, monkeypatch):
    folders = {name: str(tmp_path / name) for name in ("cpuacct", "memory", "pids")}
    monkeypatch.setattr(module, "_folders", lambda _: folders)
    for name, text in {
        "cpuacct/cpuacct.usage": "1500000000\n",
        "memory/memory.max_usage_in_bytes": "8192\n",
        "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    meter = Meter(1)
    found = meter.reading()
    meter.close()

    assert (1.5, 8192, 1) == (found.cpu, found.memory, found.oom_kills)
    assert None is found.processes


def test_what_was_spent_on_parking_is_nobodys(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_folders", lambda _: {"": str(tmp_path)})
    (tmp_path / "cpu.stat").write_text("usage_usec 1000000\n")
    meter = Meter(1)
    meter.start()
    (tmp_path / "cpu.stat").write_text("usage_usec 1200000\n")
    spent = meter.reading().cpu
    meter.close()

    assert spent is not None
    assert 0.19 < spent < 0.21


def test_the_folders_of_a_real_process_are_there():
    assert all(os.path.isdir(path) for path in module._folders(os.getpid()).values())
