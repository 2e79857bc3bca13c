"""The adapter that all members share: the sealed state, plus what each round above it adds.

A round's sum is a pure function of its composition, so when a late delta, a proof or a revocation changes one, the old
sum is taken out and the new one put in; all other rounds stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import numpy.typing as npt

from p2p import fold
from p2p.codec import decode_payload, decode_state, encode_state
from p2p.grid import state_hash
from p2p.records import Genesis
from p2p.replica import Composition, Replica
from p2p.storage import Storage

Vector = npt.NDArray[np.int32]


def start(genesis: Genesis) -> Vector:
    """The state before any round. State is relative to the specified start of the adapter, so it is 0."""
    return np.zeros(genesis.parameters, dtype=np.int32)


class State:
    """The shared state of one member.

    Args:
        replica: Says what the rounds are composed of.
        storage: Holds payloads and the sealed state.

    Attributes:
        vector: The state, ``[parameters]`` int32 on the grid 2^-(g+8), relative to the start.
        hash: Its hash.
    """

    def __init__(self, replica: Replica, storage: Storage) -> None:
        self._replica = replica
        self._genesis = replica.genesis
        self._storage = storage
        self._folded: dict[int, Composition] = {}
        self._seen = -1
        self.vector = self.sealed_vector()
        self.hash = replica.sealed.state

    def sealed_vector(self) -> Vector:
        """The state at the last seal."""
        if self._replica.sealed.height == 0:
            return start(self._genesis)
        return decode_state(self._storage.read_blob(self._replica.sealed.state), self._genesis)

    def refresh(self) -> bool:
        """Brings the state up to what the set says now; whether it changed."""
        if self._seen == self._replica.version:
            return False
        self._seen = self._replica.version
        rounds = {round: self._replica.composition(round) for round in self._replica.rounds()}
        wanted = {round: composition for round, composition in rounds.items() if composition}
        every = sorted(wanted.keys() | self._folded.keys())
        changed = [round for round in every if wanted.get(round) != self._folded.get(round)]
        for round in changed:
            if round in self._folded:
                self.vector = fold.subtract(self.vector, self._sum(round, self._folded[round]))
            if round in wanted:
                self.vector = fold.add(self.vector, self._sum(round, wanted[round]))
        self._folded = wanted
        if changed:
            self.hash = state_hash(self.vector, self._genesis)
        return bool(changed)

    def sealed_with(self, sums: Mapping[int, Composition]) -> Vector:
        """The last sealed state with some rounds added."""
        vector = self.sealed_vector()
        for round, composition in sorted(sums.items()):
            vector = fold.add(vector, self._sum(round, composition))
        return vector

    def rebase(self, sealed: Vector, name: bytes) -> None:
        """Starts again from a new sealed state, which is kept under its hash, and folds what lies above it."""
        self._storage.write_blob(name, encode_state(sealed))
        self.vector, self.hash, self._folded, self._seen = sealed, name, {}, -1
        self.refresh()

    def load(self, id: bytes) -> npt.NDArray[np.int16]:
        """The values of a delta in the set, flat over the tensors that travel in its round."""
        header = self._replica.header(id)
        tensors = self._genesis.travelling(header.round)
        return decode_payload(self._storage.read_blob(header.payload), tensors, self._genesis.norm_bound)

    def _sum(self, round: int, composition: Composition) -> Vector:
        parts = []
        for id, weight in composition:
            parts.append(fold.Part(id, self._replica.header(id).author, weight, partial(self.load, id)))
        return fold.fold_round(self._genesis, round, parts)
