import os
import subprocess

from saggar.drivers.docker.engine import LABEL, Engine
from saggar.drivers.docker.owners import FOLDER, dead, owner, sweep, sweep_folders


def gone():
    """The name of a process that was, and is no more."""
    with subprocess.Popen(["sleep", "60"]) as process:
        number = process.pid
        process.kill()
    return f"{number}.{owner().partition('.')[2]}"


class Books(Engine):
    """What an engine says there is; no engine of ours."""

    def __init__(self, **containers):
        super().__init__("unix:///nowhere")
        self.containers = containers

    def labelled(self, label):
        assert label == LABEL
        return dict(self.containers)

    def remove(self, container):
        del self.containers[container]


def test_we_are_alive_and_always_called_the_same():
    assert owner() == owner()
    assert not dead(owner())


def test_a_process_that_has_ended_is_dead():
    assert dead(gone())


def test_another_process_of_the_same_number_is_somebody_else():
    number, started, rest = owner().split(".", 2)

    assert dead(f"{number}.{int(started) + 1}.{rest}")


def test_everybody_of_another_boot_is_dead():
    assert dead(f"{owner().rpartition('.')[0]}.another-boot")


def test_whoever_is_counted_elsewhere_may_live():
    number, started, _, boot = owner().split(".")

    assert not dead(f"{int(number) + 1}.{started}.1.{boot}")


def test_what_is_no_name_is_left_alone():
    assert not dead("somebody else's label")
    assert not dead("")


def test_a_sweep_removes_what_the_dead_left_and_nothing_else(tmp_path):
    engine = Books(ours=owner(), theirs=gone(), odd="x")
    for name in (owner(), gone()):
        (tmp_path / FOLDER / f"{name}-abc").mkdir(parents=True)

    assert {"containers": 1, "container_folders": 1} == sweep(engine, tmp_path)
    assert {"ours", "odd"} == engine.containers.keys()
    assert [f"{owner()}-abc"] == os.listdir(tmp_path / FOLDER)


def test_where_nothing_was_ever_started_there_is_nothing_to_sweep(tmp_path):
    assert 0 == sweep_folders(tmp_path)
