"""Compiling first: once for the same sources, behind walls, and told apart from a failing run."""

import anyio
import pytest

from saggar.engine import build
from saggar.engine.build import Ready, Site, around, digest, located, prepared, present
from saggar.environments import runtimes
from saggar.environments.runtimes import Found
from saggar.errors import DriverUnavailable, PrepareFailed
from saggar.model.event import Finished, Output, Started
from saggar.model.limits import Limits
from saggar.model.plan import Compile, Layer, Plan, Runtime
from saggar.model.policy import Network, Policy, Rung
from saggar.model.result import ErrorInfo, Status
from saggar.model.task import File

SOURCE = File(path="main.x", content=b"source")
COMPILE = Compile(argv=("cc", "-o", "program", "main.x"), files=(SOURCE,))
PLAN = Plan(argv=("program", "arg"), runtime=Runtime(name="cc"), compile=COMPILE)
TOOL = Layer(path="/home/tool", target="/opt/saggar/runtimes/cc")


class Sandbox:
    """Plays the compiler, and remembers how it was called."""

    def __init__(self, *events):
        self.events, self.calls = events, []

    async def __call__(self, task, plan, policy, layers):
        self.calls.append((task, plan, policy, layers))
        yield Started(isolation="jail")
        for event in self.events:
            yield event


def ended(status=Status.OK, files=(), **more):
    return Finished(status=status, files=files, isolation="jail", **more)


MADE = ended(files=(File(path="program", content=b"binary", mode=0o755),))


@pytest.fixture
def toolchain(monkeypatch):
    """One that is found outside the system's folders, and needs nothing else."""
    found = Found("/opt/saggar/runtimes/cc", "1.0", (TOOL,), options=("-O",))

    async def find(_):
        return found

    async def workshop(same, *_):
        return same

    monkeypatch.setattr(runtimes, "find", find)
    monkeypatch.setattr(runtimes, "workshop", workshop)
    return found


async def steps(plan, site):
    return [step async for step in prepared(plan, site)]


def site_of(tmp_path, sandbox, image=None):
    return Site(cache=tmp_path, policy=around(Policy(), None), execute=sandbox, image=image)


async def test_a_program_is_compiled_once_and_shown_as_a_layer(tmp_path, toolchain):
    sandbox = Sandbox(Output(stream="stdout", data=b"a warning"), MADE)
    first = await steps(PLAN, site_of(tmp_path, sandbox))
    second = await steps(PLAN, site_of(tmp_path, sandbox))

    assert [Output(stream="stderr", data=b"a warning")] == first[:-1]
    assert first[-1:] == second
    assert isinstance(second[0], Ready)
    (layer,) = second[0].layers
    assert (f"{layer.target}/program", "arg") == second[0].plan.argv
    assert 1 == len(sandbox.calls)
    assert b"binary" == await anyio.Path(layer.path, "program").read_bytes()


async def test_the_compiler_sees_its_toolchain_and_its_sources_only(tmp_path, toolchain):
    sandbox = Sandbox(MADE)
    await steps(PLAN, site_of(tmp_path, sandbox))
    ((task, plan, policy, layers),) = sandbox.calls

    assert ("/opt/saggar/runtimes/cc", "-o", "program", "main.x") == plan.argv
    assert ((SOURCE,), ("program",)) == (plan.files, task.collect)
    assert (TOOL,) == layers
    assert Network.NONE == policy.network


async def test_what_does_not_compile_is_an_end_with_the_compilers_words(tmp_path, toolchain):
    sandbox = Sandbox(
        Output(stream="stderr", data=b"main.x:1: no\n"), ended(Status.ERROR, exit_code=1)
    )
    site = site_of(tmp_path, sandbox)
    heard, end = await steps(PLAN, site)
    await steps(PLAN, site)

    assert Output(stream="stderr", data=b"main.x:1: no\n") == heard
    assert (Status.ERROR, 1) == (end.status, end.exit_code)
    assert ("CompileError", "main.x:1: no") == (end.error.type, end.error.message)
    assert 2 == len(sandbox.calls)


async def test_a_compiler_that_makes_nothing_has_failed(tmp_path, toolchain):
    (end,) = await steps(PLAN, site_of(tmp_path, Sandbox(ended())))

    assert (Status.ERROR, "CompileError") == (end.status, end.error.type)
    assert "the compiler made no program" in end.error.message


async def test_a_limit_that_the_compiler_met_is_told_as_the_compilers(tmp_path, toolchain):
    (end,) = await steps(PLAN, site_of(tmp_path, Sandbox(ended(Status.TIMEOUT, limit="wall"))))

    assert (Status.TIMEOUT, "CompileError") == (end.status, end.error.type)
    assert "the compiler met its limit of wall" in end.error.message


async def test_an_image_has_programs_of_its_own(tmp_path):
    sandbox = Sandbox(MADE)
    ready = (await steps(PLAN, site_of(tmp_path, sandbox, image="golang")))[-1]

    assert isinstance(ready, Ready)
    assert COMPILE.argv == sandbox.calls[0][1].argv
    script = Plan(argv=("node", "main.js"), runtime=Runtime(name="node"))
    (ready,) = await steps(script, site_of(tmp_path, sandbox, image="node"))
    assert script == ready.plan


async def test_a_compiler_that_is_nowhere_is_named_with_its_package(tmp_path):
    gone = ErrorInfo(type="FileNotFoundError", message="cc: No such file or directory")
    sandbox = Sandbox(ended(Status.ERROR, exit_code=127, error=gone))

    with pytest.raises(DriverUnavailable, match="cc is not installed, nor is it in alpine"):
        await steps(PLAN, site_of(tmp_path, sandbox, image="alpine"))


async def test_a_runtimes_name_becomes_its_path_and_an_argument_stays(tmp_path, toolchain):
    plan = Plan(argv=("sh", "-c", "x", "cc", "main", "cc"), runtime=Runtime(name="cc"))
    (ready,) = await steps(plan, site_of(tmp_path, Sandbox()))

    assert ("sh", "-c", "x", "/opt/saggar/runtimes/cc", "-O", "main", "cc") == ready.plan.argv
    assert (TOOL,) == ready.layers


def test_other_sources_options_and_toolchains_are_other_programs():
    changed = [
        COMPILE.replace(files=(File(path="main.x", content=b"other"),)),
        COMPILE.replace(argv=("cc", "main.x")),
        COMPILE.replace(env={"A": "b"}),
    ]

    assert digest(COMPILE, "1.0") == digest(COMPILE.replace(), "1.0")
    assert 5 == len({digest(one, "1.0") for one in [COMPILE, *changed]} | {digest(COMPILE, "1.1")})


def test_the_compilers_limits_are_its_own_below_the_ceiling():
    asked = Policy(limits=Limits(wall=1, memory="64MiB"))

    assert build.LIMITS == around(asked, None).limits
    narrow = around(asked, Policy(limits=Limits(memory="512MiB")))
    assert (512 << 20, 10.0) == (narrow.limits.memory, narrow.limits.wall)


def test_walls_that_cannot_take_the_network_away_are_not_asked_to():
    open_ = Policy(isolation="process", network="host")

    assert Network.HOST == around(open_, None).network
    assert Network.NONE == around(open_.replace(isolation=Rung.JAIL), None).network


@pytest.mark.parametrize(
    ("isolation", "path"),
    [
        ("jail", "/opt/saggar/runtimes/cc/bin/cc"),
        ("container", "/opt/saggar/runtimes/cc/bin/cc"),
        ("landlock", "/home/tool/bin/cc"),
        ("process", "/home/tool/bin/cc"),
    ],
)
def test_a_layer_is_where_the_walls_show_it(isolation, path):
    inside = "/opt/saggar/runtimes/cc/bin/cc"
    plan = Plan(argv=(inside, "/opt/saggar/other"), env={"HERE": inside})
    found = located(plan, [TOOL], isolation)

    assert ((path, "/opt/saggar/other"), path) == (found.argv, found.env["HERE"])


async def test_a_part_of_the_library_that_is_none_here_is_the_compilers_to_tell(
    tmp_path, monkeypatch
):
    """The others are there all the same."""
    made = []

    async def find(_):
        return Found("/opt/saggar/runtimes/cc", "1.0", (TOOL,))

    async def workshop(found, compile_, _):
        if "strange" in compile_.libraries:
            raise PrepareFailed("the library does not compile")
        made.append(compile_.libraries)
        return found

    monkeypatch.setattr(runtimes, "find", find)
    monkeypatch.setattr(runtimes, "workshop", workshop)
    plan = PLAN.replace(compile=COMPILE.replace(libraries=("fmt", "strange", "os")))
    sandbox = Sandbox(Output(stream="stderr", data=b"no strange here"), ended(Status.ERROR))
    *_, end = await steps(plan, site_of(tmp_path, sandbox))

    assert "no strange here" == end.error.message
    assert [("fmt",), ("os",), ()] == made


SCRIPT = Plan(argv=("bash", "main.sh"), runtime=Runtime(name="bash"))
ABSENT = ErrorInfo(type="FileNotFoundError", message="bash: No such file or directory")


async def test_a_runtime_that_an_image_lacks_is_named_with_the_image(tmp_path):
    (ready,) = await steps(SCRIPT, site_of(tmp_path, Sandbox(), image="team/bare:1"))
    sandbox = Sandbox(ended(Status.ERROR, exit_code=127, error=ABSENT))

    with pytest.raises(DriverUnavailable, match="bash is not in the image team/bare:1; name one"):
        [_ async for _ in present(sandbox(None, None, None, None), ready.lacking)]


async def test_a_script_that_ends_as_if_its_runtime_were_missing_has_ended_so(tmp_path):
    said = ErrorInfo(type="ExecFailed", message="x")
    for end in (ended(Status.ERROR, exit_code=127), ended(Status.ERROR, exit_code=127, error=said)):
        events = Sandbox(end)(None, None, None, None)

        assert [end] == [one async for one in present(events, "lacking")][1:]
