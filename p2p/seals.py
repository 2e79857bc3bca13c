"""The seals that a node knows: those it accepted, one on top of the other, and those that were offered to it.

Not covered: a sealer that signs two seals of one height and shows each to one half. Whoever sees both says so and
prunes nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass

from p2p.errors import TrustError
from p2p.records import Genesis, Record, Seal, SealContents, SealedDelta


@dataclass(frozen=True, slots=True)
class Sealed:
    """The last seal, or the beginning.

    Attributes:
        height: 0 at the beginning.
        id: Of the seal; the genesis hash at the beginning.
        round: The last sealed round; 0 at the beginning.
        state: Hash of the state there.
        certificates: Ids of the certificates it names.
        equivocators: Members it names.
        frontier: Its deltas of its last round, which the next round may cite.
    """

    height: int
    id: bytes
    round: int
    state: bytes
    certificates: frozenset[bytes] = frozenset()
    equivocators: frozenset[bytes] = frozenset()
    frontier: tuple[SealedDelta, ...] = ()


class SealChain:
    """The seals that one node knows. Records in, answers out.

    Args:
        genesis: The swarm's.
        start: Hash of the state before any round.

    Attributes:
        sealed: The last accepted seal, or the beginning.
        forked: Heights of which the sealer signed two different seals.
    """

    def __init__(self, genesis: Genesis, start: bytes) -> None:
        self._sealer = genesis.sealer
        self.sealed = Sealed(0, genesis.hash, 0, start)
        self.forked: set[int] = set()
        self._accepted: dict[int, Record] = {}
        self._offered: dict[int, Record] = {}
        self._parts: set[bytes] = set()

    # What comes in.

    def offer(self, record: Record) -> bool:
        """Takes a seal whose signature holds; whether it is new here. It counts once it is accepted.

        Raises:
            TrustError: It is not the sealer's.
        """
        seal = seal_of(record)
        if seal.sealer != self._sealer:
            raise TrustError("a seal by somebody who is not the sealer")
        known = self.known(seal.height)
        if known is not None:
            if known.id != record.id:
                self.forked.add(seal.height)
            return False
        if seal.height <= self.sealed.height:
            return False
        self._offered[seal.height] = record
        self._parts.update((seal.contents, seal.state))
        return True

    def accept(self, record: Record, contents: SealContents) -> None:
        """Makes a seal the last one; offered ones below it were passed, and are accepted with it."""
        seal = seal_of(record)
        self.sealed = Sealed(
            seal.height,
            record.id,
            seal.round,
            seal.state,
            frozenset(contents.certificates),
            frozenset(contents.equivocators),
            tuple(delta for delta in contents.deltas if delta.round == seal.round),
        )
        self._accepted[seal.height] = record
        for height in [height for height in self._offered if height <= seal.height]:
            self._accepted.setdefault(height, self._offered.pop(height))

    # What there is.

    def accepted(self, height: int) -> Record | None:
        """An accepted seal."""
        return self._accepted.get(height)

    def known(self, height: int) -> Record | None:
        """A seal that came, whether it is accepted or not."""
        return self._accepted.get(height) or self._offered.get(height)

    def newest(self) -> Record | None:
        """The last accepted seal."""
        return self._accepted.get(self.sealed.height)

    def last_known(self) -> Record | None:
        """The highest seal that ever came, whether it is accepted or not."""
        return self.known(max((*self._accepted, *self._offered), default=0))

    @property
    def offered_height(self) -> int:
        """Height of the last offered seal; 0 for none."""
        return max(self._offered, default=0)

    def offered(self) -> tuple[Record, ...]:
        """Offered seals that follow the last accepted one without a gap, oldest first."""
        chain: list[Record] = []
        if not self._offered:
            return ()
        last, round = self.sealed.id, self.sealed.round
        while (record := self._offered.get(self.sealed.height + 1 + len(chain))) is not None:
            seal = seal_of(record)
            if seal.previous != last or seal.round <= round:
                break
            chain.append(record)
            last, round = record.id, seal.round
        return tuple(chain)

    def is_contents(self, blob: bytes) -> bool:
        """Whether a blob is the contents of an accepted seal."""
        return any(seal_of(record).contents == blob for record in self._accepted.values())

    def names(self, blob: bytes) -> bool:
        """Whether a seal names a blob as its part. Such names are hashes of another kind than those of payloads."""
        return blob in self._parts


def seal_of(record: Record) -> Seal:
    """The seal that a record is."""
    assert isinstance(record.body, Seal)
    return record.body
