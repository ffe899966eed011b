import os
from contextlib import suppress

import anyio
import pytest

from saggar.cli.stream import pour
from saggar.errors import PlatformError


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with suppress(OSError):
            os.close(fd)


async def test_a_file_gets_the_bytes_as_they_are(tmp_path):
    with (tmp_path / "out").open("wb") as file:
        await pour(file.fileno(), b"\xff\0\r\n" * 10_000)

    assert b"\xff\0\r\n" * 10_000 == (tmp_path / "out").read_bytes()


async def test_a_slow_reader_does_not_stop_the_clock(pipe):
    """More than a pipe holds, and nobody reads: the event loop must go on all the same."""
    _, writer = pipe
    with anyio.move_on_after(0.05) as waiting:
        await pour(writer, b"x" * 1_000_000)

    assert waiting.cancelled_caught
    assert os.get_blocking(writer)


async def test_everything_arrives_once_it_is_read(pipe):
    reader, writer = pipe
    sent = os.urandom(300_000)
    got = bytearray()

    async def read() -> None:
        while len(got) < len(sent):
            await anyio.wait_readable(reader)
            got.extend(os.read(reader, 1 << 16))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await pour(writer, sent)

    assert sent == got


async def test_a_reader_that_has_gone_is_told_apart(pipe):
    reader, writer = pipe
    os.close(reader)

    with pytest.raises(BrokenPipeError):
        await pour(writer, b"x")


async def test_a_full_disk_is_ours_to_report():
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(PlatformError, match="cannot be passed on: no space left on device"):
            await pour(full, b"x")
    finally:
        os.close(full)
