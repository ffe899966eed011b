"""Which kernels there are, in layers and on this machine."""

import json

import pytest

from saggar.errors import InvalidTask, NotFound
from saggar.model.plan import Layer
from saggar.sessions import kernelspecs

SPEC = {"argv": ["python3", "-m", "it", "-f", "{connection_file}"], "language": "python"}


@pytest.fixture
def layer(tmp_path):
    return Layer(path=str(tmp_path / "host"), target="/inside")


def written(layer, name, said):
    from pathlib import Path

    folder = Path(layer.path) / "share" / "jupyter" / "kernels" / name
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(said if isinstance(said, str) else json.dumps(said))


def test_a_kernel_of_a_layer_is_found_as_the_inside_calls_it(layer):
    written(layer, "it", {**SPEC, "env": {"A": "1"}, "interrupt_mode": "message"})
    spec = kernelspecs.found("it", [layer], here=False)

    assert tuple(SPEC["argv"]) == spec.argv
    assert ({"A": "1"}, True) == (spec.env, spec.by_message)
    assert "/inside/share/jupyter/kernels/it" == spec.folder


def test_those_there_are_are_named(layer):
    written(layer, "it", SPEC)

    with pytest.raises(NotFound, match="it, python"):
        kernelspecs.found("other", [layer], here=False)


def test_this_machines_kernels_are_seen_only_where_its_programs_are(layer, tmp_path, monkeypatch):
    written(Layer(path=str(tmp_path / "usr"), target=""), "local", SPEC)
    monkeypatch.setattr(kernelspecs, "PREFIXES", (str(tmp_path / "usr"),))

    assert "local" == kernelspecs.found("local", [], here=True).name
    with pytest.raises(NotFound):
        kernelspecs.found("local", [], here=False)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "[]",
        "{}",
        '{"argv": []}',
        '{"argv": "python"}',
        '{"argv": [1]}',
        '{"argv": ["a"], "env": 1}',
    ],
)
def test_what_is_no_kernelspec_is_refused(layer, said):
    written(layer, "it", said)

    with pytest.raises(InvalidTask, match="kernelspec of 'it'"):
        kernelspecs.found("it", [layer], here=False)
