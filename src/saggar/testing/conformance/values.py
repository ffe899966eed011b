"""What a program answers, beside what it prints."""

from saggar.errors import InvalidTask
from saggar.model.result import Status
from saggar.platform import Platform
from saggar.testing.conformance.driving import refusal, run

DOUBLE = "def double(x):\n    return [x, x]\n"


async def check_the_last_expression_has_a_value(platform: Platform, driver: str) -> None:
    """Where it is wanted; a statement has none."""
    for code, value in (
        ("x = 6\nx * 7", 42),
        ("{'a': [1, 2.5, None, True, 'é']}", {"a": [1, 2.5, None, True, "é"]}),
        ("x = 6", None),
        ("", None),
    ):
        result = await run(platform, driver, code, want_value=True)

        assert (Status.OK, value) == (result.status, result.value), code


async def check_a_value_comes_only_where_it_is_wanted(platform: Platform, driver: str) -> None:
    """A script is a script."""
    result = await run(platform, driver, "6 * 7")

    assert (result.status, result.value) == (Status.OK, None)


async def check_an_entry_is_called_with_the_input(platform: Platform, driver: str) -> None:
    """JSON in, JSON out; what it prints is output all the same."""
    code = DOUBLE + "print('loaded', __name__ != '__main__')"
    result = await run(platform, driver, code, entry="double", input={"n": [1, None]})

    assert result.value == [{"n": [1, None]}] * 2
    assert result.stdout == "loaded True\n"


async def check_an_entry_may_take_nothing(platform: Platform, driver: str) -> None:
    """No input is not the same as null."""
    code = "def f(*args):\n    return len(args)\n"

    assert (await run(platform, driver, code, entry="f")).value == 0


async def check_an_entry_may_be_asynchronous(platform: Platform, driver: str) -> None:
    """A coroutine is run to its end."""
    code = "import asyncio\nasync def f(x):\n    await asyncio.sleep(0)\n    return x + 1\n"

    assert (await run(platform, driver, code, entry="f", input=7)).value == 8


async def check_an_entry_that_fails_is_an_error(platform: Platform, driver: str) -> None:
    """Raising, missing, or answering what JSON has no form for."""
    for entry, kind in (("fail", "KeyError"), ("missing", "NameError"), ("odd", "ValueError")):
        code = "def fail(x):\n    raise KeyError(x)\ndef odd(x):\n    return {1, 2}\n"
        result = await run(platform, driver, code, entry=entry, input=1)

        assert (result.status, result.value) == (Status.ERROR, None), entry
        assert result.error is not None
        assert kind == result.error.type


async def check_an_input_without_a_json_form_is_refused(platform: Platform, driver: str) -> None:
    """Before anything runs, with the place in it that was wrong."""
    for value in ({"a": [float("nan")]}, {"a": [b"bytes"]}, {"a": [{1: 2}]}):
        running = run(platform, driver, DOUBLE, entry="double", input=value)
        said = await refusal(InvalidTask, running)

        assert "/a/0" in said


async def check_a_display_is_an_event(platform: Platform, driver: str) -> None:
    """Something to show arrives in its media types."""
    code = """
class Chart:
    def __repr__(self):
        return "a chart"
    def _repr_html_(self):
        return "<b>chart</b>"
display(Chart())
"""
    result = await run(platform, driver, code)

    shown = [dict(one.data) for one in result.displays]

    assert shown == [{"text/plain": "a chart", "text/html": "<b>chart</b>"}]
