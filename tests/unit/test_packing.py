"""Packed sequences: every token is there, once for all that begin alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.packing import Packing, common, pack

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=8)


def unpacked(packing: Packing, row: int) -> list[int]:
    """The tokens of a sequence that its runs hold."""
    return [packing.tokens[at] for run in packing.rows[row].runs for at in run]


@given(SEQUENCES)
def test_every_sequence_is_there_and_no_beginning_twice(sequences: list[list[int]]) -> None:
    packing = pack(sequences)
    assert [unpacked(packing, row) for row in range(len(sequences))] == sequences
    beginnings = {tuple(sequence[: end + 1]) for sequence in sequences for end in range(len(sequence))}
    assert len(packing.tokens) == len(packing.positions) == len(beginnings)
    for sequence, row in zip(sequences, packing.rows, strict=True):
        assert row.length == len(sequence)
        places = [row.at(column) for column in range(len(sequence))]
        assert [packing.tokens[at] for at in places] == sequence
        assert [packing.positions[at] for at in places] == list(range(len(sequence)))
        assert places[-1] == row.last
        with pytest.raises(IndexError):
            row.at(len(sequence))


@given(SEQUENCES)
def test_every_token_is_the_own_one_of_one_sequence(sequences: list[list[int]]) -> None:
    packing = pack(sequences)
    own = sorted((row.own for row in packing.rows if row.own), key=lambda tokens: tokens.start)
    assert [at for tokens in own for at in tokens] == list(range(len(packing.tokens)))


@given(SEQUENCES, SEQUENCES)
def test_what_is_known_is_not_computed(before: list[list[int]], sequences: list[list[int]]) -> None:
    known = [min(max(common(one, other) for other in before), len(one) - 1) for one in sequences]
    packing = pack(sequences, known)
    for at, (sequence, start) in enumerate(zip(sequences, known, strict=True)):
        assert packing.rows[at].known == start
        assert packing.rows[at].length == len(sequence)
        assert unpacked(packing, at) == sequence[start:]


def test_how_much_two_sequences_have_in_common() -> None:
    assert [common(*pair) for pair in (("", ""), ("ab", "ab"), ("ab", "abc"), ("xb", "ab"), ("abc", "abd"))] == [
        *(0, 2, 2, 0, 2)
    ]
