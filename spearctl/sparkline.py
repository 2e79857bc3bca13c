"""A row of numbers as a row of blocks, one a letter."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from typing import TextIO

BLOCKS = "▁▂▃▄▅▆▇█"
LETTERS = "_.-:=+*#"
"""For terminals without the blocks: the more ink, the higher."""
PLAIN_TERMINALS = frozenset({"dumb", "linux"})
"""What they call themselves that have few letters besides those of ASCII."""


def sparkline(values: Sequence[float | None], width: int, *, levels: str = BLOCKS) -> str:
    """Draws numbers from the lowest to the highest; a blank stands for what is not known.

    Args:
        values: In order. More than ``width`` are averaged in groups of neighbours, each about as large.
        width: The most letters there may be.
        levels: Letters from low to high.
    """
    groups = _groups([value if value is not None and math.isfinite(value) else None for value in values], width)
    known = [value for value in groups if value is not None]
    if not known:
        return " " * len(groups)
    low, high = min(known), max(known)
    return "".join(" " if value is None else levels[_level(value, low, high, len(levels))] for value in groups)


def levels_for(file: TextIO) -> str:
    """Letters that a terminal, or whatever a file is, can show."""
    try:
        BLOCKS.encode(file.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return LETTERS
    is_plain = file.isatty() and os.environ.get("TERM") in PLAIN_TERMINALS
    return LETTERS if is_plain else BLOCKS


def _level(value: float, low: float, high: float, count: int) -> int:
    if high <= low:  # all the same: neither high nor low
        return count // 2
    # Divided before they are subtracted, because a difference of two large numbers may be too large for one.
    span = high / count - low / count
    return min(count - 1, int((value / count - low / count) / span * count)) if span > 0 else count // 2


def _groups(values: Sequence[float | None], width: int) -> list[float | None]:
    if len(values) <= width:
        return list(values)
    edges = [len(values) * i // width for i in range(width + 1)]
    found: list[float | None] = []
    for start, end in itertools.pairwise(edges):
        known = [value for value in values[start:end] if value is not None]
        found.append(sum(value / len(known) for value in known) if known else None)
    return found
