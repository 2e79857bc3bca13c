"""What all members share, as one node holds it: the rules by which deltas are let in, and the seals under them. Pure.

A delta is *in the set* once its header, its certificate, its payload and all its parents are. Which deltas are in the
set decides the state, so everything here must come out the same whatever the order in which records arrive:

- A header is valid or not by itself and by its parents. Equivocation and revocation make nothing invalid: they change
  weights, and what weighs nothing still counts for the clock.
- For rounds up to the last seal, the seal alone decides. So in the round behind it parents are not asked for any more:
  some of them may have been left out, and what cites them must not fall with them.
- Nothing is remembered of what was refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from p2p import limits
from p2p.codec import most_payload_bytes
from p2p.dag import Dag, header_of, slot
from p2p.encoding import digest
from p2p.errors import TrustError, WireError
from p2p.records import NONE, Genesis, Header, Record, SealContents
from p2p.roster import Missing, Roster
from p2p.seals import SealChain, Sealed, seal_of

_WHOLE = -1
"""Stands for all rounds among their digests."""

Composition = tuple[tuple[bytes, int], ...]
"""Of a round: ids of its deltas that weigh something, sorted, with their weights. Decides what the round adds."""


@dataclass(slots=True)
class Change:
    """What a record brought about.

    Attributes:
        kept: Records that are new here, to be stored and passed on.
        entered: Ids of deltas that are in the set from now on.
        accused: Pairs of headers that prove an equivocation, new here.
        forgotten: Ids of headers that are not needed any more.
        freed: Payloads that no header names any more.
        missing: Ids of records to ask for.
    """

    kept: list[Record] = field(default_factory=list)
    entered: list[bytes] = field(default_factory=list)
    accused: list[tuple[Record, Record]] = field(default_factory=list)
    forgotten: list[bytes] = field(default_factory=list)
    freed: list[bytes] = field(default_factory=list)
    missing: set[bytes] = field(default_factory=set)


class Replica(Dag):
    """One node's copy of what all members share, without the tensors.

    Args:
        genesis: The swarm's.
        start: Hash of the state before any round.
    """

    def __init__(self, genesis: Genesis, start: bytes) -> None:
        super().__init__(genesis)
        self.hash = genesis.hash
        self.roster = Roster(genesis)
        self.seals = SealChain(genesis, start)
        self._most_bytes = [most_payload_bytes(genesis.travelling(round)) for round in (2, 1)]  # by the round's parity
        self._newest: dict[bytes, Record] = {}
        self._digests: dict[int, bytes] = {}
        self._compositions: dict[int, Composition] = {}
        self._seen_roster = 0
        self._proofs: dict[bytes, tuple[Record, Record]] = {}
        self._version = 0

    @property
    def sealed(self) -> Sealed:
        """The last accepted seal, or the beginning."""
        return self.seals.sealed

    # The rounds.

    @property
    def version(self) -> int:
        """Rises whenever the set, the roster or the seals change."""
        return self._version + self.roster.version

    @property
    def head(self) -> int:
        """The highest round of the set."""
        return max(self._rounds, default=self.sealed.round)

    @property
    def ceiling(self) -> int:
        """Headers of higher rounds are not taken."""
        return min(self.head + limits.ROUNDS_AHEAD, self.sealed.round + limits.MOST_UNSEALED_ROUNDS)

    def authors(self, round: int) -> frozenset[bytes]:
        """Who has a delta in a round of the set."""
        if round == self.sealed.round:
            return frozenset(delta.author for delta in self.sealed.frontier)
        return frozenset(self.header(id).author for id in self._rounds.get(round, ()))

    # What there is.

    def get(self, id: bytes) -> Record | None:
        """Any record that is held."""
        return self._headers.get(id) or self.roster.get(id)

    def holds(self, id: bytes) -> bool:
        """Whether a record, or the accusation of an equivocator, is here."""
        return self.get(id) is not None or self.roster.equivocator(id) is not None

    def proof(self, id: bytes) -> tuple[Record, Record] | None:
        """The headers behind an accusation."""
        member = self.roster.equivocator(id)
        return self._proofs.get(member) if member else None

    def newest(self, author: bytes) -> Record | None:
        """The header of an author with the highest round that ever came, whether it is held or not."""
        return self._newest.get(author)

    def remember(self, record: Record) -> bool:
        """Takes note of what an author signed last, in case it comes back from a backup; whether that is new."""
        header, known = header_of(record), self._newest.get(header_of(record).author)
        if known is not None and header_of(known).round >= header.round:
            return False
        self._newest[header.author] = record
        return True

    def listing(self, round: int) -> tuple[bytes, ...]:
        """What two nodes compare of a round: ids in the set, without those of equivocators.

        Of these no node keeps all there may be; what is needed of them is fetched when a child cites it.
        """
        if round == 0:
            return self.roster.ids()
        accused = self.roster.equivocators  # those that the last seal names among them
        return tuple(id for id in self.in_round(round) if self.header(id).author not in accused)

    def listed_rounds(self) -> tuple[int, ...]:
        """The rounds above the last seal whose listing is not empty, ascending."""
        return tuple(round for round in self.rounds() if self.listing(round))

    def composition(self, round: int) -> Composition:
        """What decides the sum of an unsealed round."""
        self._look_at_roster()
        if round not in self._compositions:
            weights = ((id, self._weight(self.header(id))) for id in self.in_round(round))
            self._compositions[round] = tuple((id, weight) for id, weight in weights if weight)
        return self._compositions[round]

    def round_digest(self, round: int) -> bytes:
        """Digest of the listing of a round; round 0 is membership."""
        self._look_at_roster()
        if round and round not in self._rounds:
            return digest("ids", b"")
        if round not in self._digests:
            self._digests[round] = digest("ids", b"".join(self.listing(round)))
        return self._digests[round]

    def set_digest(self) -> bytes:
        """Digest of all listings above the last seal."""
        self._look_at_roster()
        if _WHOLE not in self._digests:
            rounds = b"".join(round.to_bytes(8) + self.round_digest(round) for round in self.listed_rounds())
            self._digests[_WHOLE] = digest("rounds", rounds)
        return self._digests[_WHOLE]

    def _look_at_roster(self) -> None:
        """Forgets what was worked out under another roster."""
        if self._seen_roster != self.roster.version:
            self._seen_roster = self.roster.version
            self._forget_worked_out()

    def _forget_worked_out(self, round: int | None = None) -> None:
        """Forgets digests and weights, of one round or of all."""
        if round is None:
            self._digests.clear()
            self._compositions.clear()
        else:
            self._digests.pop(round, None)
            self._digests.pop(_WHOLE, None)
            self._compositions.pop(round, None)

    def _weight(self, header: Header) -> int:
        if header.author in self.sealed.equivocators:
            return 0
        return self.roster.weight(header, sealed_certificates=self.sealed.certificates)

    # What comes in.

    def add_header(self, record: Record, *, was_kept: bool = False) -> Change:
        """Takes a header whose signature holds.

        Args:
            record: The header.
            was_kept: Whether it was here in an earlier run: there was room for it, whatever comes back before it.

        Raises:
            WireError: No honest author signs that.
            TrustError: Its certificate is somebody else's.
            Missing: Its certificate is not here.
        """
        header, change = header_of(record), Change()
        if record.id in self._headers:
            return change
        if not self.sealed.round < header.round <= self.ceiling:
            for child in sorted(self._children.get(record.id, ())):  # that waits for a delta of another round
                self._refuse(child, change)
            return change
        certificate = self.roster.certificate(header.certificate)
        if certificate.member != header.author:
            raise TrustError("a delta under somebody else's certificate")
        if header.payload_bytes > self._most_bytes[header.round % 2]:
            raise WireError(f"a delta of {header.payload_bytes:,} bytes")
        if header.round > 1 and len(header.parents) < self.genesis.quorum:
            raise WireError(f"a delta that cites {len(header.parents)} others, not {self.genesis.quorum}")
        self._accuse(record, header, change)
        if not (was_kept or self._has_room(record.id, header)):
            return change
        self._keep(record, self._needed_parents(header))
        change.kept.append(record)
        self._settle([record.id], change)
        return change

    def add_payload(self, checked: Header) -> Change:
        """Takes note that the payload of a header is here, and is what the header says."""
        change = Change()
        if not self._has_payload_of(checked):
            self._payloads.setdefault(checked.payload, set()).add(self._use(checked))
            self._waits_change()
            self._settle(self._waiting_like(checked), change)
        return change

    def drop_payload(self, checked: Header) -> Change:
        """Takes note that a payload is not what a header says: that never enters the set, and is forgotten."""
        change = Change()
        for id in self._waiting_like(checked):
            self._refuse(id, change)
        return change

    def add_proof(self, first: Record, second: Record) -> Change:
        """Takes a proof of equivocation from elsewhere; both signatures hold.

        Raises:
            WireError: It proves nothing.
            Missing: The author's certificate is not here.
        """
        change = Change()
        if not contradict(first, second):
            raise WireError("a proof that proves nothing")
        author = header_of(first).author
        if self.roster.certificate_of(author) is None:
            raise Missing(author)
        self._accuse_pair(first, second, change)
        return change

    def _accuse(self, record: Record, header: Header, change: Change) -> None:
        for known in (*self._bodies.get(slot(header), ()), *self._successors.get((header.author, header.prev), ())):
            if known != record.id:
                self._accuse_pair(self._headers[known], record, change)
                return

    def _accuse_pair(self, first: Record, second: Record, change: Change) -> None:
        author = header_of(first).author
        if self.roster.add_equivocator(author):
            pair = (first, second) if first.id < second.id else (second, first)
            self._proofs[author] = pair
            change.accused.append(pair)

    def _has_room(self, id: bytes, header: Header) -> bool:
        """Whether a header is kept: always when a child waits for it, else within the limits of its author."""
        if id in self._children:
            return True
        if len(self._bodies.get(slot(header), ())) >= limits.KEPT_BODIES:
            return False
        return len(self.pending_of(header.author)) < limits.MAX_PENDING_HEADERS_PER_AUTHOR

    def _needed_parents(self, header: Header) -> tuple[bytes, ...]:
        return header.parents if header.round > self.sealed.round + 1 else ()

    def _settle(self, ids: Iterable[bytes], change: Change) -> None:
        """Lets deltas into the set as far as they are complete, and their children after them."""
        waiting = list(ids)
        while waiting:
            id = waiting.pop()
            if id not in self._pending:
                continue
            header = self.header(id)
            parents = self._needed_parents(header)
            known = [parent for parent in parents if parent in self._headers]
            if not self._fits(header, known):
                self._refuse(id, change)
                continue
            change.missing.update(parent for parent in parents if parent not in self._headers)
            if all(parent in self._set for parent in parents) and self._has_payload_of(header):
                self._enter(id, header)
                self._changed(header.round)
                change.entered.append(id)
                waiting += sorted(self._children.pop(id, ()))
        # A parent that turned out wrong for its child is a reason to look at the child, not at the parent.
        for record in [*change.kept]:
            self._drop_misfits(record.id, change)

    def _drop_misfits(self, parent: bytes, change: Change) -> None:
        """Forgets children that cite a parent which they may not cite."""
        for child in [*self._children.get(parent, ())]:
            if child in self._pending and parent in self._headers and not self._fits(self.header(child), [parent]):
                self._refuse(child, change)

    def _fits(self, header: Header, parents: Iterable[bytes]) -> bool:
        cited = [self.header(parent) for parent in parents]
        authors = [parent.author for parent in cited]
        return (
            all(parent.round == header.round - 1 for parent in cited)
            and header.author not in authors
            and len(set(authors)) == len(authors)
        )

    def _refuse(self, id: bytes, change: Change) -> None:
        """Forgets a header that can never enter the set, and all that waits for it and so cannot either."""
        refused = [id]
        while refused:
            id = refused.pop()
            if id in self._pending:
                refused += sorted(self._children.get(id, ()))
                self._forget(id, change)

    def _forget(self, id: bytes, change: Change) -> None:
        round, payload = self.header(id).round, self._remove(id)
        self._changed(round)
        change.forgotten.append(id)
        if payload is not None:
            change.freed.append(payload)

    def _changed(self, round: int) -> None:
        """Takes note that a round of the set may be another now."""
        self._version += 1
        self._forget_worked_out(round)

    # Seals.

    def missing_for(self, contents: SealContents) -> tuple[set[bytes], set[bytes]]:
        """Ids of records, and payloads, that are needed to check a seal and are not here."""
        records = {id for id in (*contents.certificates, *contents.revocations) if self.roster.get(id) is None}
        records |= {delta.id for delta in contents.deltas if delta.id not in self._headers}
        held = [self.header(delta.id) for delta in contents.deltas if delta.id in self._headers]
        return records, {header.payload for header in held if not self._has_payload_of(header)}

    def expect(self, contents: SealContents) -> None:
        """Makes room for deltas that a seal counts, whatever this node thought of them."""
        self._waits_change()
        for delta in contents.deltas:
            if delta.id not in self._headers:
                self._children.setdefault(delta.id, set())

    def accept_seal(self, record: Record, contents: SealContents) -> Change:
        """Takes a checked seal, or one whose state was fetched: what it covers is decided and forgotten here."""
        seal, change = seal_of(record), Change()
        self._version += 1
        self.seals.accept(record, contents)
        for member in contents.equivocators:
            self.roster.add_equivocator(member)
        self._forget_worked_out()
        for id in [id for id, known in self._headers.items() if header_of(known).round <= seal.round]:
            self._forget(id, change)
        self._waits_change()
        for delta in contents.deltas:
            if not self._children.get(delta.id):
                self._children.pop(delta.id, None)
        freed = [id for id, round in self._pending.items() if round == seal.round + 1]
        for id in freed:
            self._free_of_parents(id)
        self._settle(freed, change)
        return change


def contradict(first: Record, second: Record) -> bool:
    """Whether two headers prove that their author says two things at once."""
    if not (isinstance(first.body, Header) and isinstance(second.body, Header)) or first.id == second.id:
        return False
    one, other = first.body, second.body
    return one.author == other.author and (one.round == other.round or one.prev == other.prev)


__all__ = ["NONE", "Change", "Composition", "Replica", "contradict"]
