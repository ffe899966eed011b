"""Uploads: each tenant's own, by what they are, and no more of them than he may have."""

import base64
import hashlib
import os
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from saggar.config import Settings
from saggar.errors import InvalidTask, NotFound, PlatformError
from saggar.model.codec import Answer
from saggar.model.event import Finished, Output, Yielded
from saggar.model.program import Pickled
from saggar.model.task import Task
from saggar.server import asked, pieces
from saggar.server.auth import Doors
from saggar.server.routes import application
from saggar.server.uploads import KEPT, MANY, Gone, Uploads

CLAY = b"clay" * 100
CLAYS = hashlib.sha256(CLAY).hexdigest()
KEYS = {"team-a": "key-of-a", "team-b": "key-of-b"}


def named(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_what_was_left_is_found_by_its_digest(tmp_path):
    here = Uploads(tmp_path, "team-a", 1 << 20)
    here.put(CLAYS, CLAY)

    assert CLAY == here.get(CLAYS)
    assert [named(b"")] == here.lacking([CLAYS, named(b""), named(b"")])


def test_a_digest_of_somebody_else_finds_nothing(tmp_path):
    Uploads(tmp_path, "team-a", 1 << 20).put(CLAYS, CLAY)
    theirs = Uploads(tmp_path, "team-b", 1 << 20)

    assert [CLAYS] == theirs.lacking([CLAYS])
    with pytest.raises(NotFound):
        theirs.get(CLAYS)


@pytest.mark.parametrize("digest", ["", "../etc/passwd", CLAYS.upper(), CLAYS[:-1], f"{CLAYS}/", 7])
def test_what_is_no_digest_names_no_file(tmp_path, digest):
    here = Uploads(tmp_path, "team-a", 1 << 20)

    for ask in (here.get, here.touched, lambda one: here.put(one, CLAY)):
        with pytest.raises(InvalidTask):
            ask(digest)
    assert [] == list(tmp_path.iterdir())


def test_what_is_not_as_named_is_not_kept(tmp_path):
    here = Uploads(tmp_path, "team-a", 1 << 20)

    with pytest.raises(InvalidTask, match="does not have the SHA-256"):
        here.put(CLAYS, b"mud")
    with pytest.raises(InvalidTask, match="SAGGAR_UPLOADS_SIZE"):
        Uploads(tmp_path, "team-a", 10).put(CLAYS, CLAY)


def test_the_longest_unused_makes_room(tmp_path):
    here = Uploads(tmp_path, "team-a", 32 << 10)
    several = [bytes([n]) * 8000 for n in range(6)]
    for age, data in enumerate(several[:3]):
        here.put(named(data), data)
        folder = next(tmp_path.iterdir())
        os.utime(folder / named(data), (time.time() - 60 + age,) * 2)
    here.touched(named(several[0]))
    for data in several[3:]:
        here.put(named(data), data)

    kept = [here.touched(named(data)) is not None for data in several]
    assert [True, False, False, True, True, True] == kept


def test_what_a_crash_left_half_written_is_asked_for_again(tmp_path):
    here = Uploads(tmp_path, "team-a", 1 << 20)
    here.put(CLAYS, CLAY)
    (next(tmp_path.iterdir()) / CLAYS).write_bytes(CLAY[:7])

    with pytest.raises(Gone):
        here.get(CLAYS)
    assert [CLAYS] == here.lacking([CLAYS])
    here.put(CLAYS, CLAY)
    assert CLAY == here.get(CLAYS)


def test_many_small_ones_do_not_make_each_further_one_slow(tmp_path):
    """Making room looks at all files: it is not done for every one that comes."""
    here = Uploads(tmp_path, "team-a", 2 * MANY * 4096)
    folder = tmp_path / hashlib.sha256(b"team-a").hexdigest()[:32]
    folder.mkdir()
    for number in range(2 * MANY):
        (folder / named(b"%d" % number)).touch()
    here.put(CLAYS, CLAY)

    assert len(list(folder.iterdir())) < 2 * MANY - 100


def test_the_parts_of_one_answer_do_not_push_each_other_out(tmp_path):
    answer = Answer.opened((2).to_bytes(4, "little") + b"{}", memoryview(bytes(100_000)))

    with pytest.raises(InvalidTask, match="SAGGAR_UPLOADS_SIZE"):
        pieces._keep(answer.buffers, Uploads(tmp_path, "", 50_000))


@pytest.mark.parametrize("data", ["a", "?", "é"])
def test_a_value_that_only_looks_like_an_answer_is_none(data):
    assert pieces.answer_in({"document": {}, "data": data}) is None
    assert pieces.answer_in({"document": {}, "data": "-_8="}) is not None


def test_what_nobody_used_for_an_hour_goes_whoever_left_it(tmp_path):
    Uploads(tmp_path, "team-a", 1 << 20).put(CLAYS, CLAY)
    theirs = next(tmp_path.iterdir()) / CLAYS
    os.utime(theirs, (time.time() - KEPT - 5,) * 2)
    Uploads(tmp_path, "team-b", 1 << 20).put(named(b"mud"), b"mud")

    assert not theirs.exists()


def task_in_pieces(code, given=None):
    document: dict[str, Any] = {"program": {"code": {"kind": "pickled", "pieces": code}}}
    if given is not None:
        document["input"] = {"media_type": "application/vnd.saggar.call", "pieces": given}
    return document


async def test_a_task_in_pieces_is_put_together_and_nothing_of_it_read(tmp_path):
    here = Uploads(tmp_path, "", 1 << 20)
    here.put(CLAYS, CLAY)
    said = [{"data": base64.b64encode(b"\x80a").decode()}, {"upload": CLAYS}]
    document, parts = pieces.divided(task_in_pieces(said, [{"upload": CLAYS}, {"upload": CLAYS}]))
    task, _ = asked.run(document)
    found = await pieces.whole(task, parts, here, 1 << 20)

    assert Pickled(payload=b"\x80a" + CLAY) == found.program.code
    assert CLAY * 2 == found.input.data


@pytest.mark.parametrize(
    "said",
    [
        "abc",
        [{"data": "?"}],
        [{"upload": "../../etc/passwd"}],
        [{"upload": CLAYS, "data": ""}],
        [7],
        [{"data": ""}] * 2000,
    ],
)
def test_pieces_that_are_none_are_refused(said):
    with pytest.raises(InvalidTask, match=r"program\.code\.pieces|SHA-256"):
        pieces.divided(task_in_pieces(said))


async def test_one_upload_named_often_is_no_bomb(tmp_path):
    here = Uploads(tmp_path, "", 1 << 20)
    here.put(CLAYS, CLAY)
    document, parts = pieces.divided(task_in_pieces([{"data": "AAAA"}], [{"upload": CLAYS}] * 1000))
    task, _ = asked.run(document)

    with pytest.raises(InvalidTask, match="weighs 391 KiB, at most 64 KiB"):
        await pieces.whole(task, parts, here, 64 << 10)


async def test_only_what_is_large_of_an_answer_is_left_behind(tmp_path):
    here = Uploads(tmp_path, "", 1 << 20)
    small = Answer(document={"value": 1}, data=b"x")
    memory = memoryview(bytearray(b"y" * 100_000))
    large = Answer.opened((2).to_bytes(4, "little") + b"{}", memory)
    end = Finished(status="ok", isolation="jail", value=large)
    given = Yielded.of(b"head", "application/vnd.saggar.answer", memory)

    assert b"y" * 100_000 == here.get((await pieces.left(large, here))["pieces"][0]["upload"])
    assert {"document": {"value": 1}, "data": "eA=="} == await pieces.left(small, here)
    shown = [await pieces.shown(end, here) or {}, await pieces.shown(given, here) or {}]
    assert "pieces" in shown[0]["value"]
    assert "aGVhZA==" == shown[1]["data"]
    assert await pieces.shown(Output(stream="stdout", data=b""), here) is None


@asynccontextmanager
async def called(tmp_path, **settings):
    """Clients of two tenants, without a network between them and us."""
    said = Settings(cache_dir=tmp_path, keys=KEYS, uploads_size=64 << 10, **settings)
    doors = Doors(keys=KEYS)
    app = application(said, doors)
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app):
        clients = [
            httpx.AsyncClient(
                transport=transport, base_url="http://localhost", headers={"X-API-Key": key}
            )
            for key in (*KEYS.values(), "nobody's")
        ]
        try:
            yield clients
        finally:
            for client in clients:
                await client.aclose()


async def test_uploads_stand_behind_the_same_door_as_everything(tmp_path):
    path = f"/v1/uploads/{CLAYS}"
    async with called(tmp_path) as (ours, theirs, nobody):
        sent = await ours.put(path, content=CLAY)
        answers = [
            await ours.get(path),
            await theirs.get(path),
            await nobody.get(path),
            await nobody.put(path, content=CLAY),
            await ours.put(path, content=b"mud"),
            await ours.put("/v1/uploads/..%2F..%2Fx", content=CLAY),
            await ours.put(f"/v1/uploads/{named(b'x' * 70_000)}", content=b"x" * 70_000),
            await ours.put(path, content=b"x" * (17 << 20)),
        ]

    assert 204 == sent.status_code
    assert CLAY == answers[0].content
    assert "application/octet-stream" == answers[0].headers["content-type"]
    assert [200, 404, 401, 401, 422, 404, 422, 413] == [one.status_code for one in answers]


async def test_what_is_lacking_is_named_and_what_others_have_is_lacking(tmp_path):
    document = task_in_pieces([{"upload": CLAYS}])
    async with called(tmp_path) as (ours, theirs, _):
        await ours.put(f"/v1/uploads/{CLAYS}", content=CLAY)
        for path in ("/v1/runs", "/v1/jobs"):
            answer = await theirs.post(path, json=document)

            assert 409 == answer.status_code
            assert ("uploads-missing", [CLAYS]) == (answer.json()["code"], answer.json()["missing"])


async def test_where_only_names_are_accepted_nothing_is_taken_in(tmp_path):
    async with called(tmp_path, ceiling={"accept": ["named"]}) as (ours, _, _):
        answer = await ours.put(f"/v1/uploads/{CLAYS}", content=CLAY)

    assert 403 == answer.status_code


async def test_a_secret_with_a_value_is_no_part_of_a_job_and_of_no_complaint(tmp_path):
    async with called(tmp_path) as (ours, _, _):
        answers = [
            await ours.post("/v1/jobs", json={"code": "1", "secrets": {"A": "sesame-1"}}),
            await ours.post("/v1/runs", json={"code": "1", "secrets": {"A=": "sesame-1"}}),
            await ours.post("/v1/runs", json={"code": "1", "secrets": {"A": ["sesame-1"]}}),
            await ours.post("/v1/runs", json={"code": "1", "secrets": {"A": "sesame-1\0"}}),
            await ours.post("/v1/runs", json={"code": "1", "secrets": ["A"]}),
        ]

    assert [422, 422, 422, 422, 403] == [one.status_code for one in answers]
    assert not [one.text for one in answers if "sesame" in one.text]


def test_a_task_keeps_the_names_of_its_secrets_only():
    document, given = asked.with_secrets({"code": "1", "secrets": {"B": "2", "A": "1"}})
    task, _ = asked.run(document)

    assert Task.of("1", secrets=["A", "B"]) == task
    assert {"A": "1", "B": "2"} == given.reveal()


def test_several_who_leave_the_same_at_once_leave_it_once(tmp_path):
    here = Uploads(tmp_path, "team-a", 1 << 30)
    data = os.urandom(1 << 20)
    with ThreadPoolExecutor(8) as crew:
        list(crew.map(lambda _: here.put(named(data), data), range(32)))

    assert [named(data)] == [path.name for path in next(tmp_path.iterdir()).iterdir()]
    assert data == here.get(named(data))


def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path):
    here = Uploads(tmp_path, "team-a", 1 << 30)
    data = os.urandom(1 << 20)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(PlatformError, match="cannot be kept"):
            here.put(named(data), data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert [] == list(next(tmp_path.iterdir()).iterdir())
    here.put(named(data), data)
    assert data == here.get(named(data))
