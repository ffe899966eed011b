"""Files that go in with a task, and files that come back."""

from saggar.model.result import Status
from saggar.model.task import File
from saggar.platform import Platform
from saggar.testing.conformance.driving import output, run


async def check_files_are_there_before_the_program(platform: Platform, driver: str) -> None:
    """Text, bytes, an empty one, one in a folder; with the mode that was asked for."""
    files = (
        File(path="text.txt", content=b"caf\xc3\xa9"),
        File(path="empty", content=b""),
        File(path="deep/er/binary", content=bytes(range(256))),
        File(path="run.sh", content=b"#!/bin/sh\necho ran\n", mode=0o755),
    )
    code = """
import os, subprocess
print(open("text.txt").read(), os.path.getsize("empty"))
print(open("deep/er/binary", "rb").read() == bytes(range(256)))
print(subprocess.run(["./run.sh"], capture_output=True, text=True).stdout, end="")
"""

    assert await output(platform, driver, code, files=files) == "café 0\nTrue\nran\n"


async def check_a_large_file_goes_in_and_comes_back(platform: Platform, driver: str) -> None:
    """Eight megabytes."""
    data = bytes(range(256)) * (8 << 12)
    code = "import os; os.rename('in', 'out')"
    result = await run(platform, driver, code, files={"in": data}, collect="out")

    assert [(file.path, data == file.content) for file in result.files] == [("out", True)]


async def check_files_come_back_by_pattern(platform: Platform, driver: str) -> None:
    """Those that match and no others, with their folders and modes; an empty one is a file."""
    code = """
import os
os.makedirs("out/deep")
for path in ("a.csv", "c.txt", "out/d.csv", "out/deep/e.csv", "zero.csv"):
    open(path, "w").write("" if path == "zero.csv" else path)
os.close(os.open("b.csv", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700))
"""
    result = await run(platform, driver, code, collect=("*.csv", "out/**/*.csv"))

    found = {file.path: file for file in result.files}

    assert {"a.csv", "b.csv", "out/d.csv", "out/deep/e.csv", "zero.csv"} == {*found}
    assert found["out/deep/e.csv"].content == b"out/deep/e.csv"
    assert (found["zero.csv"].content, found["b.csv"].mode) == (b"", 0o700)


async def check_what_is_not_there_is_told(platform: Platform, driver: str) -> None:
    """A pattern that matched nothing is no failure, and is not passed over in silence."""
    result = await run(platform, driver, "", collect=("missing.txt",))

    assert (result.status, result.files) == (Status.OK, ())
    assert [one.path for one in result.files_skipped] == ["missing.txt"]


async def check_files_come_back_from_a_failure(platform: Platform, driver: str) -> None:
    """What was written before an error, or before the deadline, is worth having."""
    code = "open('log', 'w').write('so far'); {}"
    for end in ("1 / 0", "import time; time.sleep(60)"):
        result = await run(
            platform, driver, code.format(end), collect="log", limits={"wall": 0.5, "grace": 0.2}
        )

        assert [file.content for file in result.files] == [b"so far"]
        assert not result.ok


async def check_links_are_not_followed(platform: Platform, driver: str) -> None:
    """A link to a file of the host's is left where it is, and that is told."""
    code = "import os; os.symlink('/etc/passwd', 'result.txt')"
    result = await run(platform, driver, code, collect="*.txt")

    assert (result.files, [one.path for one in result.files_skipped]) == ((), ["result.txt"])


async def check_a_fifo_hangs_nobody(platform: Platform, driver: str) -> None:
    """Nor anything else that is no regular file."""
    code = "import os; os.mkfifo('pipe.txt'); os.mkdir('folder.txt')"
    result = await run(platform, driver, code, collect="*.txt")

    assert (result.status, result.files) == (Status.OK, ())


async def check_nothing_is_left_for_the_next_run(platform: Platform, driver: str) -> None:
    """Each run finds its folders empty but for what it brought."""
    code = """
import os, tempfile
print(sorted(os.listdir(".")), sorted(os.listdir(tempfile.gettempdir())))
for place in (".", tempfile.gettempdir()):
    open(os.path.join(place, "left"), "w").close()
"""
    first = await output(platform, driver, code)

    assert "left" not in first
    assert first == await output(platform, driver, code)
