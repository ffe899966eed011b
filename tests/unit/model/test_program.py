from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saggar.errors import InvalidTask
from saggar.model import (
    ALL_KINDS,
    CodeKind,
    Command,
    Environment,
    Inline,
    Named,
    Pickled,
    Program,
)

TEXT = st.text(st.characters(codec="utf-8"))
CODE = st.one_of(
    st.builds(Inline, text=TEXT),
    st.builds(Pickled, payload=st.binary()),
    st.builds(Named, name=st.from_regex(r"[a-z.]+", fullmatch=True)),
    st.builds(
        Command, argv=st.lists(st.from_regex(r"[a-z -]*", fullmatch=True), min_size=1).map(tuple)
    ),
)


@given(CODE)
def test_a_program_comes_back_from_json_as_it_was(code):
    program = Program(code=code)

    assert program == Program.model_validate_json(program.model_dump_json())


def test_every_form_of_code_has_a_kind():
    assert {CodeKind.INLINE, CodeKind.PICKLED, CodeKind.NAMED, CodeKind.COMMAND} == ALL_KINDS


def test_text_is_a_program():
    assert (
        Program(code=Inline(text="print(1)")) == Program.of("print(1)") == Program.of(b"print(1)")
    )


def test_what_is_said_beside_a_program_goes_first():
    program = Program.of("pass", language="node", packages="left-pad")

    again = Program.of(program, entry="main", packages=["right-pad"])

    assert ("node", "main") == (again.language, again.entry)
    assert ("left-pad", "right-pad") == again.environment.packages


def test_packages_are_added_to_the_environment():
    around = Environment(packages=("numpy",), host_packages=True)

    program = Program.of("pass", environment=around, packages=("scipy",))

    assert Environment(packages=("numpy", "scipy"), host_packages=True) == program.environment


def test_code_that_is_not_utf8_is_refused():
    with pytest.raises(InvalidTask, match="the code is not UTF-8"):
        Program.of(b"print('\xff')")
    with pytest.raises(InvalidTask, match="no UTF-8 form"):
        Program.of("print('\udcff')")


def test_what_is_not_code_is_refused():
    with pytest.raises(InvalidTask, match="wanted code as text, found int"):
        Program.of(42)  # type: ignore[arg-type]


def test_a_path_is_not_code_and_the_way_out_is_told():
    with pytest.raises(InvalidTask, match=r"wanted code as text, found a path; .*\.read_text\(\)$"):
        Program.of(Path("main.py"))  # type: ignore[arg-type]


@pytest.mark.parametrize("entry", ["", "a b", "a()", "1a", "a..b"])
def test_an_entry_is_a_name(entry):
    with pytest.raises(InvalidTask, match="wanted a function's name"):
        Program.of("pass", entry=entry)


def test_a_command_that_cannot_be_executed_is_refused():
    with pytest.raises(InvalidTask, match=r"^command\.argv"):
        Command(argv=("a\0b",))


def test_a_program_can_be_a_key():
    assert 1 == len({Program.of("pass"), Program.of("pass")})
