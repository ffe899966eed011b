"""Keys of tenants, beside the one that is nobody's in particular."""

from contextlib import ExitStack

import httpx
import pytest
from fastapi import Request

from saggar import Platform, PolicyDenied
from saggar.config import Settings
from saggar.errors import InvalidTask, Overloaded
from saggar.server import service
from saggar.server.app import create_app
from saggar.server.auth import CALLER, OPERATOR, Doors

KEYS = {"team-a": "key-of-a", "team-b": "key-of-b"}


async def who(request: Request):
    return [request.scope.get(CALLER), service.caller(request), service.tenant(request, None)]


async def asked(doors, key=None):
    app = create_app("small", doors)
    app.add_api_route("/who", who)
    headers = {} if key is None else {"X-API-Key": key}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost"
    ) as client:
        return await client.get("/who", headers=headers)


async def test_a_key_says_which_tenant_comes():
    assert ["team-a", "team-a", "team-a"] == (await asked(Doors(keys=KEYS), "key-of-a")).json()
    assert ["team-b", "team-b", "team-b"] == (await asked(Doors(keys=KEYS), "key-of-b")).json()


async def test_the_one_key_is_the_operators():
    found = await asked(Doors(key="key-of-all", keys=KEYS), "key-of-all")

    assert [OPERATOR, None, "default"] == found.json()


async def test_without_keys_everybody_is_the_operator():
    assert [None, None, "default"] == (await asked(Doors())).json()


async def test_keys_of_tenants_lock_the_door_by_themselves():
    assert 401 == (await asked(Doors(keys=KEYS))).status_code
    assert 401 == (await asked(Doors(keys=KEYS), "other")).status_code
    assert 401 == (await asked(Doors(keys=KEYS), "")).status_code


def test_who_has_a_key_does_not_say_who_he_is():
    request = Request({"type": "http", CALLER: "team-a"})

    with pytest.raises(PolicyDenied, match="comes with the key"):
        service.tenant(request, "team-b")


def test_keys_are_shown_to_nobody():
    assert "key-of-a" not in repr(Settings(keys=KEYS))
    assert "key-of-a" not in repr(Doors(keys=KEYS))


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"": "key"}, "wanted tenants"),
        ({"team a": "key"}, "wanted tenants"),
        ({"team-a": ""}, "is empty"),
        ({"team-a": "key", "team-b": "key"}, "the same key"),
    ],
)
def test_keys_that_cannot_be_are_refused(keys, complaint):
    with pytest.raises(InvalidTask, match=complaint):
        Settings(keys=keys)


def test_a_tenant_has_so_many_requests_wait_and_the_others_as_well():
    here = service.Service(Settings(), Platform(Settings()))
    ours, others = (Request({"type": "http", CALLER: name}) for name in ("team-a", "team-b"))
    with ExitStack() as held:
        for _ in range(service.WAITS):
            held.enter_context(here.waiting(ours))
        with pytest.raises(Overloaded, match="200 requests of yours wait"):
            held.enter_context(here.waiting(ours))
        held.enter_context(here.waiting(others))
    with here.waiting(ours):
        pass


def test_a_queue_that_the_operator_does_not_name_is_refused():
    here = service.Service(Settings(queues=("mine",)), Platform(Settings()))

    for known in ("code_execution", "code_execution_heavy", "mine"):
        here.admit_queue(known)
    with pytest.raises(
        InvalidTask, match=r"wanted one of code_execution, .*, mine, found .unacked"
    ):
        here.admit_queue("unacked_mutex")
