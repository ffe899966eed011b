import struct

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.drivers.jail.confined import Program, judge

from saggar.drivers.jail.bpf import (
    AT_LEAST,
    EQUALS,
    HAS_ANY,
    NUMBER,
    If,
    Span,
    Word,
    argument,
    assemble,
    search,
)

WORDS = [NUMBER, argument(0), argument(1), argument(1, 0xF)]
VALUES = st.sampled_from([0, 1, 2, 7, 15, 16, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
RELATIONS = st.sampled_from([EQUALS, AT_LEAST, HAS_ANY])


def grown(inner):
    return st.builds(If, st.sampled_from(WORDS), RELATIONS, VALUES, inner, inner)


DECISIONS = st.recursive(st.integers(0, 5), grown, max_leaves=40)
CALLS = st.fixed_dictionaries({word.offset: VALUES for word in WORDS})


@given(DECISIONS, CALLS)
def test_a_program_comes_to_what_its_decision_says(decision, words):
    assert judge(decision, words) == Program(assemble(decision)).run(words)


@given(DECISIONS)
def test_every_jump_of_a_program_ends_inside_it(decision):
    """The kernel refuses a program otherwise, and one that does not end in a return."""
    code = Program(assemble(decision)).code

    jumps = [(place, yes, no) for place, (kind, yes, no, _) in enumerate(code) if kind & 7 == 5]

    assert 0x06 == code[-1][0]
    assert all(place + 1 + max(yes, no) < len(code) for place, yes, no in jumps)


def test_a_jump_too_far_for_one_byte_still_arrives():
    """Six hundred different ends: the tree is longer than any conditional jump."""
    spans = [Span(n, 1, If(argument(0), EQUALS, n, n, 1000 + n)) for n in range(600)]
    program = Program(assemble(search(spans)))

    assert len(program.code) > 1200
    for number in (0, 1, 299, 300, 301, 599):
        assert number == program.run({0: number, 16: number})
        assert 1000 + number == program.run({0: number, 16: 9999})


def test_a_word_that_is_already_held_is_not_loaded_again():
    twice = If(NUMBER, EQUALS, 1, 10, If(NUMBER, EQUALS, 2, 20, 30))

    assert 1 == sum(0x20 == operation for operation, *_ in Program(assemble(twice)).code)


def test_a_masked_word_does_not_pass_for_the_whole_one():
    part, whole = Word(24, 0xF), Word(24)
    decision = If(part, EQUALS, 1, If(whole, EQUALS, 0x11, 1, 2), 3)
    program = Program(assemble(decision))

    assert [1, 2, 3] == [program.run({24: value}) for value in (0x11, 0x21, 0x12)]


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3)), min_size=1, max_size=60))
def test_a_search_finds_the_span_that_a_number_is_in(widths):
    spans, first = [], 0
    for width, verdict in widths:
        spans.append(Span(first, width, verdict))
        first += width
    program = Program(assemble(search(spans)))

    for span in spans:
        for number in (span.first, span.first + span.width - 1):
            assert span.decision == program.run({0: number})


def test_wide_spans_are_found_in_fewer_steps_than_narrow_ones():
    spans = [Span(0, 400, 1), *(Span(400 + n, 1, n) for n in range(50))]
    program = Program(assemble(search(spans)))

    assert 3 == len(program.trace({0: 5})[1])


def test_instructions_are_packed_as_the_kernel_reads_them():
    packed = assemble(If(NUMBER, EQUALS, 7, 1, 2))

    assert (0x20, 0, 0, 0) == struct.unpack_from("<HBBI", packed)
    assert (0x15, 0, 1, 7) == struct.unpack_from("<HBBI", packed, 8)
    assert 32 == len(packed)
