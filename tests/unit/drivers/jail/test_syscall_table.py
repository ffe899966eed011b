import re
from pathlib import Path

import pytest

from saggar.drivers.jail.syscall_table import NUMBERS

# What linux-libc-dev puts down, on Debian and elsewhere; aarch64 has the generic numbers.
HEADERS = {
    "x86_64": ("x86_64-linux-gnu/asm/unistd_64.h", "asm/unistd_64.h"),
    "aarch64": ("asm-generic/unistd.h",),
}


@pytest.mark.parametrize("machine", NUMBERS)
def test_no_number_means_two_calls(machine):
    numbers = NUMBERS[machine].values()

    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize(
    ("name", "x86_64", "aarch64"),
    [
        ("read", 0, 63),
        ("socket", 41, 198),
        ("clone", 56, 220),
        ("execve", 59, 221),
        ("mount", 165, 40),
        ("seccomp", 317, 277),
        ("clone3", 435, 435),
        ("rseq_slice_yield", 471, 471),
    ],
)
def test_known_calls_have_the_numbers_everybody_knows(name, x86_64, aarch64):
    assert (x86_64, aarch64) == (NUMBERS["x86_64"][name], NUMBERS["aarch64"][name])


def test_from_424_on_every_machine_has_the_same_numbers():
    x86_64, aarch64 = (
        {name: number for name, number in NUMBERS[machine].items() if number >= 424}
        for machine in ("x86_64", "aarch64")
    )

    assert x86_64 == aarch64


@pytest.mark.parametrize("machine", NUMBERS)
def test_the_headers_of_this_machine_agree(machine):
    """They may be older or newer than the table; what both know must have one number."""
    ours = NUMBERS[machine]
    theirs = {name: number for name, number in installed(machine).items() if name in ours}

    assert len(theirs) > 300
    assert theirs == {name: ours[name] for name in theirs}


def installed(machine):
    for place in HEADERS[machine]:
        path = Path("/usr/include") / place
        if path.exists():
            text = path.read_text()
            found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)$", text, re.MULTILINE)
            return {name: int(number) for name, number in found}
    pytest.skip("the kernel's headers are not installed; apt install linux-libc-dev")
    raise AssertionError
