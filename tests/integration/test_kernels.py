"""Jupyter kernels behind walls: in sessions, and for Jupyter's own clients."""

import gc
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import jupyter_kernel_test
import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook
from tests.integration.jupyter import installed

from saggar import Environment, Platform, Policy, Status
from saggar.engine.session import Session
from saggar.errors import InvalidTask, NotFound, PrepareFailed
from saggar.model.policy import Network

SOON = 20.0
EXAMPLE = Path(__file__).parents[2] / "examples" / "notebook" / "walls.ipynb"
pytestmark = [
    # Of Jupyter's own client: sockets that wait for the collector, and a loop it makes for itself.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
async def platform() -> AsyncIterator[Platform]:
    async with Platform() as opened:
        yield opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("jupyter")
    with installed(made):
        yield made


class TestSessions:
    @pytest.fixture
    async def session(self, platform: Platform) -> AsyncIterator[Session]:
        async with await platform.open_session(engine="kernel") as opened:
            yield opened

    async def test_it_is_ipykernel(self, session: Session):
        result = await session.run("get_ipython().kernel.__class__.__mro__[1].__module__")

        assert "ipykernel.ipkernel" == result.value

    async def test_no_path_leads_to_it(self, session: Session):
        """Neither on the host, where its sockets have no name any more, nor inside."""
        found = await session.run(
            "import glob; [line.split()[-1] for line in open('/proc/net/unix') if '/k-' in line]"
        )

        assert not list(filter(os.path.exists, found.value or ()))

    async def test_a_death_is_seen_at_once(self, session: Session):
        start = time.monotonic()
        result = await session.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")

        assert (True, "SIGKILL") == (result.session_reset, result.signal)
        assert 1 > time.monotonic() - start
        assert 2 == (await session.run("1 + 1")).value

    async def test_garbage_in_its_channels_costs_the_kernel_and_nothing_else(
        self, session: Session
    ):
        """A guest owns its end of every socket, and may write there what it likes."""
        code = """
import os, stat
for fd in map(int, os.listdir('/proc/self/fd')):
    try:
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            os.write(fd, bytes(range(256)) * 40)
    except OSError:
        pass
"""
        result = await session.run(code, timeout=3)

        assert result.session_reset
        assert 2 == (await session.run("1 + 1")).value

    async def test_a_message_that_is_too_long_is_dropped_whole(self, session: Session):
        code = """
kernel = get_ipython().kernel
kernel.session.send(kernel.iopub_socket, "stream", {"name": "stdout", "text": "x" * 20_000_000})
"""
        result = await session.run(code)

        assert (Status.OUTPUT, True) == (result.status, result.truncated)
        assert 2 == (await session.run("1 + 1")).value

    async def test_an_end_that_is_never_published_is_not_waited_for(self, session: Session):
        code = "get_ipython().kernel._publish_status = lambda *words, **named: None"
        with anyio.fail_after(SOON):
            await session.run(code)
            result = await session.run("1 + 1")

        assert (Status.OK, 2) == (result.status, result.value)

    async def test_children_that_print_are_heard_without_a_network(self, session: Session):
        code = """
import multiprocessing
child = multiprocessing.get_context("fork").Process(target=print, args=("child",))
child.start(); child.join()
"""
        assert "child" in (await session.run(code)).stdout


class TestOtherKernels:
    async def test_a_kernel_that_a_package_brings_runs_behind_a_bridge(self, platform: Platform):
        """xeus asks for the interfaces of its network, so there must be one."""
        environment, policy = (
            Environment(packages=("xeus-python",)),
            Policy(network=Network.LOOPBACK),
        )
        try:
            session = await platform.open_session(
                "xpython", engine="kernel", environment=environment, policy=policy
            )
        except PrepareFailed as exc:
            pytest.skip(f"xeus-python is not to be had here: {exc}")
        async with session:
            result = await session.run("print('said'); 6 * 7")
            with pytest.raises(InvalidTask, match="cannot say what was named"):
                await session.variables()
            with pytest.raises(InvalidTask, match="give them to the session"):
                await session.run("1", env={"A": "1"})
            failed = await session.run("1 / 0")
            gone = await session.run("import os; os._exit(3)")

            assert ("said\n", "42") == (result.stdout, result.displays[0].data["text/plain"])
            assert failed.error is not None
            assert "division by zero" == failed.error.message
            assert (True, 3) == (gone.session_reset, gone.exit_code)
            assert ("print",) == (await session.complete("pri")).matches

    async def test_a_kernel_there_is_not_is_named_with_those_there_are(self, platform: Platform):
        with pytest.raises(NotFound, match="python"):
            await platform.open_session("nowhere", engine="kernel")


@pytest.mark.usefixtures("folder")
class TestNotebooks:
    def test_the_example_runs_behind_walls(self):
        notebook = nbformat.read(EXAMPLE, 4)
        NotebookClient(notebook, kernel_name="saggar", timeout=30).execute()
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        kinds = [output.output_type for output in outputs]

        assert "image/svg+xml" in {kind for output in outputs for kind in output.get("data", {})}
        assert "no network" in outputs[1].text
        assert ["error", "stream"] == kinds[-2:]

    def test_a_notebook_finds_nothing_of_the_host(self, tmp_path: Path):
        secret = tmp_path / "secret.txt"
        secret.write_text("the host's")
        os.environ["SAGGAR_TEST_SECRET"] = "the host's"
        code = f"""
import json, os
json.dumps([os.path.exists({str(secret)!r}), os.environ.get("SAGGAR_TEST_SECRET"),
            os.getcwd(), {os.getpid()} in [int(n) for n in os.listdir("/proc") if n.isdecimal()]])
"""
        try:
            notebook = new_notebook(cells=[new_code_cell(code)])
            NotebookClient(notebook, kernel_name="saggar", timeout=30).execute()
        finally:
            del os.environ["SAGGAR_TEST_SECRET"]
        (output,) = notebook.cells[0].outputs

        assert [False, None, "/work", False] == json.loads(eval(output.data["text/plain"]))

    def test_an_error_ends_a_notebook_as_ever(self):
        notebook = new_notebook(cells=[new_code_cell("1 / 0")])

        with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
            NotebookClient(notebook, kernel_name="saggar", timeout=30).execute()


@pytest.mark.usefixtures("folder")
class TestClients:
    @pytest.fixture
    def manager(self) -> Iterator[KernelManager]:
        manager = KernelManager(kernel_name="saggar")
        manager.start_kernel()
        yield manager
        manager.shutdown_kernel(now=True)
        gc.collect()

    def test_a_restart_is_found_by_who_was_connected(self, manager: KernelManager):
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=SOON)
        client.execute_interactive("x = 1", timeout=SOON)
        manager.restart_kernel(now=True)
        client.wait_for_ready(timeout=SOON)
        reply = client.execute_interactive("x", timeout=SOON, output_hook=lambda _: None)
        client.stop_channels()

        assert "NameError" == reply["content"]["ename"]

    def test_a_busy_kernel_is_interrupted(self, manager: KernelManager):
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=SOON)
        client.execute("while True: pass")
        while client.get_iopub_msg(timeout=SOON)["msg_type"] != "execute_input":
            pass
        manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=SOON)
        while reply["msg_type"] != "execute_reply":
            reply = client.get_shell_msg(timeout=SOON)
        client.stop_channels()

        assert "KeyboardInterrupt" == reply["content"]["ename"]

    def test_a_death_is_seen_and_nothing_is_left_after_the_end(self, manager: KernelManager):
        place = Path(manager.ip).parent
        assert manager.is_alive()
        assert place.stat().st_mode & 0o777 == 0o700
        manager.signal_kernel(9)
        until = time.monotonic() + SOON
        while manager.is_alive() and time.monotonic() < until:
            pass
        manager.shutdown_kernel(now=True)

        assert not manager.is_alive()
        assert not place.exists()


@pytest.mark.usefixtures("folder")
class TestProtocol(jupyter_kernel_test.KernelTests):
    """What Jupyter asks of every kernel, asked of ours through the provisioner."""

    kernel_name = "saggar"
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    completion_samples = [{"text": "zi", "matches": {"zip"}}]  # noqa: RUF012 - unittest's
    complete_code_samples = ["1", "def f(x):\n  return x*2\n\n\n"]  # noqa: RUF012
    incomplete_code_samples = ["print('''hello", "def f(x):\n  x*2"]  # noqa: RUF012
    invalid_code_samples = ["import = 7q"]  # noqa: RUF012
    code_page_something = "zip?"
    code_generate_error = "raise"
    code_execute_result = [{"code": "1+2+3", "result": "6"}]  # noqa: RUF012
    code_display_data = [  # noqa: RUF012
        {
            "code": "from IPython.display import HTML, display; display(HTML('x'))",
            "mime": "text/html",
        }
    ]
    code_clear_output = "from IPython.display import clear_output; clear_output()"
    code_history_pattern = "1?2*"
    supported_history_operations = ("tail", "search")
    code_inspect_sample = "zip"
