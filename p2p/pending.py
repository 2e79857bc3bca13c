"""What this device has learned and not yet signed: a sum of increments, to which deltas leave nothing behind.

A delta carries whole coarse steps, at most 32767 of them a value, within the swarm's norm bound, of the tensors that
travel in its round. Whatever is left of the sum stays here. Everything is an integer, so nothing is lost and nothing is
counted twice:

    FINE_STEPS * delta + rest = what was pending

Wins are not divided: all go with the next delta, and what stays has none.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from p2p.codec import pack, unpack
from p2p.encoding import digest
from p2p.errors import LedgerError, PayloadError
from p2p.grid import FINE_STEPS, MOST_STEPS, Coarse, Wide, blocks, clip_to_norm, rounddiv, select, slices, values_in
from p2p.records import Genesis

MOST_WINS = 2**31
"""That one header can name."""

_MAGIC = b"SPP\x01"
_HEAD = struct.Struct("<QB")
_DIGEST_BYTES = 32
_KINDS: dict[int, type[np.signedinteger[Any]]] = {
    np.dtype(kind).itemsize: kind for kind in (np.int8, np.int16, np.int32, np.int64)
}
"""By width in bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A sum of increments.

    Attributes:
        values: ``[parameters]`` int64 on the fine grid, relative to nothing: a difference. Never changed in place.
        wins: Right answers that it was learned from.
    """

    values: Wide
    wins: int

    @classmethod
    def empty(cls, genesis: Genesis) -> Pending:
        """Nothing."""
        return cls(np.zeros(genesis.parameters, dtype=np.int64), 0)

    def plus(self, fine: Wide, wins: int) -> Pending:
        """With another increment ``[parameters]`` on the fine grid."""
        return Pending(self.values + fine, self.wins + wins)

    def take(self, genesis: Genesis, round: int) -> tuple[Coarse, int, Pending]:
        """Takes out what a delta of a round can carry.

        Returns:
            Its values, flat over the tensors that travel in the round; its wins; what stays pending.
        """
        tensors = genesis.travelling(round)
        chosen = select(self.values, genesis, tensors)
        delta = np.empty(chosen.size, dtype=np.int16)
        for block in blocks(chosen.size):
            delta[block] = np.clip(rounddiv(chosen[block], FINE_STEPS), -MOST_STEPS, MOST_STEPS)
        delta = clip_to_norm(delta, genesis.norm_bound)
        wins = min(self.wins, MOST_WINS)
        return delta, wins, Pending(self._less(genesis, round, delta, 1), self.wins - wins)

    def give_back(self, genesis: Genesis, round: int, delta: Coarse, wins: int) -> Pending:
        """With a delta of a round that does not count after all: undoes ``take``."""
        return Pending(self._less(genesis, round, delta, -1), self.wins + wins)

    def to_bytes(self) -> bytes:
        """As it is kept: wins, width of the values, their planes in the narrowest width, and a digest before it all."""
        furthest = max(int(self.values.max()), -int(self.values.min()))
        width, kind = next((width, kind) for width, kind in _KINDS.items() if furthest <= np.iinfo(kind).max)
        body = _HEAD.pack(self.wins, width) + pack(_MAGIC, b"", self.values.astype(kind))
        return digest("pending", body) + body

    @classmethod
    def from_bytes(cls, raw: bytes, genesis: Genesis) -> Pending:
        """Reads it.

        Raises:
            LedgerError: It is damaged, or another swarm's.
        """
        body = raw[_DIGEST_BYTES:]
        if len(body) < _HEAD.size or digest("pending", body) != raw[:_DIGEST_BYTES]:
            raise LedgerError(
                "what was learned and not yet shared is damaged on disk", "restore this home from a backup"
            )
        wins, width = _HEAD.unpack_from(body)
        try:
            values = unpack(body[_HEAD.size :], _MAGIC, b"", _KINDS[width], genesis.parameters)
        except (PayloadError, KeyError) as error:
            raise LedgerError(
                f"what was learned and not yet shared does not fit the swarm {genesis.name!r}",
                "look whether this home was restored from that of another swarm",
            ) from error
        return cls(values.astype(np.int64), wins)

    def _less(self, genesis: Genesis, round: int, delta: Coarse, times: int) -> Wide:
        """The values less a delta so many times."""
        tensors = genesis.travelling(round)
        if delta.shape != (values_in(tensors),):
            raise ValueError(f"a delta of shape {delta.shape} for tensors of {values_in(tensors)}")
        values, where, first = self.values.copy(), slices(genesis), 0
        for tensor in tensors:
            piece = delta[first : first + tensor.size].astype(np.int64)
            values[where[tensor.name]] -= piece * (times * FINE_STEPS)
            first += tensor.size
        return values
