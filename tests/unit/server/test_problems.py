import pytest
from tests.unit.server.serving import called

from saggar import errors
from saggar.errors import Overloaded, UsageError
from saggar.server import problems
from saggar.server.auth import Doors

NAMES = sorted(
    name for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.SaggarError) and name[0] != "_"
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("InvalidTask", 422, "invalid-task"),
        ("PolicyDenied", 403, "policy-denied"),
        ("NotFound", 404, "not-found"),
        ("Conflict", 409, "conflict"),
        ("UsageError", 400, "usage"),
        ("Overloaded", 503, "overloaded"),
        ("QueueUnavailable", 503, "queue-unavailable"),
        ("DriverUnavailable", 503, "driver-unavailable"),
        ("SandboxBroken", 500, "sandbox-broken"),
        ("PrepareFailed", 500, "prepare-failed"),
        ("PlatformError", 500, "platform"),
    ],
)
async def test_an_error_of_ours_is_a_problem_document(name, status, code):
    async with called(Doors()) as client:
        answer = await client.get(f"/fail/{name}")

    found = answer.json()
    assert (status, "application/problem+json") == (
        answer.status_code,
        answer.headers["content-type"],
    )
    assert {"type": "about:blank", "status": status, "detail": f"{name} of this test"}.items() <= (
        found.items()
    )
    assert (code, True) == (found["code"], bool(found["title"]))


@pytest.mark.parametrize("name", NAMES)
def test_whose_fault_it_is_decides_between_4xx_and_5xx(name):
    kind = getattr(errors, name)
    exc = kind.__new__(kind)

    assert (4 if isinstance(exc, UsageError) else 5) == problems.status_of(exc) // 100


@pytest.mark.parametrize(("seconds", "said"), [(None, "1"), (0.2, "1"), (7.5, "8")])
def test_who_comes_at_a_bad_time_is_told_when_to_come_again(seconds, said):
    answer = problems.of(Overloaded("full", seconds))

    assert said == answer.headers["retry-after"]


async def test_a_mistake_of_ours_shows_nothing_of_our_inside():
    async with called(Doors()) as client:
        answer = await client.get("/fail/mistake")

    assert (500, "platform") == (answer.status_code, answer.json()["code"])
    assert "mistake of this test" not in answer.text
    assert "Traceback" not in answer.text


async def test_unknown_routes_methods_and_parameters_are_problems_too():
    async with called(Doors()) as client:
        nowhere = await client.get("/nowhere")
        method = await client.get("/echo")
        parameter = await client.get("/number?wanted=seven")

    assert (404, "not-found") == (nowhere.status_code, nowhere.json()["code"])
    assert (405, "POST") == (method.status_code, method.headers["allow"])
    assert "'/echo' takes POST, found 'GET'" == method.json()["detail"]
    assert (422, "invalid-task") == (parameter.status_code, parameter.json()["code"])
    assert parameter.json()["detail"].startswith("query.wanted: must be a valid integer")
    assert "application/problem+json" == nowhere.headers["content-type"]


def test_one_thing_that_a_task_group_wrapped_is_that_thing():
    inner = Overloaded("full")

    assert inner is problems.alone(ExceptionGroup("", [ExceptionGroup("", [inner])]))
