from saggar.model import Capabilities, Layer, Network, Plan, Support, WarmKey
from saggar.model.plan import around

HERE = Capabilities(
    driver="jail",
    available=True,
    limits={
        "wall": Support(enforced=True, how="clock"),
        "memory": Support(enforced=False, why_not="no cgroup is writable"),
    },
)


def test_a_driver_says_which_limits_hold():
    assert HERE.enforces("wall")
    assert "" == HERE.why("wall")


def test_a_driver_says_why_a_limit_does_not_hold():
    assert not HERE.enforces("memory")
    assert "no cgroup is writable" == HERE.why("memory")


def test_a_limit_that_a_driver_does_not_know_does_not_hold():
    assert not HERE.enforces("disk")
    assert "jail has no way to limit disk" == HERE.why("disk")


def test_equal_keys_find_the_same_children():
    first = WarmKey(interpreter="/usr/bin/python3", environment="sha256:0")
    second = WarmKey(interpreter="/usr/bin/python3", environment="sha256:0")
    other = WarmKey(interpreter="/usr/bin/python3", environment="sha256:0", network=Network.HOST)

    assert {first} == {first, second}
    assert first != other


def test_plans_and_layers_come_back_from_json_as_they_were():
    plan = Plan(argv=("cc", "main.c"), guest={"entry": "main", "deep": [{"a": None}]})
    layer = Layer(path="/cache/x", target="/opt/x", python_path=True)

    assert plan == Plan.model_validate_json(plan.model_dump_json())
    assert layer == Layer.model_validate_json(layer.model_dump_json())


def test_layers_say_where_programs_look_before_they_look_elsewhere():
    layer = Layer(
        path="/cache/x",
        target="/opt/x",
        search=(("PATH", ("usr/bin", "/usr/bin")), ("HF_HOME", ("",))),
        env=(("OFFLINE", "1"),),
    )
    variables = {"PATH": "/bin", "HOME": "/work"}

    assert {
        "PATH": "/opt/x/usr/bin:/usr/bin:/bin",
        "HOME": "/work",
        "HF_HOME": "/opt/x",
        "OFFLINE": "1",
    } == around(variables, [layer])
    assert "/cache/x/usr/bin:/usr/bin:/bin" == around(variables, [layer], inside=False)["PATH"]
    assert {"PATH": "/bin", "HOME": "/work"} == variables == around(variables, [])
