from pathlib import Path
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saggar.errors import InvalidTask
from saggar.model import LARGEST_TASK, Environment, File, Payload, Program, Task
from saggar.model.task import _refuse_clashes

NAMES = st.from_regex(r"[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,2}", fullmatch=True)
FILES = st.lists(st.builds(File, path=NAMES, content=st.binary(max_size=16)), max_size=3)


@given(files=FILES, stdin=st.binary(), args=st.lists(st.from_regex(r"[ -~]*", fullmatch=True)))
def test_a_task_comes_back_from_json_as_it_was(files, stdin, args):
    try:
        task = Task.of("pass", input=[1], files=files, stdin=stdin, args=args, env={"A": "b"})
    except InvalidTask:
        return

    assert task == Task.model_validate_json(task.model_dump_json())


def test_text_content_becomes_utf8():
    assert "é".encode() == File(path="a", content="é").content


def test_files_may_be_given_by_name():
    files: dict[str, bytes | str] = {"a.csv": "1,2", "b/c": b"\xff"}

    task = Task.of("pass", files=files)

    assert (File(path="a.csv", content=b"1,2"), File(path="b/c", content=b"\xff")) == task.files


def test_what_is_said_beside_a_task_goes_first():
    task = Task.of("pass", args=("a",), env={"A": "1"}, want_value=True)

    again = Task.of(task, args=("b",), input=[1], packages="numpy")

    assert ("b",) == again.args
    assert ({"A": "1"}, True) == (again.env, again.want_value)
    assert Payload.json([1]) == again.input
    assert Environment(packages=("numpy",)) == again.program.environment


def test_a_task_with_nothing_beside_it_is_itself():
    task = Task.of(Program.of("pass"))

    assert task == Task.of(task)


def test_a_lone_pattern_is_one_pattern():
    assert ("*.png",) == Task.of("pass", collect="*.png").collect


@pytest.mark.parametrize(
    "files", ["data.csv", b"data.csv", Path("data.csv"), ["data.csv"], [Path("data.csv")]]
)
def test_the_name_of_a_file_is_not_the_file(files):
    with pytest.raises(InvalidTask) as refused:
        Task.of("pass", files=files)

    said = str(refused.value)
    assert said.startswith("task.files: wanted contents by name such as {'data.csv': b'1,2'}")
    assert "data.csv" in said.partition("found")[2]


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../a", "a/../../b", "a\0b", ".", "a/"])
def test_a_file_or_pattern_outside_the_sandbox_is_refused(path):
    with pytest.raises(InvalidTask, match=r"^file\.path: must be a relative path"):
        Task.of("pass", files={path: b""})
    with pytest.raises(InvalidTask, match=r"^task\.collect\.0: must be a relative path"):
        Task.of("pass", collect=(path,))


@pytest.mark.parametrize("mode", [-1, 0o4755, 0o1777])
def test_a_file_has_no_special_bits(mode):
    with pytest.raises(InvalidTask, match=r"^file\.mode"):
        File(path="a", content=b"", mode=mode)


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ([("a", b"1"), ("./a", b"2")], "two files have the path 'a'"),
        ([("a", b"1"), ("a/b", b"2")], "'a' cannot be a file and the folder of 'a/b'"),
    ],
)
def test_two_files_cannot_be_in_one_place(files, complaint):
    with pytest.raises(InvalidTask, match=complaint):
        Task.of("pass", files=[File(path=path, content=content) for path, content in files])


@pytest.mark.parametrize(
    "fields",
    [
        {"env": {"": "a"}},
        {"env": {"A=B": "a"}},
        {"env": {"A\0": "a"}},
        {"env": {"A": "a\0b"}},
        {"env": {"A": "\udcff"}},
        {"env": {"A": 1}},
        {"args": ("a\0b",)},
        {"args": (1,)},
        {"secrets": ("A=B",)},
        {"stdin": "\udcff"},
        {"files": [1]},
    ],
)
def test_what_cannot_reach_a_process_is_refused(fields):
    with pytest.raises(InvalidTask, match=r"^task\."):
        Task.of("pass", **fields)


def test_ten_megabytes_of_code_are_a_task():
    Task.of("#" * 10_000_000)


def test_a_task_heavier_than_the_cap_is_refused_with_the_way_out():
    half = bytes(LARGEST_TASK // 2)

    with pytest.raises(InvalidTask, match=r"^task: code and files weigh 64 MiB, .*mount"):
        Task.of("12", files={"a": half, "b": half})


def test_a_character_of_code_weighs_what_its_bytes_do():
    with pytest.raises(InvalidTask, match="weigh"):
        Task.of("é" * (LARGEST_TASK // 2 + 1))


@pytest.mark.parametrize("field", ["args", "secrets", "collect"])
def test_what_is_no_list_of_texts_is_refused_by_name(field):
    options: dict[str, Any] = {field: 3}
    with pytest.raises(InvalidTask, match=rf"^task\.{field}: wanted texts, found 3"):
        Task.of("pass", **options)


def test_twenty_thousand_files_are_looked_through_once():
    """The double one at the end: whoever counted each name anew would look 400 million times."""
    paths = [f"folder/{number}" for number in range(20_000)]
    before = process_time()
    with pytest.raises(ValueError, match="two files have the path 'folder/19999'"):
        _refuse_clashes([*paths, paths[-1]])

    assert 1.0 > process_time() - before
