"""The worker of RunPod's protocol, and baked mode, behind real walls."""

import asyncio
import base64
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from textwrap import dedent
from typing import Any

import cloudpickle
import httpx
import pytest
from tests.conftest import ROOT

from saggar.compat.runpod import FunctionRequest
from saggar.compat.runpod_baked import BakedExecutor
from saggar.compat.runpod_worker import Worker, terms
from saggar.errors import InvalidTask, UsageError
from saggar.functions import bake
from saggar.functions.kept import Kept

PATIENCE = 30


@pytest.fixture(scope="module")
def worker():
    return Worker(terms({"EXECUTION_TIMEOUT": "20s", "EXECUTION_MEMORY": "512MiB"}))


def enc(value):
    return base64.b64encode(cloudpickle.dumps(value)).decode()


def dec(text):
    return pickle.loads(base64.b64decode(text))


def done(worker, **said):
    return asyncio.run(worker.handle({"input": said}))


def called(worker, code, *args, form="json", **said):
    given = list(args) if form == "json" else [enc(value) for value in args]
    said = {"serialization_format": form, **said}
    return done(worker, function_name="f", function_code=dedent(code), args=given, **said)


def method(worker, code, name, *args, **said):
    said = {"create_new_instance": False, "serialization_format": "json", **said}
    return done(
        worker,
        execution_type="class",
        class_name="C",
        class_code=dedent(code),
        method_name=name,
        args=list(args),
        **said,
    )


COUNTER = """
    class C:
        def __init__(self, n=0):
            self.n = n
        def add(self):
            self.n += 1
            return self.n
        async def later(self):
            return self.n
        def exit(self):
            raise SystemExit(3)
        def die(self):
            import os
            os._exit(3)
"""


def test_arguments_and_answers_are_pickles_that_the_host_never_opens(worker):
    code = "class Point:\n    x = 1\ndef f(a):\n    return Point, {*a}"
    kind, found = dec(called(worker, code, (1, 2), form="cloudpickle")["result"])

    assert 1 == kind.x
    assert {1, 2} == found


def test_an_answer_that_is_none_is_a_pickle_of_none(worker):
    assert None is dec(called(worker, "def f(): pass", form="cloudpickle")["result"])


def test_json_is_answered_with_json(worker):
    answer = called(worker, "async def f(a): return [a]", {"k": None})

    assert ([{"k": None}], None) == (answer["json_result"], answer["result"])


def test_an_answer_without_json_form_keeps_what_was_printed(worker):
    answer = called(worker, "def f():\n    print('here')\n    return object()")

    assert not answer["success"]
    assert "not JSON serializable" in answer["error"]
    assert answer["stdout"].endswith("\n\nhere\n")


def test_an_answer_that_does_not_pickle_keeps_what_was_printed(worker):
    code = "def f():\n    print('here')\n    import threading\n    return threading.Lock()"
    answer = called(worker, code, form="cloudpickle")

    assert "cannot pickle" in answer["error"]
    assert "here" in answer["stdout"]


def test_an_error_is_its_text_and_a_traceback_of_the_users_lines(worker):
    answer = called(worker, "def f():\n    raise ValueError('too hot')")

    assert answer["error"].startswith("too hot\nTraceback (most recent call last):\n")
    assert answer["error"].endswith("raise ValueError('too hot')\nValueError: too hot\n")
    assert "saggar" not in answer["error"]


def test_a_function_that_is_not_there_is_an_error(worker):
    answer = called(worker, "def g(): ...")

    assert "Function 'f' not found in the provided code" == answer["error"]


def test_printing_below_python_and_by_children_is_captured(worker):
    code = """
        def f():
            import os, subprocess, sys
            os.write(1, b"below\\n")
            subprocess.run([sys.executable, "-c", "print('of a child')"], check=True)
    """
    answer = called(worker, code)

    assert {"below", "of a child"} <= set(answer["stdout"].splitlines())


@pytest.mark.parametrize(
    "end", ["os._exit(3)", "os.kill(os.getpid(), 9)", "raise SystemExit(3)", "os.abort()"]
)
def test_code_that_ends_its_process_fails_and_the_worker_goes_on(worker, end):
    answer = called(worker, f"def f():\n    import os\n    print('before', flush=True)\n    {end}")

    assert not answer["success"]
    assert answer["error"]
    assert answer["stdout"].endswith("before\n")
    assert 2 == called(worker, "def f(): return 2")["json_result"]


@pytest.mark.parametrize("lie", ["'[' * 99_999 + ']' * 99_999", "'NaN'", "'{'", "chr(0xd800)"])
def test_a_guest_that_lies_about_its_json_fails_and_nothing_else_does(worker, lie):
    code = f"import json\njson.dumps = lambda *_, **__: {lie}\ndef f(): return 1"
    answer = called(worker, code)

    assert (False, None) == (answer["success"], answer["json_result"])
    assert answer["error"]


def test_two_jobs_at_once_do_not_mix_what_they_print(worker):
    code = "import time\ndef f(a):\n    for _ in range(20):\n        print(a); time.sleep(.005)"

    async def both():
        said = [
            {"function_name": "f", "function_code": code, "args": [name]} for name in ("a", "b")
        ]
        events = [{"input": {**one, "serialization_format": "json"}} for one in said]
        return await asyncio.gather(*map(worker.handle, events))

    printed = [answer["stdout"].split("\n\n", 1)[1] for answer in asyncio.run(both())]
    assert ["a\n" * 20, "b\n" * 20] == printed


def test_time_has_an_end():
    worker = Worker(terms({"EXECUTION_TIMEOUT": "1s"}))
    answer = called(worker, "def f():\n    while True: pass")

    assert "timeout (wall)" in answer["error"]


def test_modules_come_along(worker):
    modules = {"kilns/__init__.py": "", "kilns/heat.py": "CONE = 9"}
    answer = called(worker, "from kilns.heat import CONE\ndef f(): return CONE", modules=modules)

    assert 9 == answer["json_result"]


def test_a_module_that_escapes_is_refused(worker):
    answer = called(worker, "def f(): ...", modules={"../../tmp/evil.py": "1"})

    assert answer["error"].startswith("Error in handler: modules: ")


def test_nothing_of_the_worker_is_seen(worker, monkeypatch):
    monkeypatch.setenv("RUNPOD_API_KEY", "a-key-of-this-test")
    code = """
        def f():
            import os, glob
            seen = []
            for name in glob.glob("/proc/[0-9]*/environ"):
                try:
                    seen.append(open(name, "rb").read())
                except PermissionError:
                    pass
            return ["RUNPOD_API_KEY" in os.environ, any(b"a-key" in one for one in seen)]
    """

    assert [False, False] == called(worker, code)["json_result"]


def test_what_cannot_be_prepared_stops_the_call(worker):
    answer = called(worker, "def f(): ...", dependencies=["--index-url=http://evil.example"])

    assert answer["error"].startswith("Failed tasks: python_dependencies: ")


def test_an_instance_stays_for_the_next_job(worker):
    said = {"instance_id": "C_stays", "constructor_args": [5]}
    counts = [method(worker, COUNTER, "add", **said) for _ in range(3)]
    read = method(worker, COUNTER, "later", **said)

    assert [6, 7, 8, 8] == [answer["json_result"] for answer in (*counts, read)]
    about = read["instance_info"]
    assert ("C", 4) == (about["class_name"], about["method_calls"])
    assert about["created_at"] < about["last_used"]
    assert not about["created_at"].endswith(("Z", "+00:00"))


def test_an_instance_without_a_name_gets_one(worker):
    found = method(worker, COUNTER, "add")["instance_id"]

    assert ("C_", 10) == (found[:2], len(found))


def test_a_new_instance_may_be_asked_for(worker):
    said = {"instance_id": "C_again", "create_new_instance": True}
    counts = [method(worker, COUNTER, "add", **said)["json_result"] for _ in range(2)]

    assert [1, 1] == counts


def test_whoever_names_an_instance_with_other_code_does_not_get_it(worker):
    method(worker, COUNTER, "add", instance_id="C_theirs")
    thief = "class C:\n    def add(self): return getattr(self, 'n', None)"

    assert None is method(worker, thief, "add", instance_id="C_theirs")["json_result"]


def test_an_instance_survives_an_exit_and_is_made_again_after_its_end(worker):
    said = {"instance_id": "C_dies"}
    method(worker, COUNTER, "add", **said)
    exited = method(worker, COUNTER, "exit", **said)
    after_exit = method(worker, COUNTER, "add", **said)
    died = method(worker, COUNTER, "die", **said)
    after_death = method(worker, COUNTER, "add", **said)

    assert [False, False] == [exited["success"], died["success"]]
    assert [2, 1] == [after_exit["json_result"], after_death["json_result"]]


def test_a_method_that_is_not_there_is_named(worker):
    answer = method(worker, COUNTER, "subtract", instance_id="C_lacks")

    assert "Method 'subtract' not found in class 'C'" == answer["error"]


def test_of_too_many_instances_the_longest_unused_ends():
    worker = Worker(terms({}), kept=Kept(most=2))
    for name in ("one", "two", "one", "three"):
        method(worker, COUNTER, "add", instance_id=name)

    assert 3 == method(worker, COUNTER, "add", instance_id="one")["json_result"]
    assert 1 == method(worker, COUNTER, "add", instance_id="two")["json_result"]


def test_an_instance_that_nobody_calls_ends():
    kept = Kept(idle=0.01)
    worker = Worker(terms({}), kept=kept)
    method(worker, COUNTER, "add", instance_id="C_idle")
    live = kept.find("C_idle").live
    deadline = time.monotonic() + PATIENCE
    while not live.closed and time.monotonic() < deadline:
        time.sleep(0.05)

    assert live.closed
    assert 1 == method(worker, COUNTER, "add", instance_id="C_idle")["json_result"]


def test_calls_of_one_instance_take_turns(worker):
    code = """
        class C:
            n = 0
            def add(self):
                import time
                n = self.n
                time.sleep(0.02)
                self.n = n + 1
                return self.n
    """

    async def many():
        said = {"class_name": "C", "class_code": dedent(code), "method_name": "add"}
        event = {
            **said,
            "execution_type": "class",
            "instance_id": "C_turns",
            "create_new_instance": False,
            "serialization_format": "json",
        }
        return await asyncio.gather(*(worker.handle({"input": event}) for _ in range(5)))

    assert [1, 2, 3, 4, 5] == sorted(answer["json_result"] for answer in asyncio.run(many()))


# Baked.


APP = """
    import loads
    from saggar.functions.remote import remote

    @remote
    async def double(x: int) -> int:
        print("doubling")
        return 2 * x

    @remote
    class Counter:
        def __init__(self, n=0): self.n = n
        def add(self):
            self.n += 1
            return self.n

    def times(): return loads.times()
    def die():
        import os
        os._exit(1)
    def lie() -> int: return "many"
    __baked__ = ["times", "die", "lie"]
"""
LOADS = "_times = []\ndef times():\n    _times.append(1)\n    return len(_times)\n"


@pytest.fixture(scope="module")
def baked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    (folder / "app.py").write_text(dedent(APP))
    (folder / "loads.py").write_text(LOADS)
    output = tmp_path_factory.mktemp("workspace") / "baked_code"
    found, beside = bake.collect(folder / "app.py")
    bake.write(folder / "app.py", output, found, beside)
    bake.register(output, found, {})
    return output


@pytest.fixture(scope="module")
def executor(baked):
    return BakedExecutor(baked.parent)


def named(executor, name, *args, **said):
    return executor.execute(
        FunctionRequest(
            function_name=name, baked=True, args=args, serialization_format="json", **said
        )
    )


def test_a_baked_function_is_called_by_its_name(executor):
    answer = named(executor, "double", 21)

    assert (True, 42) == (answer.success, answer.json_result)
    assert answer.stdout.endswith("\n\ndoubling\n")
    assert executor.is_baked("double")


def test_its_module_is_imported_once(executor):
    assert [1, 2, 3] == [named(executor, "times").json_result for _ in range(3)]


def test_it_can_be_called_inside_a_running_loop(executor):
    async def inside():
        return named(executor, "double", 1)

    assert 2 == asyncio.run(inside()).json_result


def test_its_log_says_what_happens(executor, baked, caplog):
    caplog.set_level("INFO")
    fresh = BakedExecutor(baked.parent)
    named(fresh, "double", 1)

    assert [
        "Initialized BakedExecutor with 5 registered callables",
        "Executing baked function: double",
        "Importing baked module: baked_code.app",
        "Loaded baked callable: double from baked_code.app",
    ] == [record.getMessage() for record in caplog.records if "saggar" in record.name]


def test_a_baked_class_keeps_its_instances(executor):
    request = FunctionRequest(
        execution_type="class",
        class_name="Counter",
        method_name="add",
        constructor_args=[5],
        instance_id="Counter_1",
        create_new_instance=False,
        serialization_format="json",
        baked=True,
    )
    answers = [executor.execute(request) for _ in range(2)]

    assert [6, 7] == [answer.json_result for answer in answers]
    assert ("Counter_1", 2) == (
        answers[1].instance_id,
        answers[1].instance_info["method_calls"],
    )
    assert "Reusing existing instance: Counter_1" in answers[1].stdout


def test_one_that_dies_is_there_again(executor):
    assert not named(executor, "die").success
    assert not named(executor, "die").success
    assert named(executor, "double", 1).success


def test_arguments_and_answers_keep_to_their_schemas(executor):
    assert 'double: at /x: "1" is not of type "integer"' == named(executor, "double", "1").error
    assert "its answer is not as its schema has it" in named(executor, "lie").error


def test_what_was_not_baked_is_not_found(executor):
    assert "Function 'fire' not found in baked registry" == named(executor, "fire").error


def test_a_callable_is_loaded_by_module_and_name(executor):
    assert 8 == executor._load_callable("baked_code.app", "double")(4)
    with pytest.raises(ImportError, match="Failed to import baked module 'os'"):
        executor._load_callable("os", "system")
    with pytest.raises(AttributeError, match=r"Callable 'x' not found in module 'baked_code.app'"):
        executor._load_callable("baked_code.app", "x")


def test_a_folder_without_init_and_of_another_name_works(tmp_path):
    folder = tmp_path / "anything"
    folder.mkdir()
    (folder / "test.py").write_text("def test_func():\n    return 'Hello from baked code!'\n")
    entry = {"type": "function", "module": "baked_code.test", "name": "test_func"}
    (folder / "registry.json").write_text(json.dumps({"test_func": entry}))
    executor = BakedExecutor(None, folder / "registry.json")

    assert "Hello from baked code!" == named(executor, "test_func").json_result


def test_an_entry_that_asks_for_the_hosts_files_is_denied(tmp_path):
    (tmp_path / "main.py").write_text("def f(): return open('/hosts/shadow').read()\n")
    mount = {"source": "/etc", "target": "/hosts"}
    entry = {
        "type": "function",
        "module": "baked_code.main",
        "name": "f",
        "environment": {"mounts": [mount]},
    }
    (tmp_path / "registry.json").write_text(json.dumps({"f": entry}))
    executor = BakedExecutor(None, tmp_path / "registry.json")

    assert "environment.mounts: /etc was asked for" in named(executor, "f").error


def test_a_file_that_is_changed_while_it_serves_is_not_loaded(tmp_path):
    (tmp_path / "main.py").write_text("__baked__ = ['f']\ndef f(): return 1\n")
    output = tmp_path / "out"
    found, beside = bake.collect(tmp_path / "main.py")
    bake.write(tmp_path / "main.py", output, found, beside)
    bake.register(output, found, {})
    executor = BakedExecutor(None, output / "registry.json")
    (output / "main.py").write_text("def f(): return 'evil'\n")

    assert "is not what was baked" in named(executor, "f").error
    with pytest.raises(InvalidTask, match="is not what was baked"):
        BakedExecutor(None, output / "registry.json")


@pytest.fixture
def production(baked):
    return Worker(terms({}), registry=baked / "registry.json")


def test_in_production_every_request_with_more_than_a_name_is_refused(production):
    code = called(production, "def f(): return 1")
    pickled = done(production, function_name="double", args=[enc(1)])
    packages = done(production, function_name="double", dependencies=["numpy"])

    assert "came with code" in code["error"]
    assert "came with pickled arguments" in pickled["error"]
    assert "came with dependencies" in packages["error"]


def test_in_production_clients_that_send_no_code_need_no_word_for_it(production):
    answer = done(production, function_name="double", args=[4], serialization_format="json")

    assert 8 == answer["json_result"]
    assert "Using baked execution for double" in answer["stdout"]


def test_without_strictness_code_is_executed_with_a_warning(baked, monkeypatch):
    monkeypatch.setenv("SAGGAR_BAKED_STRICT", "false")
    worker = Worker(terms({}), registry=baked / "registry.json")
    answer = called(worker, "def f(): return 1")

    assert 1 == answer["json_result"]
    assert "WARNING | f is not baked; its code is executed dynamically" in answer["stdout"]
    assert 4 == dec(done(worker, function_name="double", args=[enc(2)])["result"])


def test_without_strictness_a_name_that_was_not_baked_is_said_with_those_that_were(
    baked, monkeypatch
):
    monkeypatch.setenv("SAGGAR_BAKED_STRICT", "false")
    worker = Worker(terms({}), registry=baked / "registry.json")
    answer = done(worker, function_name="nothing", args=[], serialization_format="json")

    assert "it was not baked; there is: Counter, die, double" in answer["error"]


@pytest.mark.parametrize("event", [[1], None, "text", {"input": 5}])
def test_what_is_no_event_is_an_error(worker, event):
    assert "wanted an event such as" in asyncio.run(worker.handle(event))["error"]


def test_production_without_a_registry_does_not_start(monkeypatch):
    monkeypatch.setenv("TETRA_BAKED_MODE", "TRUE")

    with pytest.raises(InvalidTask, match=r"/app/baked_code/registry.json: it cannot be read"):
        Worker(terms({}))


def test_without_strictness_a_missing_registry_is_an_empty_one(monkeypatch, tmp_path):
    monkeypatch.setenv("SAGGAR_BAKED_STRICT", "no")

    assert {} == BakedExecutor(None, tmp_path / "registry.json").registry


def test_production_that_was_misspelled_does_not_start(monkeypatch):
    monkeypatch.setenv("TETRA_BAKED_MODE", "on")

    with pytest.raises(UsageError, match="TETRA_BAKED_MODE: wanted true, 1, yes, false, 0 or no"):
        Worker(terms({}))


@pytest.mark.parametrize("variable", [("TETRA_BAKED_MODE", "yes"), ("SAGGAR_ACCEPT", "named")])
def test_in_production_the_command_line_runs_no_text(variable):
    words = [sys.executable, "-m", "saggar", "run", "-c", "print(1)"]
    environ = {**os.environ, variable[0]: variable[1]}
    ran = subprocess.run(words, env=environ, capture_output=True, timeout=PATIENCE, check=False)

    assert 2 == ran.returncode
    assert b"inline was asked for, the policy allows named" in ran.stderr


# From outside.


def test_a_baked_folder_is_served_from_the_command_line(baked):
    said = json.dumps({"input": {"function_name": "double", "args": [4]}})
    words = [sys.executable, "-m", "saggar", "runpod", "--baked", str(baked), "--test_input"]
    json_said = said.replace('"args"', '"serialization_format": "json", "args"')
    ran = subprocess.run([*words, json_said], capture_output=True, timeout=PATIENCE, check=True)
    refused = subprocess.run([*words, said], capture_output=True, timeout=PATIENCE, check=False)

    assert 8 == json.loads(ran.stdout)["json_result"]
    assert "✅ Baked execution mode ENABLED - using pre-installed code" in ran.stderr.decode()
    assert 1 == refused.returncode
    assert b"came with pickled arguments" in refused.stdout


def test_one_event_comes_from_the_command_line_and_from_a_file():
    said = f"@{ROOT / 'tests/handler/test_input.json'}"
    words = [sys.executable, "-m", "saggar.runpod", "--test_input", said]
    ran = subprocess.run(words, capture_output=True, timeout=PATIENCE, check=True)

    assert "a glaze of 3 parts" == dec(json.loads(ran.stdout)["result"])


@contextmanager
def serving(words):
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[-1]
            with httpx.Client(base_url=address, timeout=PATIENCE) as client:
                yield client
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(PATIENCE)


@pytest.fixture(scope="module")
def served():
    words = [sys.executable, "-m", "saggar.runpod", "--rp_serve_api", "--rp_api_port", "0"]
    with serving(words) as client:
        yield client


def event(code):
    said = {"function_name": "f", "function_code": code, "serialization_format": "json"}
    return {"input": said}


def ended(client, job_id):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = client.get(f"/v2/any/status/{job_id}").json()
        if found["status"] not in {"IN_QUEUE", "IN_PROGRESS"}:
            return found
    raise AssertionError(found)


def test_a_job_is_waited_for_or_polled(served):
    waited = served.post("/runsync", json=event("def f(): return 1")).json()
    begun = served.post("/v2/any/run", json=event("def f(): return 2")).json()
    polled = ended(served, begun["id"])

    assert {"id": begun["id"], "status": "IN_QUEUE"} == begun
    assert [1, 2] == [found["output"]["json_result"] for found in (waited, polled)]
    for found in (waited, polled):
        assert "COMPLETED" == found["status"]
        kinds = [type(found[key]) for key in ("workerId", "delayTime", "executionTime")]
        assert [str, int, int] == kinds


def test_a_failed_job_has_its_error_beside_its_output(served):
    found = served.post("/runsync", json=event("def f():\n    print(1)\n    1 / 0")).json()

    assert "FAILED" == found["status"]
    assert found["error"].startswith("division by zero\n")
    assert (False, True) == (found["output"]["success"], "1\n" in found["output"]["stdout"])
    assert "error" not in found["output"]


def test_a_job_can_be_cancelled(served):
    begun = served.post("/run", json=event("def f():\n    while True: pass")).json()
    cancelled = served.post(f"/cancel/{begun['id']}").json()

    assert "CANCELLED" == cancelled["status"]
    assert "CANCELLED" == ended(served, begun["id"])["status"]


def test_health_and_what_is_not_there_are_as_clients_want_them(served):
    found = served.get("/v2/any/health").json()

    assert {"completed", "failed", "inProgress", "inQueue", "retried"} == set(found["jobs"])
    assert 1 == found["workers"]["ready"]
    assert 404 == served.get("/status/nobody").status_code
    assert 400 == served.post("/run", json={}).status_code


def test_a_stream_gives_each_piece_once_and_ends(served):
    """Their client asks until there is nothing more."""
    begun = served.post("/run", json=event("def f(): return 3")).json()
    ended(served, begun["id"])
    first, second = (served.get(f"/v2/any/stream/{begun['id']}").json() for _ in range(2))

    assert ["COMPLETED", "COMPLETED"] == [first["status"], second["status"]]
    assert [3] == [piece["output"]["json_result"] for piece in first["stream"]]
    assert [] == second["stream"]


def test_an_endpoint_without_a_queue_is_asked_directly(served):
    request = event("def f(): return 4")["input"]
    found = [served.post("/execute", json=said).json() for said in (request, {"input": request})]

    assert [4, 4] == [answer["json_result"] for answer in found]
    assert 200 == served.get("/ping").status_code
    assert 400 == served.post("/execute", json=[]).status_code
    assert 1 == len(served.get("/v2/any/metrics").json()["readyWorkers"])


# Requests as clients of each generation send them: what they know, null where they leave it out.
ADD = "def add(a, b=1):\n    return a + b\n"
TALLY = "class Tally:\n    def __init__(self, n):\n        self.n = n\n    def add(self, m):\n"
TALLY += "        self.n += m\n        return self.n\n"
FIRST = {"function_name": "add", "function_code": ADD, "args": [enc(40)], "kwargs": {"b": enc(2)}}
SECOND = {**FIRST, "dependencies": None, "system_dependencies": None}
CLASSES = {
    **SECOND,
    "execution_type": "function",
    "class_name": None,
    "class_code": None,
    "constructor_args": [],
    "constructor_kwargs": {},
    "method_name": "__call__",
    "instance_id": None,
    "create_new_instance": True,
}
AHEAD = {**CLASSES, "accelerate_downloads": True, "hf_models_to_cache": None}
LATER = {**CLASSES, "accelerate_downloads": False}
PLAIN = {
    **LATER,
    "args": [40],
    "kwargs": {"b": 2},
    "serialization_format": "json",
}
MODULES = {
    **PLAIN,
    "function_code": "from kilns.sums import add\n",
    "modules": {"kilns/__init__.py": "", "kilns/sums.py": ADD},
}
METHOD: dict[str, Any] = {
    "execution_type": "class",
    "function_name": None,
    "function_code": None,
    "class_name": "Tally",
    "class_code": TALLY,
    "constructor_args": [enc(40)],
    "constructor_kwargs": {},
    "method_name": "add",
    "args": [enc(2)],
    "kwargs": {},
    "create_new_instance": False,
}


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(FIRST, id="0.1 functions"),
        pytest.param(SECOND, id="0.2 system packages"),
        pytest.param(CLASSES, id="0.8 classes"),
        pytest.param(AHEAD, id="0.11 models ahead"),
        pytest.param(LATER, id="0.13"),
        pytest.param({**LATER, "baked": False}, id="the fork with baked"),
        pytest.param(PLAIN, id="flash 1.4 json"),
        pytest.param(MODULES, id="flash 1.19 modules"),
        pytest.param({**METHOD, "instance_id": "Tally_8"}, id="0.8 method"),
        pytest.param(
            {**METHOD, "instance_id": "Tally_11", "accelerate_downloads": True}, id="0.11 method"
        ),
        pytest.param({**MODULES, "of_a_later_one": {"any": 1}}, id="what nobody knows yet"),
    ],
)
def test_clients_of_every_generation_are_answered(served, request_):
    """And find what they look for: the job's fields, and an output that is an object."""
    found = served.post("/v2/any/runsync", json={"input": request_}).json()
    output = found["output"]
    plain = request_.get("serialization_format") == "json"

    assert "COMPLETED" == found["status"], output
    assert 42 == (output["json_result"] if plain else dec(output["result"]))
    assert {"id", "workerId", "status", "delayTime", "executionTime", "output"} == set(found)


def test_a_client_that_deploys_beforehand_sends_names_only(baked):
    words = [sys.executable, "-m", "saggar.runpod", "--baked", baked, "--rp_serve_api"]
    said = {"function_name": "double", "function_code": None, "class_code": None, "args": [21]}
    with serving([*words, "--rp_api_port", "0"]) as client:
        event = {"input": {**said, "serialization_format": "json"}}
        found = client.post("/runsync", json=event).json()
        refused = client.post("/runsync", json={"input": FIRST}).json()

    assert 42 == found["output"]["json_result"]
    assert ("FAILED", True) == (refused["status"], "came with code" in refused["error"])


def test_the_event_that_lies_there_is_done_where_none_is_said(tmp_path):
    (tmp_path / "test_input.json").write_text(json.dumps(event("def f(): return 5")))
    ran = subprocess.run(
        [sys.executable, "-m", "saggar.runpod", "--rp_log_level", "ERROR"],
        cwd=tmp_path,
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )

    assert (5, b"") == (json.loads(ran.stdout)["json_result"], ran.stderr)
