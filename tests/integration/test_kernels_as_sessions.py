"""The kernel engine keeps what sessions promise: the same tests as the shell's, on kernels."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.integration import test_sessions as shell

from saggar import Platform
from saggar.engine.session import Session


class Kernels(Platform):
    """One that opens kernels where nothing else is said."""

    async def open_session(self, language: str = "python", **options: Any) -> Session:
        return await super().open_session(language, **{"engine": "kernel", **options})


@pytest.fixture(scope="module")
async def platform() -> AsyncIterator[Platform]:
    async with Kernels() as opened:
        yield opened


@pytest.fixture
async def session(platform: Platform) -> AsyncIterator[Session]:
    async with await platform.open_session("python", limits=shell.LIMITS) as opened:
        yield opened


class TestValues(shell.TestValues):
    pass


class TestDisplays(shell.TestDisplays):
    pass


class TestOutput(shell.TestOutput):
    """ipykernel gathers what is printed, for each stream, and sends text: less is promised here."""

    async def test_streams_come_in_the_order_in_which_they_were_written(self, session: Session):
        code = "import sys\nfor n in range(20): print(n); print(n, file=sys.stderr)"
        lines = "".join(f"{n}\n" for n in range(20))
        result = await session.run(code)

        assert (lines, lines) == (result.stdout, result.stderr)

    async def test_what_is_not_text_comes_as_it_is(self, session: Session):
        """As what it would be as text: a message is JSON."""
        result = await session.run("import os; _ = os.write(1, b'\\xff\\xfe')")

        assert "\ufffd\ufffd" == result.stdout


class TestErrors(shell.TestErrors):
    pass


class TestQuestions(shell.TestQuestions):
    pass


class TestMagics(shell.TestMagics):
    pass


class TestTurns(shell.TestTurns):
    pass


class TestTheLadder(shell.TestTheLadder):
    pass


class TestListeners(shell.TestListeners):
    pass


class TestRestarts(shell.TestRestarts):
    pass


class TestPreload(shell.TestPreload):
    pass
