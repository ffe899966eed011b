"""
The executor instance over real HTTP, on each of its engines.

One instance serves all tests of an engine: that it goes on after each of them is part of what is
tested.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import anyio
import httpx
import pytest
from tests.conftest import missing
from tests.unit.server.serving import ROOT, server

from saggar.compat.outputs import OUTSIDE
from saggar.errors import PlatformError
from saggar.platform import Platform

SAGGAR = ("-m", "saggar", "instance")
EXAMPLE = ROOT / "examples" / "instance"
PROCESSED = "Processed: [2, 6, 8, 10]\nStats: {'sum': 26, 'avg': 6.5, 'count': 4}\nTotal: $26.00\n"
RESET = "; the session was reset: what it remembered is gone"
FILES = {
    "b_second.py": "from helpers import half\nquarter = half(first) / 2\nprint('second loaded')",
    "a_first.py": "first = 100\nprint('first loaded')",
    "c_broken.py": "before = 1\nraise ValueError('on purpose')",
    "d_last.py": "last = quarter + before",
    "helpers.py": "def half(x):\n    return x / 2",
    "notes.txt": "not Python",
}


@pytest.fixture(scope="module", params=["shell", "kernel"])
def engine(request):
    if request.param == "kernel" and (reason := anyio.run(unopened, "kernel")):
        missing(f"no session of engine kernel: {reason}")
    return request.param


async def unopened(engine):
    """Why there is no session of that engine here; empty if there is one."""
    async with Platform() as platform:
        try:
            async with await platform.open_session("python", engine=engine):
                return ""
        except PlatformError as exc:
            return str(exc)


class Client:
    """Whoever uses an instance."""

    def __init__(self, running, log):
        self.running = running
        self.log = log
        self.http = httpx.Client(base_url=running.url, timeout=30)

    def execute(self, code):
        answer = self.http.post("/execute", json={"code": code})
        assert 200 == answer.status_code, answer.text
        return answer.json()["outputs"]

    def printed(self, code):
        return "".join(each["text"] for each in self.execute(code) if each["type"] == "stream")

    def error(self, code):
        """The one error that an execution ends in."""
        *_, last = self.execute(code)
        assert "error" == last["type"], last
        return last

    def ready(self):
        return self.http.get("/ready").json()

    def until_ready(self):
        deadline = time.monotonic() + 30
        while not (found := self.ready())["ready"]:
            assert time.monotonic() < deadline, found
        return found


@contextmanager
def instance(folder, *words, env=None, log=None):
    environment = {"WORKSPACE_FOLDER": str(folder), **(env or {})}
    with server("--port", "0", *words, command=SAGGAR, env=environment, log=log) as running:
        client = Client(running, log)
        with client.http:
            client.until_ready()
            yield client


@pytest.fixture(scope="module")
def used(engine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("code")
    for name, source in FILES.items():
        (folder / name).write_text(source)
    log = tmp_path_factory.mktemp("log") / "stdout"
    with instance(folder, "--engine", engine, "--timeout", "2s", log=log) as client:
        yield client


def test_it_is_healthy_and_ready(used):
    assert {"status": "ok"} == used.http.get("/health").json()
    assert {"restarting": False} == used.http.get("/restart-status").json()
    assert True is used.ready()["ready"]


def test_a_session_remembers(used):
    assert [] == used.execute("x = 40")
    assert [{"type": "result", "data": {"text/plain": "42"}}] == used.execute("x + 2")


def test_neighbouring_text_of_one_stream_is_one_output(used):
    # Flushed: Jupyter's kernel keeps an order within each stream only.
    code = (
        "import sys\nprint('a'); print('b', flush=True)\n"
        "print('c', file=sys.stderr, flush=True)\nprint('d')"
    )

    assert [
        {"type": "stream", "name": "stdout", "text": "a\nb\n"},
        {"type": "stream", "name": "stderr", "text": "c\n"},
        {"type": "stream", "name": "stdout", "text": "d\n"},
    ] == used.execute(code)


def test_what_children_print_is_there_too(used):
    assert "from a child\n" == used.printed("import os; os.system('echo from a child');")


def test_a_display_keeps_all_its_media_types(used):
    code = (
        "from IPython.display import display\n"
        "display({'text/plain': 'a', 'text/html': '<b>a</b>'}, raw=True, metadata={'n': 1})"
    )

    assert [
        {
            "type": "display",
            "data": {"text/plain": "a", "text/html": "<b>a</b>"},
            "metadata": {"n": 1},
        }
    ] == used.execute(code)


def test_what_was_updated_or_cleared_is_shown_as_it_is_at_the_end(used):
    updated = (
        "from IPython.display import display\n"
        "shown = display({'text/plain': 'one'}, raw=True, display_id=True)\n"
        "shown.update({'text/plain': 'two'}, raw=True)"
    )
    cleared = (
        "from IPython.display import clear_output\n"
        "print('one'); clear_output(wait=True); print('two')"
    )

    assert ["two"] == [each["data"]["text/plain"] for each in used.execute(updated)]
    assert "two\n" == used.printed(cleared)


def test_a_guests_error_is_an_output(used):
    found = used.error("print('before')\n1/0")

    assert ("ZeroDivisionError", "division by zero") == (found["name"], found["value"])
    assert any("1/0" in line for line in found["traceback"])


def test_what_takes_too_long_is_interrupted_and_nothing_is_forgotten(used):
    used.execute("kept = 7")
    found = used.error("while True: pass")

    assert ("TimeoutError", "Execution timed out after 2 seconds") == (
        found["name"],
        found["value"],
    )
    assert "7\n" == used.printed("print(kept)")


def test_what_cannot_be_interrupted_is_ended_and_that_is_said(used):
    code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    found = used.error(code)

    assert "Execution timed out after 2 seconds" == found["value"]
    assert RESET.removeprefix("; ") == found["traceback"][-1]


@pytest.mark.parametrize(
    ("code", "name", "said"),
    [
        ("import os; os._exit(3)", "KernelDied", "the interpreter ended with exit code 3"),
        (
            "import os; os.kill(os.getpid(), 9)",
            "KernelDied",
            "the interpreter was killed by SIGKILL" + OUTSIDE,
        ),
        (
            "import ctypes; ctypes.string_at(0)",
            "KernelDied",
            "the interpreter was killed by SIGSEGV",
        ),
        (
            "hoard = bytearray(2_000_000_000)",
            "MemoryError",
            "out of memory (OOM): more than 256 MiB were used",
        ),
    ],
)
def test_the_death_of_the_interpreter_is_named_and_the_next_one_has_the_files(
    used, code, name, said
):
    used.execute("forgotten = 1")
    found = used.error(code)

    assert (name, said + RESET) == (found["name"], found["value"])
    assert "NameError" == used.error("forgotten")["name"]
    assert "100\n" == used.printed("print(first)")


def test_files_are_loaded_in_order_and_import_each_other(used):
    assert "100 25.0 26.0\n" == used.printed("print(first, quarter, last)")


def test_a_file_that_fails_is_named_and_the_others_are_loaded(used):
    found = used.until_ready()

    assert "c_broken.py: ValueError: on purpose" in found["reason"]
    assert "1\n" == used.printed("print(before)")


def test_what_loaded_files_print_goes_to_the_log(used):
    log = used.log.read_text()

    assert log.index("first loaded") < log.index("second loaded") < log.index("on purpose")
    assert "" == used.printed("pass")


def test_a_restart_forgets_all_but_the_files(used):
    used.execute("forgotten = 1")
    first = used.http.post("/restart").json()
    meanwhile = used.http.get("/restart-status").json(), used.ready()
    second = used.http.post("/restart").json()

    # Sent while it restarts: it waits.
    assert "100\n" == used.printed("print(first)")
    assert {"status": "restarting"} == first
    assert ({"restarting": True}, {"ready": False, "reason": "kernel_restarting"}) == meanwhile
    assert {"status": "already_restarting"} == second
    assert "NameError" == used.error("forgotten")["name"]


def test_a_restart_ends_what_runs_and_what_waits(used):
    with ThreadPoolExecutor() as pool:
        told = lines(used, "print('begun', flush=True)\nimport time; time.sleep(60)")
        assert "begun\n" == next(told)["text"]
        waiting = pool.submit(used.error, "1")
        with httpx.Client(base_url=used.running.url) as other:
            assert {"status": "restarting"} == other.post("/restart").json()
        *_, running = told

    assert "Cancelled" == running["name"]
    assert "Cancelled" == waiting.result(20)["name"]
    assert "100\n" == used.printed("print(first)")


def test_the_documents_request_is_taken_as_it_is_printed(engine, tmp_path):
    content = (EXAMPLE / "request.json").read_bytes()
    with instance(EXAMPLE / "my_utilities", "--engine", engine) as client:
        headers = {"Content-Type": "application/json"}
        answer = client.http.post("/execute", content=content, headers=headers)

    assert b'"code": "\n' in content
    assert [{"type": "stream", "name": "stdout", "text": PROCESSED}] == answer.json()["outputs"]


@pytest.mark.needs("curl")
def test_the_example_runs():
    command = {"SAGGAR": f"{sys.executable} -m saggar"}
    ran = subprocess.run(
        [EXAMPLE / "demo"], env=os.environ | command, capture_output=True, timeout=50, check=True
    )

    (printed,) = json.loads(ran.stdout)["outputs"]
    assert PROCESSED == printed["text"]


def lines(used, code):
    with used.http.stream("POST", "/execute?stream=1", json={"code": code}) as answer:
        assert "application/x-ndjson" == answer.headers["content-type"]
        for line in answer.iter_lines():
            yield json.loads(line)


def test_a_stream_tells_what_happens_as_it_happens(used):
    code = "print('one', flush=True)\nimport time; time.sleep(0.5)\nprint('two')\n3"
    begun = time.monotonic()
    found = [(time.monotonic() - begun, each) for each in lines(used, code)]

    assert [
        {"type": "stream", "name": "stdout", "text": "one\n"},
        {"type": "stream", "name": "stdout", "text": "two\n"},
        {"type": "result", "data": {"text/plain": "3"}},
    ] == [each for _, each in found]
    assert found[1][0] - found[0][0] > 0.3


def test_a_stream_ends_with_the_error(used):
    *_, last = lines(used, "print('x')\n1/0")

    assert ("error", "ZeroDivisionError") == (last["type"], last["name"])


@pytest.mark.parametrize("query", ["", "?stream=1"])
def test_a_caller_who_leaves_interrupts_his_run_and_no_more(used, query):
    used.execute("kept = 8; done = False")
    body = json.dumps({"code": "import time\nwhile True: time.sleep(0.01)\ndone = True"}).encode()
    head = f"POST /execute{query} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", used.running.port), 10) as link:
        link.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)

    assert "8 False\n" == used.printed("print(kept, done)")
    assert time.monotonic() - begun < 2, "it was the deadline that ended it"


def test_a_hundred_callers_of_one_session_are_served_one_after_the_other(used):
    used.execute("order = []; inside = 0; most = 0")
    code = (
        "inside += 1; most = max(most, inside); order.append({n})\nprint({n}, len(order))\n"
        "inside -= 1"
    )
    with ThreadPoolExecutor(100) as pool:
        printed = list(pool.map(lambda n: used.printed(code.replace("{n}", str(n))), range(100)))

    places = [int(text.split()[1]) for text in printed]
    assert [str(n) for n in range(100)] == [text.split()[0] for text in printed]
    assert list(range(1, 101)) == sorted(places)
    assert "1 100\n" == used.printed("print(most, len(set(order)))")


def test_more_output_than_is_kept_ends_the_execution_and_not_the_session(used):
    used.execute("kept = 9")
    found = used.execute("for _ in range(10**5): print('x' * 1000)")

    assert found[-1]["type"] == "error"
    assert sum(len(each.get("text", "")) for each in found) <= 1 << 20
    after = used.execute("print(kept)")
    assert [("stream", "9\n")] == [(each["type"], each.get("text")) for each in after], found[-1]


def test_a_caller_who_does_not_read_holds_up_nobody(used):
    body = json.dumps({"code": "for _ in range(900): print('x' * 1000)"}).encode()
    head = f"POST /execute?stream=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    with socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.connect(("127.0.0.1", used.running.port))
        link.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        begun = time.monotonic()

        assert "next\n" == used.printed("print('next')")
        assert time.monotonic() - begun < 1.5, "it waited for the deadline of the one before"


@pytest.mark.needs("curl", "bash")
def test_the_commands_of_the_guide_do_what_it_says(used):
    guide = (ROOT / "docs" / "instance.md").read_text()
    blocks = re.findall(r"```bash\n(curl.*?)```", guide, re.DOTALL)
    answers = [
        subprocess.run(
            ["bash", "-c", block.replace("http://localhost:8432", used.running.url)],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
        for block in blocks
    ]

    plain, printed, stream, restarted = answers
    assert plain.strip() in guide
    assert '{"outputs":[{"type":"stream","name":"stdout","text":"3\\n"}]}' == printed
    assert [f"{n}\n" for n in range(3)] == [
        json.loads(line).get("text") for line in stream.splitlines()
    ]
    # It may be over by the time that somebody asks.
    assert restarted.startswith('{"status":"restarting"}{"restarting":')


def test_nothing_of_this_machine_is_within_reach(used):
    code = (
        "import os, socket\n"
        "print([k for k in os.environ if 'SAGGAR' in k], os.path.exists('/root/.ssh'))\n"
        f"socket.create_connection(('127.0.0.1', {used.running.port}), 2)"
    )
    *_, refused = found = used.execute(code)

    assert "[] False\n" == found[0]["text"]
    assert "OSError" in refused["name"] or "Error" in refused["name"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "bad-request"),
        (b"[]", 422, "invalid-task"),
        (b'{"cod": "1"}', 422, "invalid-task"),
        (b'{"code": 1}', 422, "invalid-task"),
        (b'{"code": "1", "timeout": 99}', 422, "invalid-task"),
    ],
)
def test_a_body_that_does_not_fit_is_a_problem(used, body, status, code):
    headers = {"Content-Type": "application/json"}
    answer = used.http.post("/execute", content=body, headers=headers)

    assert (status, code) == (answer.status_code, answer.json()["code"])


@pytest.mark.parametrize("path", ["/ready", "/execute", "/restart", "/restart-status", "/else"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Host": "evil.example"}, 403), ({"Origin": "http://evil.example"}, 403)],
)
def test_every_door_is_closed_to_pages_of_others(used, path, headers, status):
    for method in ("GET", "POST"):
        assert status == used.http.request(method, path, headers=headers).status_code


def test_a_form_of_some_page_executes_nothing(used):
    answer = used.http.post("/execute", data={"code": "1"})

    assert 415 == answer.status_code


def test_a_key_is_asked_for_at_every_door_but_health(tmp_path):
    with server("--port", "0", command=SAGGAR, env={"SAGGAR_KEY": "k" * 20}) as running:
        found = {
            path: httpx.request(method, f"{running.url}{path}").status_code
            for method, path in [
                ("GET", "/health"),
                ("GET", "/ready"),
                ("POST", "/execute"),
                ("POST", "/restart"),
                ("GET", "/restart-status"),
                ("GET", "/openapi.json"),
            ]
        }

        assert 200 == found.pop("/health")
        assert {401} == set(found.values())
        assert 0 == running.end()


def test_sigterm_ends_it_with_all_that_runs_in_it(tmp_path):
    log = tmp_path / "log"
    with instance(tmp_path, log=log) as client, ThreadPoolExecutor() as pool:
        pool.submit(client.http.post, "/execute", json={"code": "import time; time.sleep(60)"})
        children = descendants(client.running.process.pid)
        code = client.running.end()

    assert children
    assert 0 == code
    assert not [pid for pid in children if os.path.exists(f"/proc/{pid}")]


def descendants(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"PORT": "many"}, "wanted a number up to 65535, found 'many'"),
        ({"EXECUTION_TIMEOUT": "soon"}, "EXECUTION_TIMEOUT: wanted a time"),
        ({"EXECUTION_MEMORY": "lots"}, "EXECUTION_MEMORY: wanted a size"),
        ({"EXECUTION_CPUS": "-1"}, "EXECUTION_CPUS: must be greater than 0"),
        ({"EXECUTION_ISOLATION": "strong"}, "EXECUTION_ISOLATION: must be"),
        ({"EXECUTION_BEST_EFFORT": "all"}, "no limit named 'all'"),
        ({"WORKSPACE_FOLDER": "/nowhere"}, "WORKSPACE_FOLDER: '/nowhere' is not a folder"),
        ({"SAGGAR_ENGINE": "steam"}, "SAGGAR_ENGINE: must be 'shell' or 'kernel'"),
    ],
)
def test_a_variable_that_does_not_fit_is_named(env, said):
    ran = subprocess.run(
        [sys.executable, *SAGGAR],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (2, True) == (ran.returncode, said in ran.stderr), ran.stderr


def test_without_a_key_it_does_not_listen_for_others():
    words = [sys.executable, *SAGGAR, "--host", "0.0.0.0", "--port", "0"]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)

    assert (2, True) == (ran.returncode, "SAGGAR_INSECURE_BIND=1" in ran.stderr)


def test_walls_that_are_too_weak_are_a_reason_not_to_start():
    words = [sys.executable, *SAGGAR, "--driver", "process", "--port", "0"]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)

    assert 70 == ran.returncode
    assert "process builds no walls, so it cannot keep isolation 'jail'" in ran.stderr
