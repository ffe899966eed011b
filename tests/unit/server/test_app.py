from tests.unit.server.serving import called

from saggar.server.auth import Doors


async def test_an_application_describes_itself_and_loads_nothing_from_elsewhere():
    async with called(Doors()) as client:
        description = await client.get("/openapi.json")
        pages = [(await client.get(path)).status_code for path in ("/docs", "/redoc")]

    assert "/echo" in description.json()["paths"]
    assert [404, 404] == pages


async def test_answers_are_kept_by_nobody_and_guessed_by_nobody():
    async with called(Doors()) as client:
        answer = await client.get("/number?wanted=1")

    assert ("nosniff", "no-store") == (
        answer.headers["x-content-type-options"],
        answer.headers["cache-control"],
    )
