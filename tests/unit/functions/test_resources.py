"""RunPod's words for a function's workers, and what becomes of them in ours."""

from typing import Any, cast

import pytest

import saggar
from saggar import GpuGroup, LiveServerless
from saggar.drivers.gpu import Card, Machine
from saggar.errors import DriverUnavailable, InvalidTask, UsageError
from saggar.functions.options import Options, Said
from saggar.functions.resources import MODELS, WORKER
from saggar.model.environment import Environment
from saggar.model.limits import Limits
from saggar.model.plan import Warmth
from saggar.model.policy import Policy

NOTHING = Machine()


def machine(*models):
    """A machine with these GPUs, all of which can be passed."""
    nodes = ["/dev/nvidiactl", "/dev/nvidia-uvm", *(f"/dev/nvidia{n}" for n in range(len(models)))]
    return Machine(
        nodes=dict.fromkeys(nodes, 0o666),
        cards=tuple(Card(number, model) for number, model in enumerate(models)),
        libraries={"libcuda.so.1": "/usr/lib/libcuda.so.1"},
    )


def said(resource=None, **options: Any):
    if resource is not None:
        options["resource_config"] = resource
    return Said().but(cast("Options", options))


def test_the_documents_own_resource_has_the_defaults_it_names():
    written = LiveServerless(
        name="my-endpoint",
        gpus=[GpuGroup.ANY],
        workersMax=5,
        workersMin=0,
        idleTimeout=5,
        executionTimeoutMs=600000,
    )

    assert written == LiveServerless(name="my-endpoint")
    assert Warmth("my-endpoint", 0, 5, 300.0) == written.warmth


def test_every_group_but_any_names_models():
    assert set(GpuGroup) - {GpuGroup.ANY} == MODELS.keys() == set(GpuGroup.all())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"liveserverless\.name: is missing"),
        ({"name": " "}, r"liveserverless\.name: wanted a name such as 'my-endpoint'"),
        ({"name": "x", "workersMin": 6}, "workersMin is 6 and workersMax only 5"),
        ({"name": "x", "workersmax": 6}, "did you mean 'workersMax'"),
        ({"name": "x", "workersMax": 0}, r"workersMax: must be greater than or equal to 1"),
        ({"name": "x", "idleTimeout": 0}, "idleTimeout: must be greater than 0"),
        ({"name": "x", "executionTimeoutMs": 0}, "executionTimeoutMs: must be"),
        ({"name": "x", "gpus": ["RTX"]}, r"gpus\.0: must be 'any', 'ADA_24'"),
        ({"name": "x", "flashboot": True}, "flashboot: a cloud is told so"),
    ],
)
def test_what_a_resource_cannot_be_is_said_with_the_way_out(fields, message):
    with pytest.raises(InvalidTask, match=message):
        LiveServerless(**fields)


def test_its_words_become_ours():
    found = said(
        LiveServerless(name="x", executionTimeoutMs=2500, idleTimeout=2, env={"A": "1"}),
        dependencies=["numpy==2.*"],
        system_dependencies=["ffmpeg"],
        hf_models_to_cache=["org/name"],
        accelerate_downloads=True,
        env={"B": "2"},
    )

    assert 2.5 == found.timeout == found.walls().limits.wall
    assert 120 == found.idle
    assert {"A": "1", "B": "2"} == found.env
    assert (
        Environment(packages=["numpy==2.*"], system_packages=["ffmpeg"], models=["org/name"])
        == found.around()
    )


def test_a_worker_has_what_a_machine_has_unless_limits_say_otherwise():
    resource = LiveServerless(name="x")
    wide = said(resource).walls().limits
    narrow = said(resource, limits={"memory": "1GiB", "cpu": 7}).walls().limits

    assert Limits().replace(**WORKER).memory == wide.memory == wide.file_size
    assert (600, 600) == (wide.wall, wide.cpu)
    assert (1 << 30, 7, 600) == (narrow.memory, narrow.cpu, narrow.wall)
    assert Limits(wall=3) == said(resource, limits=Limits(wall=3)).walls().limits


def test_the_words_work_without_a_resource_too():
    assert Environment(packages=["six"]) == said(dependencies=["six"]).around()
    assert said().walls() == said(dependencies=["six"]).walls()


def test_later_options_of_our_own_take_the_place_of_its_numbers():
    first = said(LiveServerless(name="x", executionTimeoutMs=2500))

    assert 1 == first.but({"timeout": 1}).walls().limits.wall


RESOURCE = LiveServerless(name="x", executionTimeoutMs=1000, idleTimeout=1, env={"A": "1"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dependencies": ["six"], "environment": Environment(packages=("six",))},
            "dependencies and environment say the same in two vocabularies",
        ),
        (
            {"system_dependencies": ["tree"], "environment": Environment(packages=("six",))},
            "system_dependencies and environment say the same",
        ),
        ({"hf_models_to_cache": ["a/b"], "models": ["c/d"]}, "hf_models_to_cache and models"),
        ({"timeout": 3}, "executionTimeoutMs of the resource and timeout"),
        ({"limits": {"wall": 3}}, "executionTimeoutMs of the resource and timeout"),
        ({"policy": Policy()}, "executionTimeoutMs of the resource and timeout"),
        ({"idle": 3}, "idleTimeout of the resource and idle"),
        ({"env": {"A": "2"}}, "env: the resource and the function give A different values"),
        ({"where": "queue"}, "where: 'queue' has workers of its own"),
        ({"dependencies": "six"}, r"dependencies: wanted a list such as \['six'\]"),
        ({"dependencies": ["--index-url=x"]}, "wanted a package such as"),
        ({"accelerate_downloads": 1}, "accelerate_downloads: wanted True or False"),
    ],
)
def test_the_same_said_twice_is_told_apart(options, message):
    with pytest.raises(UsageError, match=message):
        said(RESOURCE, **options)


def test_a_resource_is_one():
    with pytest.raises(InvalidTask, match="wanted a LiveServerless, found 5"):
        cast("Any", saggar.remote)(5)
    with pytest.raises(InvalidTask, match="given twice"):
        saggar.remote(RESOURCE, resource_config=RESOURCE)


def test_any_gpu_is_a_wish_and_a_group_an_order():
    wish = LiveServerless(name="x")
    order = LiveServerless(name="x", gpus=[GpuGroup.ADA_24], gpuCount=2)

    assert 0 == wish.gpus_here(NOTHING)
    assert 1 == wish.gpus_here(machine("NVIDIA L4"))
    assert 0 == wish.gpus_here(machine("NVIDIA L4"), Policy())
    assert 1 == wish.gpus_here(machine("NVIDIA L4"), Policy(gpu=1))
    assert 2 == order.gpus_here(NOTHING)
    assert 0 == LiveServerless(name="x", gpus=None).gpus_here(machine("NVIDIA L4"))


def test_a_number_beside_any_insists():
    wish = LiveServerless(name="x")

    assert 2 == said(wish, gpu=2).walls().gpu
    assert 3 == said(wish, policy=Policy(gpu=3)).walls().gpu
    assert 0 == said(wish, gpu=0).walls().gpu


@pytest.mark.parametrize(
    ("resource", "asked", "message"),
    [
        (LiveServerless(name="x", gpus=[GpuGroup.ADA_24]), 0, r"gpu=0 and gpus=\[ADA_24\]"),
        (LiveServerless(name="x", gpus=[]), 1, "gpu=1 and a resource without gpus"),
        (LiveServerless(name="x", gpuCount=2), 1, "gpu=1 and gpuCount=2"),
    ],
)
def test_two_words_on_gpus_have_to_agree(resource, asked, message):
    with pytest.raises(InvalidTask, match=message):
        said(resource, gpu=asked)


def test_a_gpu_of_another_group_is_none():
    resource = LiveServerless(name="x", gpus=[GpuGroup.ADA_24, GpuGroup.AMPERE_24])
    resource.refuse_others(machine("NVIDIA L4", "NVIDIA A40"))

    with pytest.raises(DriverUnavailable, match=r"wanted a GPU of ADA_24, AMPERE_24 .* A40"):
        resource.refuse_others(machine("NVIDIA A40"))
