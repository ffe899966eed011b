"""Secrets of runs, functions and instances here: in the sandbox, and in nothing that is shown."""

import os
from typing import Any
from uuid import uuid4

import pytest
from tests.unit.environments.hubserver import serving

import saggar
from saggar.config import Settings
from saggar.errors import InvalidTask, NotFound, PolicyDenied, PrepareFailed
from saggar.functions.remote import Call, RemoteFunction
from saggar.jobs.job import Job, same
from saggar.model.digest import digest
from saggar.model.policy import Policy
from saggar.model.task import Task

VALUE = uuid4().hex
SHOW = "import os; print(os.environ['DB_URL'])"


def db_url():
    return os.environ["DB_URL"]


def test_a_name_is_looked_up_here_when_the_call_is_made(monkeypatch):
    f: RemoteFunction = saggar.remote(secrets=["DB_URL"])(db_url)

    with pytest.raises(NotFound, match="neither DB_URL nor SAGGAR_SECRET_DB_URL is set here"):
        f()
    monkeypatch.setenv("DB_URL", VALUE)
    assert VALUE == f()
    monkeypatch.setenv("SAGGAR_SECRET_DB_URL", f"{VALUE}-of-the-operator")
    assert f"{VALUE}-of-the-operator" == f()
    assert f"{VALUE}-of-the-operator" == saggar.run(SHOW, secrets=["DB_URL"]).stdout.strip()


def test_a_value_may_be_given_and_is_in_nothing_that_says_what_runs():
    f: RemoteFunction = saggar.remote(secrets={"DB_URL": VALUE})(db_url)
    bare: RemoteFunction = saggar.remote()(db_url)
    call: Call = f._call((), {})
    job = Job.of(call.task, call.policy)

    assert VALUE == f()
    assert bare.digest == f.digest
    said = [repr(f), repr(f._said), repr(call), job.model_dump_json(), repr(job)]
    said += [digest(call.task), same(call.task, call.policy), call.task.model_dump_json()]
    assert not [text for text in said if VALUE in text]
    assert ("DB_URL",) == call.task.secrets


def test_a_job_takes_no_values_wherever_the_function_runs():
    for where in ("here", "http://127.0.0.1:9"):
        f: RemoteFunction = saggar.remote(secrets={"DB_URL": VALUE}, where=where)(db_url)
        with pytest.raises(InvalidTask, match="SAGGAR_SECRET_<NAME>"):
            f.submit()
    with pytest.raises(InvalidTask, match="SAGGAR_SECRET_<NAME>"):
        saggar.remote(secrets={"DB_URL": VALUE}, where="queue")(db_url)


def test_a_value_is_not_sent_in_clear_to_another_machine():
    f: RemoteFunction = saggar.remote(secrets={"DB_URL": VALUE}, where="http://kiln.invalid")(
        db_url
    )

    with pytest.raises(InvalidTask, match="use https") as found:
        f()
    assert VALUE not in str(found.value)


def test_an_instance_has_its_secrets_for_as_long_as_it_lives(monkeypatch):
    class Fired:
        def url(self):
            return os.environ["DB_URL"]

    Kiln: Any = saggar.remote(secrets=["DB_URL"])(Fired)  # noqa: N806 - a class
    monkeypatch.setenv("DB_URL", VALUE)
    with Kiln() as kiln:
        assert VALUE == kiln.url()
        kiln.restart()
        assert VALUE == kiln.url()


async def test_where_there_is_a_ceiling_its_operator_says_which_of_his_may_be_named(monkeypatch):
    monkeypatch.setenv("SAGGAR_SECRET_DB_URL", VALUE)
    async with saggar.Platform(Settings(ceiling=Policy(), secrets=("DB_*",))) as platform:
        named = await platform.run(Task.of(SHOW, secrets=["DB_URL"]))
        with pytest.raises(PolicyDenied, match="TOKEN is not on the operator's list"):
            await platform.run("1", secrets=["TOKEN"])
        with pytest.raises(NotFound, match="SAGGAR_SECRET_DB_OTHER"):
            await platform.run("1", secrets=["DB_OTHER"])
        given = await platform.run(SHOW, secrets={"DB_URL": "of-the-caller"})

    assert f"{VALUE}\n" == named.stdout
    assert "of-the-caller\n" == given.stdout


@pytest.fixture
def hub(monkeypatch):
    pytest.importorskip("huggingface_hub")
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == "HF_TOKEN":
            monkeypatch.delenv(name)
    with serving() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


LOOK = """
import glob, os
print(open(glob.glob(os.environ["HF_HOME"] + "/hub/*/snapshots/*/config.json")[0]).read())
"""


async def test_a_token_among_the_secrets_opens_models_ahead(hub, tmp_path, monkeypatch):
    hub.add("clay/cup", {"config.json": b"{}"}, token=VALUE)
    cup = saggar.Environment(models=("clay/cup",))
    said = Settings(cache_dir=tmp_path)
    async with saggar.Platform(said) as platform:
        with pytest.raises(PrepareFailed, match="HF_TOKEN is not set"):
            await platform.run(LOOK, environment=cup)
        with pytest.raises(PrepareFailed) as failure:
            await platform.run(LOOK, environment=cup, secrets={"HF_TOKEN": f"wrong-{VALUE}"})
        opened = await platform.run(LOOK, environment=cup, secrets={"HF_TOKEN": VALUE})
        with pytest.raises(PrepareFailed, match="HF_TOKEN is not set"):
            await platform.run(LOOK, environment=cup)

    assert "{}\n" == opened.stdout
    assert VALUE not in str(failure.value) + failure.value.log
    names = [path.name for path in tmp_path.rglob("*")]
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [name for name in names if VALUE in name]
    assert not [text for text in texts if VALUE.encode() in text]


async def test_the_operators_token_opens_as_a_secret_only_what_he_lists(hub, tmp_path, monkeypatch):
    hub.add("clay/cup", {"config.json": b"{}"}, token=VALUE)
    monkeypatch.setenv("SAGGAR_SECRET_HF_TOKEN", VALUE)
    cup = saggar.Environment(models=("clay/cup",))
    closed = Settings(cache_dir=tmp_path, ceiling=Policy(), secrets=("HF_TOKEN",))
    async with saggar.Platform(closed) as platform:
        with pytest.raises(PrepareFailed):
            await platform.run(LOOK, environment=cup, secrets=["HF_TOKEN"])
    async with saggar.Platform(closed.replace(models=("clay/*",))) as platform:
        opened = await platform.run(LOOK, environment=cup, secrets=["HF_TOKEN"])

    assert "{}\n" == opened.stdout


def test_neither_a_task_nor_a_job_takes_values():
    with pytest.raises(InvalidTask, match="SAGGAR_SECRET_<NAME>"):
        saggar.submit("1", secrets={"DB_URL": VALUE})
    with pytest.raises(InvalidTask) as found:
        Task.of("1", secrets=[f"DB_URL={VALUE}"])
    assert VALUE not in str(found.value)


LOOK_AROUND = """
import ctypes, os, sys

wanted = {name: bytes.fromhex(text) for name, text in zip(("given", "kept"), sys.argv[1:])}
libc = ctypes.CDLL(None, use_errno=True)
libc.sbrk.restype = ctypes.c_void_p
out, into = os.pipe()
PAGE, GAP = 4096, 64
seen, found, looked = set(), dict.fromkeys(wanted, 0), 0


def page(at):
    # A page that is not there is an error of the kernel's, and not the end of us.
    n = libc.write(into, ctypes.c_void_p(at), PAGE)
    return os.read(out, PAGE) if n == PAGE else b""


def same(data, masked):
    # What is looked for stands nowhere in this memory as it is.
    first, start = masked[0] ^ 0x55, -1
    while (start := data.find(first, start + 1)) >= 0:
        part = data[start : start + len(masked)]
        if len(part) == len(masked) and all(a ^ b == 0x55 for a, b in zip(part, masked)):
            return True
    return False


environ = ctypes.c_void_p.in_dll(libc, "environ").value
places = [id(object()), id(sys), id(os.environ), id(type), id(bytes(5000)), environ, libc.sbrk(0)]
for place in places:
    for step in (PAGE, -PAGE):
        at, gap, before = place // PAGE * PAGE, 0, b""
        while gap < GAP:
            at += step
            data = b"" if at in seen else page(at)
            seen.add(at)
            gap = 0 if data else gap + 1
            looked += len(data)
            both = before[-64:] + data if step > 0 else data + before[:64]
            for name, masked in wanted.items():
                found[name] += same(both, masked)
            before = data
print(looked > 1 << 20, found["given"] > 0, found["kept"] > 0)
"""


def masked(value: str) -> str:
    return bytes(byte ^ 0x55 for byte in value.encode()).hex()


async def test_the_memory_of_whoever_comes_next_holds_no_value(monkeypatch):
    """Children of one warm server share its memory; a value must never have been in it."""
    kept = uuid4().hex
    monkeypatch.setenv("SAGGAR_SECRET_KEPT", kept)
    said: Any = {"args": (masked(VALUE), masked(kept)), "limits": {"memory": "1GiB", "wall": 60}}
    said["limits"]["cpu"] = 60
    async with saggar.Platform() as platform:
        own = await platform.run(LOOK_AROUND, secrets={"DB_URL": VALUE}, **said)
        for _ in range(3):
            await platform.run(SHOW, secrets={"DB_URL": VALUE})
        await platform.run("1", secrets=["KEPT"])
        next_one = await platform.run(LOOK_AROUND, **said)

    assert ("True True False\n", "") == (own.stdout, own.stderr)
    assert ("True False False\n", "") == (next_one.stdout, next_one.stderr)


async def test_a_value_is_in_no_event_and_no_error(capfd):
    """Of a run that fails in every way it can, and is too large to be begun."""
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    told = []
    async with saggar.Platform() as platform:
        for code in ("1/0", crash, "raise SystemExit(3)", "x =", "import missing"):
            run = platform.events(code, secrets={"DB_URL": VALUE})
            told += [repr(event) async for event in run]
        many = {f"DB_{n}": VALUE * 2000 for n in range(60)}
        try:
            told.append(
                repr(await platform.run("import os; os.execv('/bin/true', ['true'])", secrets=many))
            )
        except saggar.SaggarError as exc:
            told.append(str(exc))

    assert told
    assert not [text for text in told if VALUE in text]
    assert VALUE not in "".join(capfd.readouterr())
