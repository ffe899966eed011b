import pytest
from pydantic import TypeAdapter, ValidationError

import saggar.model
from saggar.errors import InvalidTask
from saggar.model import Environment, Limits, Policy, Task, Value

VALUES = [
    value
    for value in vars(saggar.model).values()
    if isinstance(value, type) and issubclass(value, Value)
]


def test_everything_that_is_exported_exists():
    assert all(hasattr(saggar.model, name) for name in saggar.model.__all__)


@pytest.mark.parametrize("value", VALUES)
def test_every_value_has_a_schema_for_both_ways(value):
    assert TypeAdapter(value).json_schema(mode="validation")
    assert TypeAdapter(value).json_schema(mode="serialization")


def test_a_value_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Limits().memory = 1  # type: ignore[misc]


def test_a_changed_copy_leaves_the_original():
    policy = Policy()

    assert policy.replace(host_packages=True).host_packages
    assert not policy.host_packages


def test_a_changed_copy_is_checked():
    with pytest.raises(InvalidTask, match="wanted a size"):
        Limits().replace(memory="lots")
    with pytest.raises(InvalidTask, match="no field named 'memry'"):
        Limits().replace(memry=1)


def test_what_comes_over_a_wire_is_rejected_with_every_place_named():
    """Doors that speak HTTP need pydantic's own error, not our one line."""
    with pytest.raises(ValidationError) as caught:
        Task.model_validate_json('{"program": {"code": {"kind": "inline"}, "x": 1}}')

    assert {("program", "code", "inline", "text"), ("program", "x")} == {
        error["loc"] for error in caught.value.errors()
    }


def test_a_value_survives_pickling_and_can_be_a_key():
    import pickle

    environment = Environment(packages=("numpy",))

    assert environment == pickle.loads(pickle.dumps(environment))
    assert 1 == len({environment, Environment(packages=("numpy",))})
