"""Finds completions that copy what they were told instead of answering: small models do."""

from __future__ import annotations

from collections.abc import Sequence

ECHO_TOKENS = 8
"""So many consecutive tokens of the feedback or the scaffolding make an echo."""


def echoes(completion: Sequence[int], scaffold: Sequence[int], original: Sequence[int]) -> bool:
    """Whether ``completion`` holds 8 consecutive tokens of ``scaffold`` that are not in the ``original`` prompt.

    A scaffold shorter than that counts as echoed when the whole of it is.
    """
    length = min(ECHO_TOKENS, len(scaffold))
    if length == 0:
        return False
    told = _runs(scaffold, length) - _runs(original, length)
    return not told.isdisjoint(_runs(completion, length))


def _runs(tokens: Sequence[int], length: int) -> set[tuple[int, ...]]:
    return {tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1)}
