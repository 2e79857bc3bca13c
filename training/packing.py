"""Sequences as one row of tokens, where what several of them begin with stands once.

Layers that look at one token at a time (all but attention) then compute neither padding nor anything twice: a system
prompt once a batch, and a task once for its answer and the next try, or for a win and a loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """Where one sequence is.

    Attributes:
        known: Its first tokens that are computed already, and in no run.
        runs: Ranges of packed tokens that, one after another, are the rest of it.
        own: The range of packed tokens that stand there for this sequence; empty where others have them all.
    """

    known: int
    runs: tuple[range, ...]
    own: range

    @property
    def length(self) -> int:
        """Tokens of the sequence."""
        return self.known + sum(map(len, self.runs))

    @property
    def last(self) -> int:
        """Where its last token stands."""
        return self.runs[-1][-1]

    def at(self, column: int) -> int:
        """Where its token ``column`` stands."""
        column -= self.known
        for run in self.runs:
            if column < len(run):
                return run[column]
            column -= len(run)
        raise IndexError("behind the end of the sequence")


@dataclass(frozen=True, slots=True)
class Packing:
    """Packed sequences.

    Attributes:
        tokens: Token ids ``[N]``.
        positions: The place of each in its sequences ``[N]``.
        rows: One a sequence, in the order they were given.
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    rows: tuple[Row, ...]


def pack(sequences: Sequence[Sequence[int]], known: Sequence[int] | None = None) -> Packing:
    """Packs sequences.

    Args:
        sequences: Token ids, none empty.
        known: How many tokens of each need no computing, fewer than it has. Of equal beginnings equally many must be
            known, up to where either is known or they differ.
    """
    starts = known or [0] * len(sequences)
    order = sorted(range(len(sequences)), key=lambda i: tuple(sequences[i]))
    rows: dict[int, Row] = {}
    tokens: list[int] = []
    positions: list[int] = []
    before: int | None = None
    for i in order:
        sequence, start = sequences[i], starts[i]
        runs: tuple[range, ...] = ()
        if before is not None:
            shared = common(sequences[before], sequence)
            runs = _between(rows[before], start, shared)
            start = max(start, shared)
        own = range(len(tokens), len(tokens) + len(sequence) - start)
        tokens += sequence[start:]
        positions += range(start, len(sequence))
        rows[i] = Row(starts[i], (*runs, own) if own else runs, own)
        before = i
    return Packing(tuple(tokens), tuple(positions), tuple(rows[i] for i in range(len(sequences))))


def passes(sequences: Sequence[Sequence[int]], most_tokens: int) -> Iterator[range]:
    """Splits sequences into runs of at most ``most_tokens``, shared beginnings counted once, or of one sequence."""
    start = tokens = 0
    for at, sequence in enumerate(sequences):
        more = len(sequence) - (common(sequences[at - 1], sequence) if at > start else 0)
        if at > start and tokens + more > most_tokens:
            yield range(start, at)
            start, tokens, more = at, 0, len(sequence)
        tokens += more
    yield range(start, len(sequences))


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _between(row: Row, first: int, end: int) -> tuple[range, ...]:
    """The runs of a row that hold its tokens ``[first, end)``."""
    runs: list[range] = []
    at = row.known
    for run in row.runs:
        low, high = max(first - at, 0), min(end - at, len(run))
        if low < high:
            runs.append(run[low:high])
        at += len(run)
    return tuple(runs)
