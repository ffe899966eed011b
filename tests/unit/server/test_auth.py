"""Who comes in and who does not, asked without a network; attacks on a real one are beside it."""

import pytest
from tests.unit.server.serving import KEY, called

from saggar import config
from saggar.config import Settings
from saggar.server.auth import LOOPBACK, Doors

JSON = {"content-type": "application/json"}


async def status(doors, method, path, **options):
    async with called(doors) as client:
        answer = await client.request(method, path, **options)
    return answer.status_code


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 401),
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"authorization": f"bearer  {KEY}"}, 200),
        ({"x-api-key": KEY}, 200),
        ({"authorization": "Bearer another"}, 401),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"authorization": f"Bearer {KEY}x"}, 401),
        ({"x-api-key": KEY[:-1]}, 401),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": "schlüssel".encode()}, 401),
    ],
)
async def test_with_a_key_only_who_shows_it_comes_in(headers, expected):
    assert expected == await status(Doors(key=KEY), "GET", "/number?wanted=1", headers=headers)


async def test_a_key_that_is_not_ascii_can_be_shown():
    headers = {"x-api-key": "schlüssel".encode()}

    assert 200 == await status(Doors(key="schlüssel"), "GET", "/number?wanted=1", headers=headers)


async def test_who_has_no_key_is_told_how_to_show_one():
    async with called(Doors(key=KEY)) as client:
        answer = await client.get("/number?wanted=1")

    assert 'Bearer realm="saggar"' == answer.headers["www-authenticate"]
    assert "application/problem+json" == answer.headers["content-type"]
    assert "no-key" == answer.json()["code"]


@pytest.mark.parametrize(
    "headers", [{}, {"host": "evil.example"}, {"origin": "https://evil.example"}]
)
async def test_health_is_open_to_everybody(headers):
    async with called(Doors(key=KEY)) as client:
        answer = await client.get("/health", headers=headers)

    assert (200, {"status": "ok"}) == (answer.status_code, answer.json())


async def test_only_asking_for_health_is_open():
    assert 401 == await status(Doors(key=KEY), "POST", "/health")
    assert 401 == await status(Doors(key=KEY), "GET", "/health/")


def test_a_key_is_not_shown_by_accident():
    assert KEY not in repr(Doors(key=KEY))
    assert KEY not in repr(Settings(key=KEY))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("localhost:8432", True),
        ("LOCALHOST:1", True),
        ("localhost.", True),
        ("127.0.0.1:8432", True),
        ("[::1]:8432", True),
        ("[::1]", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example:8432", False),
        ("192.168.0.1", False),
        ("executor-000:8432", False),
        ("", False),
        (":8432", False),
    ],
)
def test_on_the_loopback_only_its_own_names_are_ours(host, expected):
    assert expected == Doors().know_host(host)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("executor-000:8432", True),
        ("host.docker.internal:60000", True),
        ("10.0.0.7:8432", True),
        ("[fd00::7]:8432", True),
        ("localhost:8432", True),
        ("evil.example", False),
        ("10.0.0.7.evil.example", False),
        ("internal.evil.example", False),
    ],
)
def test_a_container_answers_to_names_that_nobody_can_register(host, expected):
    doors = Doors.of(Settings(), "0.0.0.0")

    assert expected == doors.know_host(host)


def test_an_operator_adds_names():
    doors = Doors.of(Settings(hosts=("api.example.org", "*.run.example.org")), "192.168.0.1")
    asked = ("api.example.org:80", "a.run.example.org", "192.168.0.1", "run.example.org", "example")

    assert [True, True, True, False, False] == [doors.know_host(host) for host in asked]
    assert Doors(hosts=("*",)).know_host("evil.example")


def test_an_operator_says_it_all_with_variables(monkeypatch):
    monkeypatch.setenv("SAGGAR_KEY", KEY)
    monkeypatch.setenv("SAGGAR_HOSTS", '["api.example.org"]')
    monkeypatch.setenv("SAGGAR_ORIGINS", '["https://app.example.org"]')
    monkeypatch.setenv("SAGGAR_INSECURE_BIND", "1")

    assert Doors(
        key=KEY,
        hosts=(*LOOPBACK, "api.example.org"),
        local_names=True,
        origins=("https://app.example.org",),
        insecure=True,
    ) == Doors.of(config.load(), "0.0.0.0")


async def test_a_name_that_is_not_ours_is_refused_before_the_key_is_looked_at():
    async with called(Doors(key=KEY)) as client:
        answer = await client.get("/number?wanted=1", headers={"host": "evil.example"})

    assert (403, "unknown-host") == (answer.status_code, answer.json()["code"])
    assert "SAGGAR_HOSTS" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"origin": "http://localhost:8000"}, 200),
        ({"origin": "https://app.example.org"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:8001"}, 403),
        ({"origin": "http://localhost"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
    ],
)
async def test_only_pages_that_we_know_may_call_us(headers, expected):
    doors = Doors(origins=("https://app.example.org",))

    assert expected == await status(doors, "POST", "/echo", json={}, headers=headers)
    assert expected == await status(doors, "GET", "/number?wanted=1", headers=headers)


async def test_a_page_that_we_know_may_read_the_answer_and_no_other():
    doors, known = Doors(key=KEY, origins=("https://app.example.org",)), "https://app.example.org"
    async with called(doors) as client:
        asked = {"origin": known, "access-control-request-method": "POST"}
        preflight = await client.options("/echo", headers=asked)
        answer = await client.post("/echo", json=1, headers={"origin": known, "x-api-key": KEY})
        ours = await client.post("/echo", json=1, headers={"x-api-key": KEY})

    assert (204, known) == (preflight.status_code, preflight.headers["access-control-allow-origin"])
    assert known == answer.headers["access-control-allow-origin"]
    assert "Origin" == answer.headers["vary"]
    assert "access-control-allow-origin" not in ours.headers


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("text/plain", 415),
        ("application/jsonp", 415),
        ("", 415),
    ],
)
async def test_a_body_of_our_own_routes_is_json_and_says_so(kind, expected):
    headers = {"content-type": kind}

    assert expected == await status(Doors(), "POST", "/echo", content=b"{}", headers=headers)


async def test_a_body_that_does_not_say_what_it_is_is_refused():
    assert 415 == await status(Doors(), "POST", "/echo", content=b"{}")


async def test_what_is_passed_on_unread_may_be_of_any_type():
    headers = {"content-type": "text/plain"}

    assert 200 == await status(Doors(), "POST", "/raw/length", content=b"abc", headers=headers)


async def test_a_body_may_be_as_large_as_the_doors_say():
    doors = Doors(largest_body=10)

    assert 200 == await status(doors, "POST", "/echo", content=b'"12345678"', headers=JSON)
    assert 413 == await status(doors, "POST", "/echo", content=b'"123456789"', headers=JSON)


async def test_a_body_that_does_not_say_its_length_is_counted():
    async def parts():
        for _ in range(11):
            yield b"1"

    assert 413 == await status(
        Doors(largest_body=10), "POST", "/echo", content=parts(), headers=JSON
    )
