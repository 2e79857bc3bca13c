"""How records spread: pushed whole to a few, told by their id to the rest, and compared round by round now and then.

A record that is new here goes on at once; one that was missed, because a link was down or a message lost, is found by
comparing digests with every beat. Both are idempotent, so nothing depends on which way a record came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set

from p2p import limits
from p2p.context import Context
from p2p.encoding import encode
from p2p.errors import TrustError, WireError
from p2p.links import Link
from p2p.records import Certificate, Header, PeerRecord, Record, Seal, Signed, open_record, record_id
from p2p.replica import Change
from p2p.roster import Missing
from p2p.wire import Beat, Compare, Have, Listing, Message, Proof, Push, RoundDigest, Want, WantSeals

MOST_LISTINGS = 16
COMPARE_S = 1.0
MOST_ASKED = 2 * limits.MAX_IDS_PER_MESSAGE
"""Ids asked of a link that did not come."""


class Gossip:
    """Takes in records and passes them on.

    Args:
        context: Shared with the other parts.
        recent: Finds the header of a delta that was sealed lately, for members who still check that seal.
        own: Told of headers of this very node that others sent.
        needed: Says which blobs are needed.
    """

    def __init__(
        self,
        context: Context,
        *,
        recent: Callable[[bytes], Record | None],
        own: Callable[[Record], None],
        needed: Callable[[], Set[bytes]],
    ) -> None:
        self._context = context
        self._recent = recent
        self._own = own
        self._needed = needed
        self._fresh: list[tuple[Record, int | None]] = []
        self._asked: dict[bytes, float] = {}

    # What comes in.

    def take(self, signed: Iterable[Signed], link: Link) -> None:
        """Takes records that came over a link."""
        for item in signed:
            id = record_id(item.body)
            if self._context.replica.holds(id):
                continue
            if link.asked.pop(id, None) is None and not link.records.take(1, self._context.now):
                self._context.drop(link, "too many records that nobody asked for")
                return
            try:
                self._take_one(open_record(item, self._context.replica.hash), link)
            except (WireError, TrustError) as error:
                self._context.drop(link, error.message)
                return

    def _take_one(self, record: Record, link: Link) -> None:
        """Takes a record; if another has to come first, asks for that, and for this one behind it, once."""
        try:
            self.add(record, link)
        except Missing as missing:
            again = isinstance(record.body, Header | Certificate) and self._is_due(missing.id)
            if again:
                self._asked.pop(record.id, None)
            self.ask([missing.id, record.id] if again else [missing.id], link)
            return
        if self._context.replica.holds(record.id):  # what came and was not kept is not asked for again at once
            self._asked.pop(record.id, None)

    def add(self, record: Record, link: Link | None = None) -> None:
        """Takes a record whose signature holds.

        Raises:
            WireError: No honest author signs that.
            TrustError: Its author may not say it.
            Missing: Another record has to come first.
        """
        replica, source = self._context.replica, link.number if link else None
        match record.body:
            case Header() as header:
                if header.author == self._context.me and link is not None:
                    self._own(record)
                change = replica.add_header(record)
                self._remember(record, header)
                self.spread(change, link)
            case Seal():
                if replica.seals.offer(record):
                    # Kept at once: the sealer may come back from a backup, and must hear of it then.
                    self._context.storage.put(f"offered/{record.body.height:012}", encode(record.signed))
                    self._fresh.append((record, source))
                elif record.body.height in replica.seals.forked and not self._context.storage.keys("forked/"):
                    self._context.storage.put(f"forked/{record.body.height:012}", encode(record.signed))
            case _:
                if replica.roster.add(record):
                    self._context.storage.add_record(record)
                    self._fresh.append((record, source))
                for id in replica.roster.superseded():
                    self._context.storage.remove_record(id)

    def _remember(self, record: Record, header: Header) -> None:
        """What an author signed last is kept even where it comes too late, or is too far ahead, to count."""
        if self._context.replica.remember(record):
            self._context.storage.put(f"newest/{header.author.hex()}", encode(record.signed))

    def take_proof(self, proof: Proof, link: Link) -> None:
        """Takes a proof of equivocation that came over a link."""
        try:
            first = open_record(proof.first, self._context.replica.hash)
            second = open_record(proof.second, self._context.replica.hash)
            self.spread(self._context.replica.add_proof(first, second), link)
        except Missing:
            return
        except (WireError, TrustError) as error:
            self._context.drop(link, error.message)

    def announce(self, record: Record) -> None:
        """Passes on a record that is kept already."""
        self._fresh.append((record, None))

    def spread(self, change: Change, link: Link | None = None) -> None:
        """Keeps and passes on what a change brought."""
        storage, source = self._context.storage, link.number if link else None
        for record in change.kept:
            # What turned out wrong at once is not passed on: others would pass it on, and nobody remembers it.
            if record.id not in change.forgotten:
                storage.add_record(record)
                self._fresh.append((record, source))
        for id in change.forgotten:
            storage.remove_record(id)
        if change.freed:
            # A header may name anything as its payload, what seals are made of among it.
            for payload in set(change.freed) - self._needed():
                storage.remove_blob(payload)
        for first, second in change.accused:
            proof = Proof(first.signed, second.signed)
            assert isinstance(first.body, Header)
            storage.put(f"proof/{first.body.author.hex()}", encode(proof))
            for other in self._context.members():
                if other.number != source:
                    self._context.send(other, proof)
        if link is not None and link.number in self._context.links:
            self.ask(sorted(change.missing), link)

    # What goes out.

    def flush(self) -> None:
        """Passes on what was new in this step."""
        fresh, self._fresh = self._fresh, []
        if not fresh:
            return
        pushed: dict[int, list[Signed]] = {}
        told: dict[int, list[bytes]] = {}
        links = {link.number: link for link in self._context.members()}
        for record, source in fresh:
            others = [number for number in links if number != source]
            eager = set(self._context.rng.sample(others, min(len(others), limits.EAGER_LINKS)))
            for number in others:
                if number in eager:
                    pushed.setdefault(number, []).append(record.signed)
                elif not isinstance(record.body, Seal | PeerRecord):
                    told.setdefault(number, []).append(record.id)
        for number, signed in pushed.items():
            self._push(links[number], signed)
        for number, ids in told.items():
            self._in_parts(links[number], ids, Have)

    def introduce(self, link: Link) -> None:
        """Tells a member that has just come where the others are."""
        self._push(link, [record.signed for record in self._context.replica.roster.peer_records()])

    def ask(self, ids: Iterable[bytes], link: Link) -> None:
        """Asks a link for records that are not here and were not asked for just now."""
        now, wanted = self._context.now, []
        for id in ids:
            if len(link.asked) >= MOST_ASKED:
                break
            if not self._context.replica.holds(id) and self._is_due(id):
                self._asked[id] = now
                link.asked[id] = now
                wanted.append(id)
        self._in_parts(link, wanted, Want)

    def _is_due(self, id: bytes) -> bool:
        """Whether an id was not asked for just now."""
        return self._context.now - self._asked.get(id, -1e9) >= limits.ASK_AGAIN_S

    def tidy(self) -> None:
        """Forgets what was asked for long ago."""
        old = self._context.now - limits.LINK_DEAD_S
        self._asked = {id: at for id, at in self._asked.items() if at > old}
        for link in self._context.links.values():
            link.asked = {id: at for id, at in link.asked.items() if at > old}

    def give(self, ids: Iterable[bytes], link: Link) -> None:
        """Answers a wish for records."""
        replica, found = self._context.replica, []
        for id in ids:
            record, proof = replica.get(id) or self._recent(id), replica.proof(id)
            if record is not None:
                found.append(record.signed)
            elif proof is not None:
                self._context.send(link, Proof(proof[0].signed, proof[1].signed))
        self._push(link, found)

    def give_seals(self, height: int, link: Link) -> None:
        """Answers a wish for seals, oldest first; who wants more asks again."""
        seals = [self._context.replica.seals.known(h) for h in range(height, height + limits.MAX_RECORDS_PER_MESSAGE)]
        self._push(link, [record.signed for record in seals if record is not None])

    def compare(self, beat: Beat, link: Link) -> None:
        """Looks into a difference that a beat shows."""
        replica, now = self._context.replica, self._context.now
        link.beat = beat
        if now - link.compared < COMPARE_S:
            return
        reached = replica.sealed.height + len(replica.seals.offered())
        if max(beat.height, replica.seals.offered_height) > reached:
            link.compared = now
            self._context.send(link, WantSeals(reached + 1))
        digests = [RoundDigest(0, replica.round_digest(0))] if beat.membership != replica.round_digest(0) else []
        whole = beat.height == replica.sealed.height and beat.rounds != replica.set_digest()
        if whole:
            digests += [RoundDigest(round, replica.round_digest(round)) for round in replica.listed_rounds()]
        if digests or whole:
            link.compared = now
            self._context.send(link, Compare(tuple(digests), whole))

    def list_differences(self, compare: Compare, link: Link) -> None:
        """Answers a comparison with all that there is of the rounds that differ."""
        replica = self._context.replica
        theirs = {entry.round: entry.digest for entry in compare.rounds}
        rounds = [round for round, digest in theirs.items() if digest != replica.round_digest(round)]
        if compare.whole:
            rounds += [round for round in replica.rounds() if round not in theirs]
        for round in sorted(rounds)[:MOST_LISTINGS]:
            self._in_parts(link, replica.listing(round), lambda ids, round=round: Listing(round, ids))  # type: ignore[misc]

    def _push(self, link: Link, signed: list[Signed]) -> None:
        for start in range(0, len(signed), limits.MAX_RECORDS_PER_MESSAGE):
            self._context.send(link, Push(tuple(signed[start : start + limits.MAX_RECORDS_PER_MESSAGE])))

    def _in_parts(self, link: Link, ids: Iterable[bytes], message: Callable[[tuple[bytes, ...]], Message]) -> None:
        all_ids = tuple(ids)
        for start in range(0, len(all_ids), limits.MAX_IDS_PER_MESSAGE):
            self._context.send(link, message(all_ids[start : start + limits.MAX_IDS_PER_MESSAGE]))


def chain_of(context: Context, certificate: bytes) -> tuple[Signed, ...]:
    """What a stranger needs to trust a certificate that is here: the founder's, its issuer's, and itself."""
    roster = context.replica.roster
    chain: list[Record] = []
    record = roster.get(certificate)
    while record is not None:
        chain.insert(0, record)
        assert isinstance(record.body, Certificate)
        record = roster.get(record.body.issuer_certificate) if record.body.issuer_certificate else None
    return tuple(record.signed for record in chain)
