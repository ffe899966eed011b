"""What a sandbox is shown of GPUs, of machines that are described: none of them has to be here."""

from dataclasses import replace

import pytest

from saggar.drivers import gpu
from saggar.drivers.gpu import Card, Machine
from saggar.errors import DriverUnavailable

OPEN = 0o666
CARDS = (
    Card(0, "NVIDIA L4", "0000:65:00.0", "/sys/devices/pci0000:64/0000:64:00.0/0000:65:00.0"),
    Card(1, "NVIDIA L4"),
)
MACHINE = Machine(
    nodes=dict.fromkeys(
        [
            "/dev/nvidia0",
            "/dev/nvidia1",
            "/dev/nvidiactl",
            "/dev/nvidia-modeset",
            "/dev/nvidia-uvm",
            "/dev/nvidia-uvm-tools",
        ],
        OPEN,
    ),
    cards=CARDS,
    libraries={
        "libcuda.so.1": "/usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15",
        "libnvidia-ml.so.1": "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550.54.15",
    },
    folders=("/sys/module/nvidia", "/sys/devices/system/node"),
)
LISTED = """\
1234 libs found in cache `/etc/ld.so.cache'
\tlibnvidia-ml.so.1 (libc6,x86-64) => /opt/driver/libnvidia-ml.so.1
\tlibcudart.so.12 (libc6,x86-64) => /opt/driver/libcudart.so.12
\tlibcuda.so.1 (libc6) => /opt/driver/i386/libcuda.so.1
\tlibcuda.so.1 (libc6,x86-64, OS ABI: Linux 2.3.99) => /opt/driver/libcuda.so.1
\tlibcuda.so (libc6,x86-64) => /opt/driver/libcuda.so
\tlibnvidia-nvvm.so.4 (libc6,AArch64) => /opt/driver/libnvidia-nvvm.so.4
\tlibnvidia-gpucomp.so.550.54.15 (libc6,x86-64) => /opt/driver/libnvidia-gpucomp.so.550.54.15
\tlibc.so.6 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libc.so.6
"""


def test_of_two_gpus_the_first_is_shown_and_what_all_of_them_need():
    found = gpu.passage(MACHINE, 1)

    assert (
        "/dev/nvidia-uvm",
        "/dev/nvidia-uvm-tools",
        "/dev/nvidia0",
        "/dev/nvidiactl",
    ) == found.devices
    assert CARDS[:1] == found.cards


def test_two_gpus_are_two():
    assert {"/dev/nvidia0", "/dev/nvidia1"} <= set(gpu.passage(MACHINE, 2).devices)


def test_the_parts_of_a_divided_card_are_shown_where_anybody_may_use_them():
    nodes = {"/dev/nvidia-caps/nvidia-cap1": 0o400, "/dev/nvidia-caps/nvidia-cap21": 0o444}
    found = gpu.passage(replace(MACHINE, nodes={**MACHINE.nodes, **nodes}), 1)

    assert "/dev/nvidia-caps/nvidia-cap21" in found.devices
    assert "/dev/nvidia-caps/nvidia-cap1" not in found.devices


def test_the_drivers_libraries_are_found_at_one_place_wherever_the_machine_has_them():
    found = gpu.passage(MACHINE, 1)

    assert (
        ("/opt/nvidia/lib/libcuda.so.1", "/usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15"),
        (
            "/opt/nvidia/lib/libnvidia-ml.so.1",
            "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550.54.15",
        ),
    ) == found.libraries
    assert ("/opt/nvidia/lib/libcuda.so", "libcuda.so.1") in found.links


def test_the_kernel_tells_about_the_card_where_the_driver_looks_for_it():
    found = gpu.passage(MACHINE, 1)

    assert (*MACHINE.folders, CARDS[0].folder) == found.folders
    link = "../../../devices/pci0000:64/0000:64:00.0/0000:65:00.0"
    assert ("/sys/bus/pci/devices/0000:65:00.0", link) in found.links


def test_a_card_of_which_the_kernel_does_not_tell_is_shown_all_the_same():
    assert MACHINE.folders == gpu.passage(replace(MACHINE, cards=CARDS[1:]), 1).folders


def without(*paths):
    return replace(
        MACHINE, nodes={path: mode for path, mode in MACHINE.nodes.items() if path not in paths}
    )


@pytest.mark.parametrize(
    ("machine", "count", "reason"),
    [
        (Machine(), 1, "there is no /dev/nvidiactl; NVIDIA's driver is not loaded"),
        (without("/dev/nvidia-uvm"), 1, "there is no /dev/nvidia-uvm; nvidia-modprobe"),
        (MACHINE, 3, r"there are 2 GPUs \(NVIDIA L4, NVIDIA L4\)"),
        (replace(MACHINE, cards=()), 1, r"there are 0 GPUs \(no /dev/nvidia0\)"),
        (
            replace(MACHINE, nodes={**MACHINE.nodes, "/dev/nvidia0": 0o660}),
            1,
            r"/dev/nvidia0 cannot be opened by everybody \(its mode is 0660\)",
        ),
        (replace(MACHINE, libraries={}), 1, r"there is no libcuda\.so\.1 among"),
    ],
)
def test_what_is_missing_is_named_with_where_it_comes_from(machine, count, reason):
    with pytest.raises(DriverUnavailable, match=rf"^gpu={count} cannot be had here: {reason}"):
        gpu.passage(machine, count)


def test_a_second_card_that_is_not_asked_for_may_be_closed():
    closed = replace(MACHINE, nodes={**MACHINE.nodes, "/dev/nvidia1": 0o600})

    assert "/dev/nvidia0" in gpu.passage(closed, 1).devices


def test_of_what_the_linker_lists_the_drivers_libraries_of_this_machine_are_taken():
    assert {
        "libnvidia-ml.so.1": "/opt/driver/libnvidia-ml.so.1",
        "libcuda.so.1": "/opt/driver/libcuda.so.1",
        "libnvidia-gpucomp.so.550.54.15": "/opt/driver/libnvidia-gpucomp.so.550.54.15",
    } == gpu.libraries_of(LISTED, "x86_64")
    assert {"libnvidia-nvvm.so.4"} == gpu.libraries_of(LISTED, "aarch64").keys()


def test_a_card_is_known_by_its_number():
    told = "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 42\nDevice Minor: \t 3\nGPU UUID: x\n"

    assert (3, ("NVIDIA H100 80GB HBM3", "0000:65:00.0")) == gpu.card_of(("0000:65:00.0", told))
    assert gpu.card_of(("0000:65:00.0", "Model: X"))[0] == -1


def test_a_probe_says_which_can_be_passed_or_why_none():
    assert "2 that can be passed: NVIDIA L4, NVIDIA L4" == gpu.fact(MACHINE)
    assert gpu.fact(Machine()).startswith("none: there is no /dev/nvidiactl")


def test_this_machine_can_be_looked_at():
    found = gpu.look()

    assert all(path.startswith("/dev/nvidia") for path in found.nodes)
    assert found.nodes or found == Machine()
