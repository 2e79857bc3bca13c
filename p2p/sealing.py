"""Seals, as a member meets them: proposing one (the sealer), checking one, or taking the state that it names.

A seal that follows the last one is checked by folding: the node fetches what it names and does not have, adds up the
rounds, and accepts it only if the state's hash comes out as signed. A node that lies far behind, or that nobody can
give the deltas any more, takes the sealed state itself; it trusts the sealer for what it did not fold.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass

from p2p import limits, seal_contents
from p2p.codec import decode_state, most_state_bytes
from p2p.context import Context
from p2p.downloads import Wish
from p2p.encoding import decode, digest, encode
from p2p.errors import PayloadError, WireError
from p2p.grid import state_hash
from p2p.outbox import Outbox
from p2p.records import NONE, Header, Record, Seal, SealContents, sign_record
from p2p.seals import seal_of
from p2p.state import State
from p2p.storage import Storage

_NAMED = "named seal"

FAR_BEHIND = 3
"""So many seals ahead, and the state is fetched instead of folded."""


@dataclass(frozen=True, slots=True)
class _Aim:
    height: int
    since: float
    bytes: int = 0


class Sealing:
    """What a member does about seals.

    Args:
        context: Shared with the other parts.
        state: The state they are checked against.
        outbox: Told what became of own deltas.
        ask: Asks everybody for records by id.

    Attributes:
        recent: Headers that the last seal counts, by id, for members who still check it.
        mismatch: How a seal contradicts what it names, in words; None if none does.
        lost: Own deltas that a seal left out and whose payloads are not here.
    """

    def __init__(
        self,
        context: Context,
        state: State,
        outbox: Outbox,
        *,
        ask: Callable[[Collection[bytes]], None],
    ) -> None:
        self._context = context
        self._state = state
        self._outbox = outbox
        self._ask = ask
        self._ripe: dict[int, float] = {}
        self._waiting: tuple[bytes, float] | None = None
        self._aim: _Aim | None = None
        self._read: dict[bytes, SealContents] = {}
        raw = context.storage.get(_NAMED)
        self._named: tuple[int, bytes] = decode(raw, tuple[int, bytes], 64) if raw else (0, b"")
        self.recent: dict[bytes, Record] = {}
        self.mismatch: str | None = None
        self.lost = 0

    @property
    def is_halted(self) -> bool:
        """Whether seals contradict each other or this node: nothing is sealed or pruned any more."""
        return self.mismatch is not None or bool(self._context.replica.seals.forked)

    @property
    def is_early(self) -> bool:
        """Whether the seal that the ticket names has not come yet: until then no other is taken."""
        return self._context.replica.sealed.height < self._named[0]

    def wanted(self) -> list[Wish]:
        """Blobs that the next seals need."""
        chain, is_far = self._next()
        seals = [seal_of(record) for record in chain]
        missing = [seal for seal in seals if self._contents(seal) is None]
        wanted = [Wish(seal.contents, seal.contents_bytes, is_urgent=True) for seal in missing]
        if is_far and not self._context.storage.has_blob(seals[-1].state):
            most_bytes = most_state_bytes(self._context.genesis)
            wanted.append(Wish(seals[-1].state, most_bytes, exact=False, is_urgent=True))
        if chain and not wanted and not is_far:
            contents = self._contents(seals[0])
            assert contents is not None
            _, payloads = self._context.replica.missing_for(contents)
            headers = [header for header in self._context.replica.wanted_payloads() if header.payload in payloads]
            wanted = [Wish(header.payload, header.payload_bytes, is_urgent=True) for header in headers]
        return wanted

    def holds(self, name: bytes, raw: bytes) -> bool:
        """Whether a blob is what an offered seal names so."""
        genesis = self._context.genesis
        for seal in map(seal_of, self._context.replica.seals.offered()):
            if seal.contents == name:
                return digest("seal contents", raw) == name
            if seal.state == name:
                with suppress(PayloadError):
                    return state_hash(decode_state(raw, genesis), genesis) == name
        return False

    def blobs(self) -> set[bytes]:
        """Names of the blobs that seals are made of, here and on their way, and of payloads that were sealed last."""
        replica = self._context.replica
        accepted = [replica.seals.accepted(height) for height in range(1, replica.sealed.height + 1)]
        contents = {seal_of(record).contents for record in accepted if record is not None}
        offered = {seal.contents for seal in map(seal_of, replica.seals.offered())}
        states = {seal.state for seal in map(seal_of, replica.seals.offered())}
        return contents | offered | states | payloads_of(self.recent.values()) | ({replica.sealed.state} - {NONE})

    def may_give(self, blob: bytes) -> bool:
        """Whether a blob is a seal's contents, the last sealed state, or a payload that was sealed last."""
        sealed = self._context.replica.sealed
        if blob == sealed.state and sealed.height:
            return True
        if blob in payloads_of(self.recent.values()):
            return True
        return self._context.replica.seals.is_contents(blob)

    def step(self, *, may_sign: bool) -> bool:
        """Goes on with the next seal, as far as what it needs is here; whether one was accepted or signed."""
        if self.is_halted:
            return False
        chain, is_far = self._next()
        if chain:
            return self._catch_up(chain) if is_far else self._check(chain[0])
        return may_sign and self._propose()

    def _next(self) -> tuple[list[Record], bool]:
        """The seals to take next, and whether to take them without folding."""
        chain = [] if self.is_halted else [*self._context.replica.seals.offered()]
        if self.is_early and chain:
            chain = self._up_to_named(chain)
        if not chain:
            return [], False
        reached = self._reached(chain)
        if reached and self._is_far(reached):
            return reached, True
        return chain[:1], False

    def _up_to_named(self, chain: list[Record]) -> list[Record]:
        """The chain if it goes through the seal that the ticket names; nothing as long as it does not reach that."""
        height, id = self._named
        above = height - self._context.replica.sealed.height
        if len(chain) < above:
            return []
        if chain[above - 1].id != id:
            self.mismatch = f"seal {height} is not the one that the ticket of this device names"
            return []
        return chain

    def _is_far(self, chain: list[Record]) -> bool:
        if len(chain) >= FAR_BEHIND:
            return True
        replica = self._context.replica
        if replica.sealed.height == 0 and replica.head == 0:
            return True
        return self._waiting is not None and self._context.now - self._waiting[1] > limits.LINK_DEAD_S

    def _reached(self, chain: list[Record]) -> list[Record]:
        """The part of a chain that some member has accepted, as it says, so that it can give what belongs to it.

        A member that says so and gives nothing is not believed for ever.
        """
        context, height = self._context, self._context.replica.sealed.height
        said = {link.beat.height for link in context.members() if link.beat is not None}
        heights = sorted(found for found in said if height < found <= height + len(chain))
        if not heights:
            self._aim = None
            return []
        aim = self._aim
        if aim is None or aim.height not in heights:
            aim = _Aim(heights[-1], context.now)
        state = seal_of(chain[aim.height - height - 1]).state
        if context.storage.partial_bytes(state) != aim.bytes:
            aim = _Aim(aim.height, context.now, context.storage.partial_bytes(state))
        elif context.now - aim.since > limits.LINK_DEAD_S:
            aim = _Aim(context.rng.choice(heights), context.now)
        self._aim = aim
        return chain[: aim.height - height]

    def _contents(self, seal: Seal) -> SealContents | None:
        if seal.contents in self._read:
            return self._read[seal.contents]
        storage = self._context.storage
        if not storage.has_blob(seal.contents):
            return None
        try:
            contents = decode(storage.read_blob(seal.contents), SealContents, limits.MAX_SEAL_CONTENTS_BYTES)
        except WireError as error:
            self.mismatch = f"seal {seal.height} cannot be read: {error.message}"
            return None
        self._read[seal.contents] = contents
        return contents

    def _check(self, record: Record) -> bool:
        seal, replica = seal_of(record), self._context.replica
        contents = self._contents(seal)
        if contents is None:
            return False
        if self._waiting is None or self._waiting[0] != record.id:
            self._waiting = (record.id, self._context.now)
        replica.expect(contents)
        records, payloads = replica.missing_for(contents)
        if records:
            self._ask(sorted(records))
        if records or payloads:
            return False
        try:
            vector = self._state.sealed_with(seal_contents.check(replica, seal, contents))
        except WireError as error:
            self.mismatch = f"seal {seal.height} does not hold: {error.message}"
            return False
        if state_hash(vector, self._context.genesis) != seal.state:
            self.mismatch = f"seal {seal.height} names another state than its deltas give"
            return False
        self._accept([(record, contents)])
        self._state.rebase(vector, seal.state)
        return True

    def _catch_up(self, chain: list[Record]) -> bool:
        """Takes the newest sealed state as it is, once it and all that was sealed on the way are here."""
        last = seal_of(chain[-1])
        all_contents = [self._contents(seal_of(record)) for record in chain]
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
        context = self._context
        counted = {delta.id for _, contents in sealed for delta in contents.deltas}
        last, contents = sealed[-1]
        for delta in (delta for _, contents in sealed for delta in contents.deltas):
            if delta.author == context.me:
                self._outbox.saw(delta.round, delta.id)
        left_out = []
        for id, own in self._outbox.unsealed().items():
            if own.round <= seal_of(last).round:
                if id in counted:
                    self._outbox.sealed(id)
                else:
                    left_out.append(id)
        for id in left_out:
            self.lost += not self._outbox.give_back(id)
        passed = payloads_of(self.recent.values()) | {seal_of(record).state for record, _ in sealed}
        headers = {record.id: record for record in context.replica.unsealed()}
        self.recent = {id: record for id, record in headers.items() if id in counted}
        change = context.replica.accept_seal(last, contents)
        for record, _ in sealed:
            context.storage.put(f"seal/{seal_of(record).height:012}", encode(record.signed))
            context.storage.delete(f"offered/{seal_of(record).height:012}")
        for id in change.forgotten:
            context.storage.remove_record(id)
        self._sweep(passed.union(change.freed))
        self._waiting = self._aim = None
        self._read.clear()
        self._ripe.clear()

    def _sweep(self, gone: Collection[bytes]) -> None:
        """Removes blobs that the last seal made superfluous, and pieces of those that are named."""
        storage = self._context.storage
        kept = self.blobs() | self._outbox.blobs() | payloads_of(self._context.replica.unsealed())
        for name in sorted({*storage.blobs(), *gone} - kept):
            storage.remove_blob(name)

    def _propose(self) -> bool:
        """Signs a seal of all rounds that have been ripe for a while."""
        context, replica = self._context, self._context.replica
        if context.me != context.genesis.sealer or replica.seals.offered_height > replica.sealed.height:
            return False  # a seal of its own is about that it has to take first
        ripe = replica.head - context.genesis.seal_lag
        if ripe <= replica.sealed.round:
            return False
        self._ripe.setdefault(ripe, context.now)
        due = [round for round, since in self._ripe.items() if context.now - since >= self._patience_s(round)]
        if not due:
            return False
        round = max(due)
        while len(raw := encode(contents := seal_contents.propose(replica, round))) > limits.MAX_SEAL_CONTENTS_BYTES:
            if round == replica.sealed.round + 1:
                self.mismatch = f"round {round} has too many deltas for a seal"
                return False
            round = (replica.sealed.round + 1 + round) // 2
        vector = self._state.sealed_with({r: replica.composition(r) for r in replica.rounds() if r <= round})
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
        replica.seals.offer(record)
        self._accept([(record, contents)])
        self._state.rebase(vector, name)
        return True

    def _patience_s(self, round: int) -> float:
        """How long a round is ripe before it is sealed: longer where a seal could end the clock.

        Who is in a sealed round goes on only if enough others are in it, or already in the next one. A seal that misses
        a delta on its way may leave too few for ever.
        """
        replica, quorum = self._context.replica, self._context.genesis.quorum
        is_thin = quorum > 1 and max(len(replica.authors(round)), len(replica.authors(round + 1))) <= quorum
        return limits.SEAL_DELAY_S + (limits.LINK_DEAD_S if is_thin else 0.0)


def name_seal(storage: Storage, height: int, id: bytes) -> None:
    """Notes which seal the swarm's must contain, as a ticket says; height 0 for none."""
    if height:
        storage.put(_NAMED, encode((height, id)))


def payloads_of(records: Iterable[Record]) -> set[bytes]:
    """The payloads that headers name."""
    return {_header(record).payload for record in records} - {NONE}


def _header(record: Record) -> Header:
    assert isinstance(record.body, Header)
    return record.body
