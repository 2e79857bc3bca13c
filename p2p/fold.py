"""What a round adds to the shared state: the average of its deltas, in integers alone.

    fedavg          rounddiv(sum of w q << 8, sum of w)      McMahan et al. 2017, arXiv 1602.05629
    trimmed_mean    rounddiv(sum of kept q << 8, how many)   Yin et al. 2018, arXiv 1803.01498: a value at a time, the
    median          the same, with all but the middle cut    largest and the smallest are cut, each author counts once

Every sum is exact (a delta's values are below 2^15, weights and members at most 2^16 each, so sums shifted by 8 are
below 2^55), so the order of parts cannot matter.

Not covered here: who may say what. ``fedavg`` believes every weight; the others hold as long as no more lie than are
cut on a side, and they see neither collusion nor one person with many keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from p2p.errors import WireError
from p2p.grid import FINE_BITS, Coarse, Fine, Wide, blocks, furthest_state, rounddiv, scatter, values_in
from p2p.limits import MIB
from p2p.records import Genesis

MIN_FOLD = 3
"""Under a rule that cuts, fewer parts than this add nothing."""

_TABLE_BYTES = 32 * MIB
_SORTED_AT_ONCE = 1 << 18


@dataclass(frozen=True, slots=True)
class Part:
    """A delta of a round.

    Attributes:
        id: Of its header.
        author: Node id.
        weight: From 0 (ignored, not loaded) to 2^16.
        load: Reads its values, flat over the tensors that travel in the round. May be called more than once.
    """

    id: bytes
    author: bytes
    weight: int
    load: Callable[[], Coarse]


def fold_round(genesis: Genesis, round: int, parts: Sequence[Part]) -> Fine:
    """What a round adds: ``[parameters]`` int32 on the fine grid, zeros if nothing counts.

    ``fedavg`` loads one part at a time, once. The other rules need a value of all parts at a time and hold them in a
    table of 32 MiB at most; when the round is larger than that, every part is loaded again for every piece.

    Raises:
        WireError: Two parts that count are by one author.
    """
    counted = sorted((part for part in parts if part.weight > 0), key=lambda part: part.id)
    if len({part.author for part in counted}) < len(counted):
        raise WireError(f"two deltas of one author count in round {round}")
    tensors = genesis.travelling(round)
    size = values_in(tensors)
    if genesis.rule == "fedavg":
        average = _weighted_mean(counted, size)
    else:
        average = _middle_mean(counted, size, _cut(genesis.rule, len(counted)))
    return scatter(average, genesis, tensors)


def add(state: Fine, contribution: Fine) -> Fine:
    """Their sum modulo 2^32, on purpose: what was added can always be subtracted again."""
    return (state.view(np.uint32) + contribution.view(np.uint32)).view(np.int32)


def subtract(state: Fine, contribution: Fine) -> Fine:
    """Their difference modulo 2^32: undoes ``add``."""
    return (state.view(np.uint32) - contribution.view(np.uint32)).view(np.int32)


def alarming(state: Fine, genesis: Genesis) -> int:
    """How many values have gone so far that something must be wrong."""
    furthest = furthest_state(genesis)
    return int(np.count_nonzero(state > furthest)) + int(np.count_nonzero(state < -furthest))


def _weighted_mean(parts: Sequence[Part], size: int) -> Fine:
    total = np.zeros(size, dtype=np.int64)
    for part in parts:
        _add_weighted(total, part.load(), part.weight)
    return _mean(total, sum(part.weight for part in parts))


def _add_weighted(total: Wide, values: Coarse, weight: int) -> None:
    for block in blocks(total.size):
        total[block] += np.multiply(values[block], weight, dtype=np.int64)


def _cut(rule: str, count: int) -> int:
    """How many of the largest, and of the smallest, do not count."""
    return (count - 1) // 2 if rule == "median" else max(1, count // 5)


def _middle_mean(parts: Sequence[Part], size: int, cut: int) -> Fine:
    average = np.zeros(size, dtype=np.int32)
    if len(parts) < MIN_FOLD:
        return average
    for block in blocks(size, max(1, _TABLE_BYTES // (2 * len(parts)))):
        average[block] = _kept_mean(_table(parts, block), cut)
    return average


def _table(parts: Sequence[Part], block: slice) -> Coarse:
    """Some values of all parts: ``[parts, values]``."""
    table = np.empty((len(parts), block.stop - block.start), dtype=np.int16)
    for row, part in zip(table, parts, strict=True):
        row[:] = part.load()[block]
    return table


def _kept_mean(table: Coarse, cut: int) -> Fine:
    mean = np.empty(table.shape[1], dtype=np.int32)
    for piece in blocks(table.shape[1], max(1, _SORTED_AT_ONCE // len(table))):
        kept = np.sort(table[:, piece], axis=0)[cut : len(table) - cut]
        mean[piece] = _mean(kept.sum(axis=0, dtype=np.int64), len(kept))
    return mean


def _mean(total: Wide, count: int) -> Fine:
    """The nearest fine steps to coarse sums divided by a count; zeros for nothing."""
    mean = np.zeros(total.size, dtype=np.int32)
    if count:
        for block in blocks(total.size):
            mean[block] = rounddiv(total[block] << FINE_BITS, count)
    return mean
