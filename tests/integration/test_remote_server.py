"""Functions that run at a Saggar server: a real one, with a broker and a worker beside it."""

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from tests.chaos.brokers import Worker
from tests.unit.server.serving import Server, server

import saggar
from saggar.config import Settings
from saggar.errors import NotFound, PolicyDenied, ServerUnavailable, UsageError
from saggar.functions.errors import RemoteCancelled, RemoteError
from saggar.functions.remote import RemoteFunction
from saggar.jobs.broker import Embedded

KEY = "a-key-of-this-test"
# Not as they stand here: the text of this file travels along, for tracebacks.
VALUE, OPERATORS = uuid4().hex, uuid4().hex
COMMAND = ("-m", "saggar", "serve", "--port", "0")
RATE = 3


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    found = Path(tempfile.mkdtemp(prefix="saggar-there-"))
    yield found
    shutil.rmtree(found, ignore_errors=True)  # its server may be on its way out


@pytest.fixture(scope="module")
def broker(state: Path) -> Iterator[Embedded]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGGAR_SERVER_KEY", KEY)
        found = Embedded(state).start()
        settings = Settings(broker_url=found.url(), blobs=str(state / "blobs"))
        worker = Worker(settings, state)
        worker.env["SAGGAR_SECRET_TEAM_DB"] = OPERATORS
        with worker:
            yield found
        found.close()


@pytest.fixture(scope="module")
def served(broker: Embedded, state: Path) -> Iterator[Server]:
    env = {
        "CELERY_BROKER_URL": broker.url(),
        "SAGGAR_BLOBS": str(state / "blobs"),
        "SAGGAR_KEY": KEY,
        "SAGGAR_KEYS": '{"team-b": "key-of-b"}',
        "SAGGAR_SECRETS": '["TEAM_*"]',
        "SAGGAR_LOG_FILE": str(state / "serve.log"),
    }
    with server(command=COMMAND, env=env) as found:
        yield found


@pytest.fixture
def there(served: Server):
    """A decorator: the function runs at the server."""

    def decorated(**options):
        return saggar.remote(where=served.url, **options)

    return decorated


def scaled(x):
    print("working on", x)  # noqa: T201
    return x * RATE


def echo(data):
    return data


def test_a_function_answers_from_a_server_as_it_does_here(there):
    seen = []
    f = there(log=lambda stream, text: seen.append((stream, text)))(scaled)

    assert 12 == f(4)
    assert [("stdout", "working on 4\n")] == seen
    assert (True, "working on 2\n") == (f.call(2).ok, f.call(2).stdout)
    assert [0, 3, 6, 9] == list(f.map(range(4)))
    assert [0, 3, 6, 9] == sorted(f.map(range(4), ordered=False))
    assert 15 == asyncio.run(f.aremote(5))


def test_what_it_raises_there_is_raised_here(there):
    def fails(n):
        return dict[str, int]()["key"] if n else n

    f = there()(fails)

    with pytest.raises(KeyError) as found:
        f(1)
    assert isinstance(found.value, RemoteError)
    assert "in fails" in found.value.remote_traceback
    answer, error = f.map([0, 1], return_exceptions=True)
    assert 0 == answer
    assert isinstance(error, KeyError)


def test_a_generator_is_read_as_it_yields_and_ended_when_nobody_reads(there):
    def counted(n):
        for number in range(n):
            yield number, b"x" * 100_000

    f = there()(counted)

    assert [(0, 100_000), (1, 100_000)] == [(n, len(data)) for n, data in f.stream(2)]

    async def first():
        async for n, _ in f.astream(1_000_000):
            return n
        return None

    assert 0 == asyncio.run(first())


def uploads(state: Path) -> set[str]:
    return {path.name for path in (state / "blobs" / "uploads").rglob("*") if path.is_file()}


def test_large_arguments_and_answers_are_left_and_fetched_by_their_digests(there, state):
    data = os.urandom(300_000)
    f = there()(echo)

    assert data == f(data)
    before = uploads(state)
    assert data == f(data)
    assert before == uploads(state)


def test_the_projects_modules_are_sent_once(there, state, tmp_path, monkeypatch):
    (tmp_path / "kiln_of_this_test.py").write_text(
        f"TEXT = {'clay' * 2000!r}\ndef fired(x):\n    return TEXT[:x]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import kiln_of_this_test as kiln  # type: ignore[import-not-found]

    first = there()(lambda x: kiln.fired(x))  # noqa: PLW0108 - what travels is a module's caller
    second = there()(lambda x: kiln.fired(x + 1))
    before = uploads(state)

    assert "clay" == first(4)
    bundle_and_first = uploads(state) - before
    assert "clayc" == second(4)
    only_second = uploads(state) - before - bundle_and_first

    assert 2 == len(bundle_and_first)
    assert len(only_second) <= 1


def test_what_the_servers_policy_denies_says_whose_it_is(there, served):
    f = there(network="host")(scaled)

    with pytest.raises(PolicyDenied, match="SAGGAR_CEILING") as found:
        f(1)
    assert served.url in str(found.value)


def test_a_job_is_left_there_and_found_again(there):
    f = there()(scaled)
    job = f.submit(4)

    assert 12 == job.result(60)
    assert "done" == job.status
    assert [("stdout", "working on 4\n")] == list(job.logs())
    assert 12 == f.job(job.id).result(10)
    with pytest.raises(NotFound):
        f.job("no-such-job").result(10)


def test_a_job_with_much_to_carry_comes_back_whole(there):
    data = os.urandom(200_000)

    assert data == there()(echo).submit(data).result(60)


def test_a_job_that_is_cancelled_there_says_so(there):
    def sleeps():
        time.sleep(60)

    job = there(timeout=60)(sleeps).submit()
    deadline = time.monotonic() + 30
    while job.status == "queued" and time.monotonic() < deadline:
        time.sleep(0.02)
    job.cancel()

    with pytest.raises(RemoteCancelled):
        job.result(40)


def test_whoever_has_no_key_is_told_what_to_set(served, monkeypatch):
    f: RemoteFunction = saggar.remote(where=served.url)(scaled)
    monkeypatch.delenv("SAGGAR_SERVER_KEY")

    with pytest.raises(UsageError, match="SAGGAR_SERVER_KEY"):
        f(1)
    named = served.url.replace("http://", f"http://:{KEY}@")
    assert 3 == f.options(where=named)(1)


def test_a_server_that_is_not_there_is_told_at_once_and_without_its_password():
    with socket.socket() as closed, socket.socket() as full:
        closed.bind(("127.0.0.1", 0))
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        held = [socket.socket() for _ in range(3)]
        for one in held:  # whoever comes after them is not answered
            one.setblocking(False)
            one.connect_ex(address)
        for port in (closed.getsockname()[1], address[1]):
            f: RemoteFunction = saggar.remote(where=f"http://:sesame@127.0.0.1:{port}")(scaled)
            began = time.monotonic()
            with pytest.raises(ServerUnavailable, match=f"http://127.0.0.1:{port}") as found:
                f(1)
            assert "sesame" not in str(found.value)
            assert time.monotonic() - began < 6
        for one in held:
            one.close()


def test_a_server_that_dies_meanwhile_is_told_at_once(state):
    def sleeps():
        print("begun", flush=True)  # noqa: T201
        time.sleep(60)

    log = state / "dies.log"
    with server(command=COMMAND, env={"SAGGAR_KEY": KEY}, log=log) as dying:
        f: RemoteFunction = saggar.remote(
            where=dying.url, timeout=60, log=lambda *_: dying.process.kill()
        )(sleeps)
        began = time.monotonic()
        with pytest.raises(ServerUnavailable, match="broke off"):
            f()

    assert time.monotonic() - began < 30


@pytest.fixture
def relay(served, tmp_path):
    """The same server behind TLS, with a certificate that nobody knows: its port, and that."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    pair = (str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=DNS:localhost", "-out", pair[0], "-keyout", pair[1]]
    subprocess.run(words, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)

    async def pump(reader, writer):
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        finally:  # the caller keeps his connection; the end of the relay is the end of both
            writer.transport.abort()

    async def answer(reader, writer):
        theirs = await asyncio.open_connection("127.0.0.1", served.port)
        await asyncio.gather(pump(reader, theirs[1]), pump(theirs[0], writer))

    with start_blocking_portal() as portal:
        listener = portal.call(partial(asyncio.start_server, answer, "127.0.0.1", 0, ssl=context))
        yield listener.sockets[0].getsockname()[1], pair[0]
        portal.call(listener.close)


def test_only_a_server_whose_certificate_is_known_is_trusted(relay, monkeypatch):
    port, certificate = relay
    f: RemoteFunction = saggar.remote(
        where=f"https://localhost:{port}", secrets={"TEAM_DB": VALUE}
    )(token)

    with pytest.raises(ServerUnavailable, match="not trusted"):
        f()
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    assert VALUE == f()
    with pytest.raises(ServerUnavailable, match="not trusted"):
        f.options(where=f"https://127.0.0.1:{port}")()


def test_a_cancelled_call_ends_its_run(there):
    def marks():
        print("begun", flush=True)  # noqa: T201
        time.sleep(60)

    begun = threading.Event()
    f = there(timeout=60, log=lambda *_: begun.set())(marks)

    async def given_up():
        task = asyncio.create_task(f.aremote())
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    began = time.monotonic()
    asyncio.run(given_up())

    assert begun.is_set()
    assert time.monotonic() - began < 40


def test_classes_say_that_they_live_here(there):
    class Model:
        pass

    with pytest.raises(saggar.InvalidTask, match="an instance lives on the machine that opens it"):
        there()(Model)()


# Secrets.


def token():
    return os.environ["TEAM_DB"]


def test_a_secret_of_the_callers_goes_along_with_a_run(there):
    f = there(secrets={"TEAM_DB": VALUE})(token)

    assert VALUE == f()
    assert VALUE not in repr(f) + repr(f.call().error) + f.digest


def test_a_job_names_its_secret_and_the_operator_has_the_value(there, served, broker, state):
    f = there(secrets=["TEAM_DB"])(lambda: len(os.environ["TEAM_DB"]))
    job = f.submit()
    length = job.result(60)
    refused = there(secrets=["TEAM_DB", "PASSWORD"])(token)

    assert len(OPERATORS) == length
    with pytest.raises(PolicyDenied, match="PASSWORD is not on the operator's list"):
        refused.submit()
    with pytest.raises(PolicyDenied, match="PASSWORD is not on the operator's list"):
        refused()
    with pytest.raises(saggar.InvalidTask, match="where no value should lie"):
        there(secrets={"TEAM_DB": VALUE})(token).submit()


def test_a_job_that_is_given_up_there_raises_why(there):
    with pytest.raises(NotFound, match="there is no TEAM_NOTHING here"):
        there(secrets=["TEAM_NOTHING"])(token).submit().result(30)


def test_a_value_stands_nowhere(there, served, broker, state):
    assert VALUE == there(secrets={"TEAM_DB": VALUE})(lambda: os.environ["TEAM_DB"])()
    job = there(secrets=["TEAM_DB"])(lambda: len(os.environ["TEAM_DB"])).submit()
    job.result(60)
    failing = there(secrets=["TEAM_MISSING"])(token).submit()
    with pytest.raises(NotFound, match="SAGGAR_SECRET_TEAM_MISSING"):
        failing.result(60)
    paths = (f"/v1/jobs/{job.id}", f"/v1/jobs/{failing.id}", "/v1/dead-letters", "/metrics")
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=served.url, headers=headers) as http:
        shown = [http.get(path).text for path in ("/v1/jobs", *paths)]
    show = subprocess.run(
        [sys.executable, "-m", "saggar", "jobs", "show", job.id, "--json"],
        env={
            **os.environ,
            "CELERY_BROKER_URL": broker.url(),
            "SAGGAR_BLOBS": str(state / "blobs"),
        },
        capture_output=True,
        check=True,
    ).stdout
    texts = [*map(str.encode, shown), show, dumped(broker)]
    files = [path.read_bytes() for path in state.rglob("*") if path.is_file()]

    for value in (VALUE.encode(), OPERATORS.encode()):
        assert not [text for text in texts if value in text]
        # What a function answers is the function's own doing; its answers are small here.
        assert not [path for path in files if value in path]
    assert b"TEAM_DB" in dumped(broker) or b"TEAM_DB" in b"".join(files)


def dumped(broker: Embedded) -> bytes:
    """All that the broker has, in both databases."""
    import redis

    found = []
    for number in (0, 1):
        client = redis.Redis.from_url(broker.url())
        client.execute_command("SELECT", number)
        for key in client.scan_iter():
            found += [key, client.dump(key) or b""]
        client.close()
    return b"\n".join(found)
