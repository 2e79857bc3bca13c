"""Seals, as a member meets them: proposing one (the sealer), checking one, or taking the state that it names.

A seal that follows the last one is checked by folding: the node fetches what it names and does not have, adds up the
rounds, and accepts it only if the state's hash comes out as signed. A node that lies far behind, or that nobody can
give the deltas any more, takes the sealed state itself; it trusts the sealer for what it did not fold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from p2p import limits
from p2p.context import Context
from p2p.downloads import Downloads
from p2p.encoding import decode, encode
from p2p.errors import WireError
from p2p.grid import state_hash
from p2p.outbox import Outbox
from p2p.records import NONE, Header, Record, Seal, SealContents, author_of, sign_record
from p2p.state import State

FAR_BEHIND = 3
"""So many seals ahead, and the state is fetched instead of folded."""


class Sealing:
    """What a member does about seals.

    Args:
        context: Shared with the other parts.
        state: The state they are checked against.
        outbox: Told what became of own deltas.
        downloads: Fetches what they name.
        ask: Asks everybody for records by id.
    """

    def __init__(
        self,
        context: Context,
        state: State,
        outbox: Outbox,
        downloads: Downloads,
        *,
        ask: Callable[[Iterable[bytes]], None],
    ) -> None:
        self._context = context
        self._state = state
        self._outbox = outbox
        self._downloads = downloads
        self._ask = ask
        self._ripe: dict[int, float] = {}
        self._waiting: tuple[bytes, float] | None = None
        self.recent: dict[bytes, Record] = {}
        self.mismatch: str | None = None

    @property
    def is_halted(self) -> bool:
        """Whether seals contradict each other or this node: nothing is sealed or pruned any more."""
        return self.mismatch is not None or bool(self._context.replica.forked_seals)

    def wanted(self) -> dict[bytes, tuple[int, bool]]:
        """Blobs to fetch: most bytes, and whether that is exact."""
        if self.is_halted:
            return {}
        chain = [_seal(record) for record in self._context.replica.offered_chain()]
        if not chain:
            return {}
        if not self._is_far(chain):
            chain = chain[:1]
        wanted = {seal.contents: (seal.contents_bytes, True) for seal in chain if self._contents(seal) is None}
        if self._is_far(chain) and not self._context.storage.has_blob(chain[-1].state):
            wanted[chain[-1].state] = (self._context.genesis.parameters * 5 + limits.MIB, False)
        if not wanted and not self._is_far(chain):
            contents = self._contents(chain[0])
            assert contents is not None
            _, payloads = self._context.replica.missing_for(contents)
            sizes = {header.payload: header.payload_bytes for header in self._context.replica.wanted_payloads()}
            wanted = {payload: (sizes[payload], True) for payload in payloads if payload in sizes}
        return wanted

    def may_give(self, blob: bytes) -> bool:
        """Whether a blob is a seal's contents, the last sealed state, or a payload that was sealed last."""
        sealed = self._context.replica.sealed
        if blob == sealed.state and sealed.height:
            return True
        if blob in payloads_of(self.recent.values()):
            return True
        return self._context.replica.is_contents(blob)

    def newest(self, author: bytes) -> Record | None:
        """The newest header of an author among those that were sealed last."""
        found = [record for record in self.recent.values() if author_of(record.body) == author]
        return max(found, key=round_of, default=None)

    def step(self, *, may_sign: bool) -> bool:
        """Goes on with the next seal, as far as what it needs is here; whether one was accepted or signed."""
        if self.is_halted:
            return False
        chain = [*self._context.replica.offered_chain()]
        if chain:
            return self._catch_up(chain) if self._is_far([_seal(record) for record in chain]) else self._check(chain[0])
        return may_sign and self._propose()

    def _is_far(self, chain: list[Seal]) -> bool:
        if len(chain) >= FAR_BEHIND:
            return True
        replica = self._context.replica
        if replica.sealed.height == 0 and replica.head == 0:
            return True
        return self._waiting is not None and self._context.now - self._waiting[1] > limits.LINK_DEAD_S

    def _contents(self, seal: Seal) -> SealContents | None:
        storage = self._context.storage
        if not storage.has_blob(seal.contents):
            return None
        return decode(storage.read_blob(seal.contents), SealContents, limits.MAX_SEAL_CONTENTS_BYTES)

    def _check(self, record: Record) -> bool:
        seal, replica = _seal(record), self._context.replica
        contents = self._contents(seal)
        if contents is None:
            return False
        if self._waiting is None or self._waiting[0] != record.id:
            self._waiting = (record.id, self._context.now)
        replica.expect(contents)
        records, payloads = replica.missing_for(contents)
        if records:
            self._ask(records)
        if records or payloads:
            return False
        try:
            sums = replica.check_seal(seal, contents)
        except WireError as error:
            self.mismatch = f"seal {seal.height} does not hold: {error.message}"
            return False
        vector = self._state.sealed_with(sums)
        if state_hash(vector, self._context.genesis) != seal.state:
            self.mismatch = f"seal {seal.height} names another state than its deltas give"
            return False
        self._accept([(record, contents)])
        self._state.rebase(vector, seal.state)
        return True

    def _catch_up(self, chain: list[Record]) -> bool:
        """Takes the newest sealed state as it is, once it and all that was sealed on the way are here."""
        last = _seal(chain[-1])
        all_contents = [self._contents(_seal(record)) for record in chain]
        found = [contents for contents in all_contents if contents is not None]
        if len(found) < len(chain) or not self._context.storage.has_blob(last.state):
            return False
        roster = self._context.replica.roster
        missing = [id for id in (*found[-1].certificates, *found[-1].revocations) if roster.get(id) is None]
        if missing:
            self._ask(missing)
            return False
        self._accept(list(zip(chain, found, strict=True)))
        # The replica is at that seal now, so this reads what was fetched.
        self._state.rebase(self._state.sealed_vector(), last.state)
        return True

    def _accept(self, sealed: list[tuple[Record, SealContents]]) -> None:
        """Makes seals the last ones, and settles what they decide about own deltas."""
        context, before = self._context, self._context.replica.sealed
        counted = {delta.id for _, contents in sealed for delta in contents.deltas}
        last, contents = sealed[-1]
        for delta in (delta for _, contents in sealed for delta in contents.deltas):
            if delta.author == context.me:
                self._outbox.saw(delta.round, delta.id)
        left_out = []
        for id, own in self._outbox.unsealed().items():
            if own.round <= _seal(last).round:
                if id in counted:
                    self._outbox.sealed(id)
                else:
                    left_out.append(id)
        for id in left_out:
            self._outbox.give_back(id)
        headers = {record.id: record for record in context.replica.unsealed()}
        sealed_before = self.recent
        self.recent = {id: record for id, record in headers.items() if id in counted}
        change = context.replica.accept_seal(last, contents)
        for record, _ in sealed:
            context.storage.put(f"seal/{_seal(record).height:012}", encode(record.signed))
        for id in change.forgotten:
            context.storage.remove_record(id)
        kept = payloads_of(self.recent.values()) | payloads_of(context.replica.unsealed())
        gone = payloads_of(record for id, record in headers.items() if id in change.forgotten)
        for payload in (payloads_of(sealed_before.values()) | gone) - kept:
            context.storage.remove_blob(payload)
        if before.height:
            context.storage.remove_blob(before.state)
        self._waiting = None
        self._ripe.clear()

    def _propose(self) -> bool:
        """Signs a seal of all rounds that have been ripe for a while."""
        context, replica = self._context, self._context.replica
        if context.me != context.genesis.sealer:
            return False
        ripe = replica.head - context.genesis.seal_lag
        if ripe <= replica.sealed.round:
            return False
        self._ripe.setdefault(ripe, context.now)
        due = [round for round, since in self._ripe.items() if context.now - since >= limits.SEAL_DELAY_S]
        if not due:
            return False
        round = max(due)
        contents = replica.propose(round)
        vector = self._state.sealed_with({r: replica.composition(r) for r in replica.rounds() if r <= round})
        raw = encode(contents)
        name = state_hash(vector, context.genesis)
        seal = Seal(
            genesis=replica.hash,
            height=replica.sealed.height + 1,
            previous=replica.sealed.id,
            round=round,
            contents=contents.hash,
            contents_bytes=len(raw),
            state=name,
            sealer=context.me,
        )
        record = sign_record(context.author.key, seal)
        context.storage.write_blob(contents.hash, raw)
        replica.offer_seal(record)
        self._accept([(record, contents)])
        self._state.rebase(vector, name)
        return True


def payloads_of(records: Iterable[Record]) -> set[bytes]:
    """The payloads that headers name."""
    return {_header(record).payload for record in records} - {NONE}


def round_of(record: Record) -> int:
    """The round of a delta."""
    return _header(record).round


def _header(record: Record) -> Header:
    assert isinstance(record.body, Header)
    return record.body


def _seal(record: Record) -> Seal:
    assert isinstance(record.body, Seal)
    return record.body
