import json

import pytest
from starlette.exceptions import HTTPException
from tests.unit.server.serving import called

from saggar.server import body
from saggar.server.auth import Doors

JSON = {"content-type": "application/json"}


def test_text_may_hold_line_breaks_as_they_are():
    printed = b'{\n  "code": "\ndata = [1]\n\tprint(f\\"{data}\\")\n"}'

    assert {"code": '\ndata = [1]\n\tprint(f"{data}")\n'} == body.parse(printed)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "Expecting value, line 1 column 1"),
        (b'{"code": 1', "Expecting ',' delimiter"),
        (b"\xff{}", "not UTF-8 at byte 0"),
        (b"NaN", "NaN has no JSON form"),
        (b"-Infinity", "-Infinity has no JSON form"),
        (b"1" * 5000, "Exceeds the limit"),
        (b"[" * 65 + b"]" * 65, "nested deeper than 64"),
        (b"[" * 1_000_000, "nested deeper than 64"),
        (b'{"a":' * 200_000, "nested deeper than 64"),
    ],
)
def test_what_is_no_json_is_a_bad_request_that_says_why(content, complaint):
    with pytest.raises(HTTPException, match="the body is not JSON: ") as caught:
        body.parse(content)

    assert 400 == caught.value.status_code
    assert complaint in caught.value.detail


def test_nesting_up_to_the_limit_is_read():
    deep = b"[" * 64 + b"]" * 64

    assert deep == body.write(body.parse(deep))


def test_whatever_a_guest_said_can_be_written_and_read():
    said = {"text": "half a character: \ud800, a whole one: é, \u2028"}

    assert {"text": "half a character: ?, a whole one: é, \u2028"} == json.loads(body.write(said))


async def test_a_route_gets_the_document():
    async with called(Doors()) as client:
        answer = await client.post("/echo", content=b'{"a": "x\ny"}', headers=JSON)
        bad = await client.post("/echo", content=b"{", headers=JSON)

    assert {"a": "x\ny"} == answer.json()
    assert (400, "bad-request") == (bad.status_code, bad.json()["code"])
