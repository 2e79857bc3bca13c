"""Finding completions that copy what they were told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.echo import ECHO_TOKENS, echoes

TOKENS = st.lists(st.integers(0, 3), max_size=30)


def test_eight_tokens_in_a_row_are_an_echo_and_seven_are_not() -> None:
    scaffold = range(100, 120)
    assert echoes([1, *scaffold[5:13], 2], scaffold, [])
    assert not echoes([1, *scaffold[5:12], 2], scaffold, [])
    assert not echoes([1, *scaffold[5:9], 2, *scaffold[9:13]], scaffold, [])


def test_what_the_original_prompt_says_too_may_be_said_again() -> None:
    scaffold = range(100, 120)
    assert not echoes(scaffold[:8], scaffold, [1, *scaffold[:8], 2])
    assert echoes(scaffold[:9], scaffold, [1, *scaffold[:8], 2])


@pytest.mark.parametrize("length", [1, 3, ECHO_TOKENS - 1])
def test_a_shorter_scaffold_is_echoed_by_the_whole_of_it(length: int) -> None:
    scaffold = range(100, 100 + length)
    assert echoes([1, *scaffold], scaffold, [])
    assert not echoes([1, *scaffold[1:]], scaffold, [])


def test_nothing_was_told_so_nothing_is_echoed() -> None:
    assert not echoes([1, 2, 3], [], [])
    assert not echoes([], [1, 2, 3], [])


@given(TOKENS, TOKENS, TOKENS)
def test_an_echo_is_a_run_that_stands_in_the_scaffold_and_not_in_the_prompt(
    completion: list[int], scaffold: list[int], original: list[int]
) -> None:
    def holds(tokens: list[int], run: list[int]) -> bool:
        return any(tokens[at : at + len(run)] == run for at in range(len(tokens) - len(run) + 1))

    length = min(ECHO_TOKENS, len(scaffold))
    runs = [completion[at : at + length] for at in range(len(completion) - length + 1)] if length else []
    assert echoes(completion, scaffold, original) == any(
        holds(scaffold, run) and not holds(original, run) for run in runs
    )
