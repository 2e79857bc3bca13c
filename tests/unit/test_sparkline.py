"""Rows of numbers as rows of blocks."""

from __future__ import annotations

import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spearctl.sparkline import BLOCKS, LETTERS, levels_for, sparkline


def test_numbers_rise_from_the_lowest_block_to_the_highest() -> None:
    assert sparkline(range(8), 8) == BLOCKS
    assert sparkline(range(7, -1, -1), 8) == BLOCKS[::-1]


def test_the_plain_letters_stand_for_the_same_levels() -> None:
    assert sparkline(range(8), 8, levels=LETTERS) == LETTERS


def test_what_is_not_known_is_a_blank() -> None:
    assert sparkline([0, None, 7, math.nan, math.inf], 8) == f"{BLOCKS[0]} {BLOCKS[-1]}  "
    assert sparkline([None, None], 8) == "  "
    assert sparkline([], 8) == ""


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0, 3.0], [0.0, 0.0]])
def test_numbers_that_are_all_the_same_are_neither_high_nor_low(values: list[float]) -> None:
    assert set(sparkline(values, 8)) == {BLOCKS[4]}


def test_more_numbers_than_letters_are_averaged_in_order() -> None:
    assert sparkline([0, 2, 7, 9, 14, 16], 3) == f"{BLOCKS[0]}{BLOCKS[4]}{BLOCKS[-1]}"
    assert sparkline([None, None, 0, 4], 2) == f" {BLOCKS[4]}"


@given(
    st.lists(st.none() | st.floats(), max_size=60),
    st.integers(min_value=1, max_value=20),
)
def test_any_numbers_fit_and_only_the_levels_are_used(values: list[float | None], width: int) -> None:
    drawn = sparkline(values, width)
    assert len(drawn) == min(len(values), width)
    assert set(drawn) <= {*BLOCKS, " "}


def test_a_file_that_has_no_blocks_gets_letters() -> None:
    assert levels_for(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")) == BLOCKS
    assert levels_for(io.TextIOWrapper(io.BytesIO(), encoding="latin-1")) == LETTERS
    assert levels_for(io.TextIOWrapper(io.BytesIO(), encoding="ascii")) == LETTERS


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("name", "levels"), [("linux", LETTERS), ("dumb", LETTERS), ("xterm-256color", BLOCKS)])
def test_a_terminal_with_few_letters_gets_plain_ones(monkeypatch: pytest.MonkeyPatch, name: str, levels: str) -> None:
    monkeypatch.setenv("TERM", name)
    assert levels_for(Terminal(io.BytesIO(), encoding="utf-8")) == levels
