"""One member of a swarm, without sockets, clock or randomness of its own: messages and ticks in, actions out.

A step begins with something that happened (a link, a message, a tick, an increment) and ends with ``_finish``: the
state is brought up to date, everything written becomes durable in one commit, and only then the actions are handed out.
So nothing is ever sent that a power cut could make untrue.

The same class runs under the real transport (``p2p.node``) and under the simulator of the tests.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from p2p import limits
from p2p.actions import Action
from p2p.admission import Admission
from p2p.codec import decode_payload, decode_state
from p2p.dialling import Dialling
from p2p.downloads import Download, Downloads
from p2p.encoding import digest
from p2p.errors import PayloadError, TrustError, WireError
from p2p.gate import Gate, Instances
from p2p.gossip import Gossip, certificates_of
from p2p.grid import state_hash
from p2p.links import Dropped, Link
from p2p.opening import forget_refused, open_context
from p2p.outbox import Author, Outbox
from p2p.records import Certificate, Genesis, Header, Record, Seal, open_record
from p2p.roster import Missing
from p2p.sealing import Sealing
from p2p.state import State
from p2p.storage import Storage
from p2p.wire import (
    Beat,
    Bye,
    Chunk,
    Compare,
    Have,
    Hello,
    Join,
    Listing,
    NoBlob,
    Proof,
    Push,
    Redirect,
    Refused,
    Tip,
    Want,
    WantChunk,
    WantSeals,
    read_message,
)

BEAT_ON_CHANGE_S = 2.0


class Member:
    """One member of a swarm.

    Args:
        genesis: The swarm's.
        author: Who this node is; its certificate is in the storage.
        storage: Its disk.
        rng: All of its randomness.
        instance: 16 bytes, drawn anew at each start.
        now: Time in seconds, from any beginning.
        clock_s: Unix time.
    """

    def __init__(
        self,
        genesis: Genesis,
        author: Author,
        storage: Storage,
        *,
        rng: random.Random,
        instance: bytes,
        now: float,
        clock_s: int,
    ) -> None:
        self.context = open_context(genesis, author, storage, rng, now, clock_s)
        self.outbox = Outbox(genesis, storage)
        self.outbox.opened()
        self.instance = instance
        self._previous = storage.get("instance") or b""
        storage.put("instance", instance)
        self._downloads = Downloads(rng, storage.partial_bytes)
        self.gossip = Gossip(self.context, lambda id: self.sealing.recent.get(id), self._heard_of_own)
        self.admission = Admission(self.context, self.gossip)
        self.dialling = Dialling(self.context)
        self.state = State(self.context.replica, storage)
        self.sealing = Sealing(self.context, self.state, self.outbox, self._downloads, ask=self._ask_all)
        self._gate = Gate(storage.is_suspect, set())
        self._instances = Instances()
        self._null_at: float | None = None
        self._tidied = now
        self._alarms: tuple[str, ...] = ()
        self.state.refresh()
        forget_refused(self.context)
        storage.commit()

    # What happens.

    def link_up(self, number: int, key: bytes, *, dialled: bool, now: float, clock_s: int) -> list[Action]:
        """A link came up."""
        self._begin(now, clock_s)
        link = Link(number, key, dialled, now, heard=now)
        self.context.links[number] = link
        roster = self.context.replica.roster
        if roster.admits(key) or dialled:
            self._greet(link)
        elif roster.invite_of_transport(key) is None:
            self.context.drop(link, "not a member")
        elif sum(other.member is None for other in self.context.links.values()) > limits.MAX_UNKNOWN:
            self.context.drop(link, "too many newcomers at once")
        return self._finish()

    def link_down(self, number: int, *, now: float, clock_s: int) -> list[Action]:
        """A link is gone."""
        self._begin(now, clock_s)
        link = self.context.links.pop(number, None)
        if link is not None:
            self._forget_link(link)
        return self._finish()

    def received(self, number: int, raw: bytes, *, now: float, clock_s: int) -> list[Action]:
        """A message came over a link."""
        self._begin(now, clock_s)
        link = self.context.links.get(number)
        if link is not None:
            link.heard = now
            try:
                if link.messages.take(1, now):
                    self._handle(link, read_message(raw))
                else:
                    self.context.drop(link, "too many messages")
            except (WireError, TrustError) as error:
                self.context.drop(link, error.message)
        return self._finish()

    def tick(self, *, now: float, clock_s: int) -> list[Action]:
        """Time went by. At least once a second, for a node that is up."""
        self._begin(now, clock_s)
        for link in [*self.context.links.values()]:
            if now - link.heard > limits.LINK_DEAD_S:
                self.context.drop(link, "silent")
                self._forget_link(link)
            elif link.member is not None:
                self._beat(link, after_s=limits.BEAT_S)
                self._tell(link)
        if now - self._tidied >= limits.LINK_DEAD_S:
            self._tidied = now
            self.gossip.tidy()
        self.dialling.step()
        return self._finish()

    def learn(
        self, id: str, increment: npt.NDArray[np.float32], wins: int, *, base: int = 0, now: float, clock_s: int
    ) -> list[Action]:
        """Takes what a trainer learned; once it returns, that is durable.

        Args:
            id: Unique; the same increment twice is taken once.
            increment: ``[parameters]``.
            wins: What it was learned from.
            base: The head round of the state that it was learned on.
            now: Time.
            clock_s: Unix time.

        Raises:
            PayloadError: It is not finite, or beyond the grid.
        """
        self._begin(now, clock_s)
        self.outbox.add(id, increment, wins, base)
        return self._finish()

    def add_own(self, record: Record, *, now: float, clock_s: int) -> list[Action]:
        """Takes and spreads a record that this node itself signed: an invite, a revocation, its addresses."""
        self._begin(now, clock_s)
        self.gossip.add(record)
        return self._finish()

    # What there is to know.

    @property
    def health(self) -> tuple[str, ...]:
        """What somebody should look at, in words."""
        lines = [*self._alarms]
        replica, others = self.context.replica, self._others()
        if self.sealing.mismatch is not None:
            lines.append(f"{self.sealing.mismatch}; nothing is sealed or pruned any more")
        if replica.forked_seals:
            lines.append("the sealer signed two different seals; nothing is sealed or pruned any more")
        if any(link.contested for link in self.context.links.values()):
            lines.append("another device runs with a copy of this home; nothing is signed until only one of them does")
        elif self._gate.suspect and not others <= self._gate.heard:
            waiting = len(others - self._gate.heard)
            lines.append(f"this home is a copy or an old backup; before it shares, {waiting} members have to be heard")
        if not replica.roster.is_member(self.context.me):
            lines.append("this device is no member any more: what it learns stays here")
        for member in sorted(replica.roster.equivocators):
            lines.append(f"{self.name_of(member)} signed contradicting records; its learning counts nothing")
        return tuple(lines)

    def name_of(self, member: bytes) -> str:
        """What a member calls itself, and the beginning of its id."""
        record = self.context.replica.roster.certificate_of(member)
        name = record.body.name if record and isinstance(record.body, Certificate) else "somebody"
        return f"{name} ({member.hex()[:8]})"

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        """Links that were ended lately."""
        return tuple(self.context.dropped)

    @property
    def downloads(self) -> tuple[Download, ...]:
        """Blobs on their way."""
        return self._downloads.running()

    @property
    def may_sign(self) -> bool:
        """Whether something may be signed now."""
        is_member = self.context.replica.roster.is_member(self.context.me)
        height = self.context.replica.sealed.height
        return is_member and self._gate.is_open(self._others(), self.context.links.values(), height)

    def beat(self) -> Beat:
        """Where this node stands."""
        replica = self.context.replica
        return Beat(
            head=replica.head,
            height=replica.sealed.height,
            seal=replica.sealed.id if replica.sealed.height else b"",
            state=self.state.hash,
            membership=replica.round_digest(0),
            rounds=replica.set_digest(),
            time_s=max(0, self.context.clock_s),
        )

    # Steps.

    def _begin(self, now: float, clock_s: int) -> None:
        self.context.now, self.context.clock_s, self.context.actions = now, clock_s, []

    def _finish(self) -> list[Action]:
        context = self.context
        self._sign()
        while self.sealing.step(may_sign=self.may_sign):
            record = context.replica.newest_seal()
            assert record is not None
            self.gossip.announce(record)
        self.admission.step()
        self._fetch()
        self.state.refresh()
        self.gossip.flush()
        for link in context.members():
            self._beat(link, after_s=BEAT_ON_CHANGE_S, only_changed=True)
        context.storage.commit()
        return context.actions

    def _sign(self) -> None:
        """Signs what is pending, or a null delta where somebody waits for company, if it may and a round is open."""
        context, replica = self.context, self.context.replica
        if not self.may_sign:
            self._null_at = None
            return
        last = self.outbox.last.round
        learned = self.outbox.pending.wins > 0 and self._has_room()
        room = replica.open_round(context.me, last, self.outbox.base if learned else 0)
        if learned and room is not None:
            self._sign_in(*room, null=False)
            self._null_at = None
        elif (
            replica.is_short(context.me) and (room := replica.open_round(context.me, last)) and room[0] == replica.head
        ):
            if self._null_at is None:
                self._null_at = context.now + context.rng.uniform(*limits.NULL_DELAY_S)
            elif context.now >= self._null_at:
                self._sign_in(*room, null=True)
                self._null_at = None
        else:
            self._null_at = None

    def _sign_in(self, round: int, parents: tuple[bytes, ...], *, null: bool) -> None:
        record = self.outbox.sign(self.context.author, round, parents, self.state.hash, null=null)
        assert isinstance(record.body, Header)
        if not null:
            self.context.replica.add_payload(record.body.payload)
        self.gossip.spread(self.context.replica.add_header(record))

    def _has_room(self) -> bool:
        """Whether the disk quota for unsealed payloads leaves room for another one."""
        used = sum(_payload_bytes(record) for record in self.context.replica.unsealed())
        full = used >= limits.UNSEALED_QUOTA_BYTES
        self._alarms = (
            (f"unsealed learning fills its {limits.UNSEALED_QUOTA_BYTES >> 30} GiB; nothing is shared until a seal",)
            if full
            else ()
        )
        return not full

    def _heard_of_own(self, record: Record) -> None:
        """Somebody sent a header that this node signed; a copy or an old backup does not know it."""
        if self.outbox.adopt(record):
            self._alarms = (*self._alarms, "this home was restored from an older copy; it went on from what peers knew")

    def _handle(self, link: Link, message: object) -> None:
        if link.member is None:
            self._handle_stranger(link, message)
            return
        if not self.context.replica.roster.holds_transport(link.member, link.key):
            self.context.drop(link, "its membership was revoked")
            return
        self._instances.heard(link.member, link.instance, self.context.now)
        match message:
            case Beat():
                self.gossip.compare(message, link)
            case Tip():
                self._take_tip(message, link)
            case Push():
                self.gossip.take(message.records, link)
            case Have() | Listing():
                self.gossip.ask(message.ids, link)
            case Want():
                self.gossip.give(message.ids, link)
            case Compare():
                self.gossip.list_differences(message, link)
            case WantSeals():
                self.gossip.give_seals(message.height, link)
            case Proof():
                self.gossip.take_proof(message, link)
            case WantChunk():
                self._give_chunk(message, link)
            case Chunk():
                self._take_chunk(message, link)
            case NoBlob():
                link.lacks[message.blob] = self.context.now
                self._downloads.refused(link.number, message.blob)
            case Join():
                self.admission.ask(message, link)
            case Refused():
                self.admission.refused(message, link)
            case Redirect():
                self.gossip.take(message.records, link)
            case Bye():
                self.context.drop(link, f"it said: {message.reason}")
            case _:
                self.context.drop(link, "a message that makes no sense here")

    def _handle_stranger(self, link: Link, message: object) -> None:
        """The first message of a link: a member says hello, a newcomer asks to join, and nobody says anything else."""
        roster = self.context.replica.roster
        if isinstance(message, Join) and not link.dialled and not roster.admits(link.key):
            self.admission.ask(message, link)
        elif isinstance(message, Bye):
            self.context.drop(link, f"it said: {message.reason}")
        elif isinstance(message, Hello) and (link.dialled or roster.admits(link.key)):
            self._meet(link, message)
        elif not (link.dialled or roster.admits(link.key)):
            self.context.drop(link, "a newcomer who says something else than that it wants to join")

    def _meet(self, link: Link, hello: Hello) -> None:
        context, roster = self.context, self.context.replica.roster
        if hello.genesis != context.replica.hash:
            context.send(link, Bye("another swarm"))
            context.drop(link, "a member of another swarm")
            return
        chain = [open_record(signed, context.replica.hash) for signed in hello.certificates]
        own = chain[-1].body
        for record in chain:
            if not isinstance(record.body, Certificate):
                raise WireError("a hello with something else than certificates")
            if not roster.holds(record.id):
                try:
                    self.gossip.add(record, link)
                except Missing as missing:
                    raise TrustError("a hello whose certificates do not follow from the founder's") from missing
        assert isinstance(own, Certificate)
        if own.transport != link.key or not roster.holds_transport(own.member, link.key):
            context.drop(link, "not a member")
            return
        if own.member == context.me:
            context.drop(link, "this very node")
            return
        if self._is_second(link, own.member):
            return
        link.member, link.instance = own.member, hello.instance
        self._instances.hello(own.member, hello.instance, hello.previous, link.number, context.now)
        if link.dialled:
            self.dialling.up(link.key)
        for other in context.members():
            self._tell(other)
        self.gossip.introduce(link)
        self.gossip.compare(hello.beat, link)

    def _is_second(self, link: Link, member: bytes) -> bool:
        """Of two links between the same instances, both ends keep the one that the smaller id dialled."""
        for other in self.context.members():
            if other.member == member and other.dialled != link.dialled:
                keeps_dialled = self.context.me < member
                loser = other if other.dialled != keeps_dialled else link
                self.context.send(loser, Bye("a second link"))
                self.context.drop(loser, "a second link")
                self._forget_link(loser)
                if loser is link:
                    return True
        return False

    def _greet(self, link: Link) -> None:
        hello = Hello(
            genesis=self.context.replica.hash,
            instance=self.instance,
            previous=self._previous,
            certificates=certificates_of(self.context, self.context.me),
            beat=self.beat(),
        )
        self.context.send(link, hello)
        link.beaten, link.beaten_at = hello.beat, self.context.now

    def _tell(self, link: Link) -> None:
        """Tells a member what it signed last, as far as this node knows, and whether a copy of it is about."""
        assert link.member is not None
        contested = self._instances.is_contested(link.member, link.instance)
        if link.told != contested:
            link.told = contested
            replica = self.context.replica
            header = replica.newest(link.member) or self.sealing.newest(link.member)
            seal = replica.newest_seal() if link.member == self.context.genesis.sealer else None
            tip = Tip(header=header.signed if header else None, seal=seal.signed if seal else None, contested=contested)
            self.context.send(link, tip)

    def _take_tip(self, tip: Tip, link: Link) -> None:
        assert link.member is not None
        link.contested = tip.contested
        self.gossip.take([signed for signed in (tip.header, tip.seal) if signed is not None], link)
        if tip.header is not None:
            record = open_record(tip.header, self.context.replica.hash)
            if isinstance(record.body, Header) and record.body.author == self.context.me:
                self._heard_of_own(record)
        if not tip.contested:
            link.confirmed = True
            self._gate.told(link.member)

    def _beat(self, link: Link, *, after_s: float, only_changed: bool = False) -> None:
        if self.context.now - link.beaten_at < after_s:
            return
        beat = self.beat()
        if only_changed and link.beaten is not None and _place(beat) == _place(link.beaten):
            return
        self.context.send(link, beat)
        link.beaten, link.beaten_at = beat, self.context.now

    def _fetch(self) -> None:
        """Goes on fetching payloads, and what the next seal needs."""
        replica = self.context.replica
        wanted = self.sealing.wanted()
        for header in replica.wanted_payloads():
            wanted.setdefault(header.payload, (header.payload_bytes, True))
        self._downloads.keep_only(wanted)
        for name, (most_bytes, exact) in wanted.items():
            self._downloads.want(name, most_bytes, exact=exact)
        parents = replica.wanted_parents()
        if parents:
            self._ask_all(parents)
        for number, message in self._downloads.steps(self.context.links, self.context.now):
            self.context.send(self.context.links[number], message)

    def _ask_all(self, ids: Iterable[bytes]) -> None:
        """Asks one member, chosen at random, for records; another one if they do not come."""
        links = [*self.context.members()]
        if links:
            self.gossip.ask(ids, self.context.rng.choice(links))

    def _give_chunk(self, wish: WantChunk, link: Link) -> None:
        storage, total = self.context.storage, 0
        if self._may_give(wish.blob):
            total = storage.blob_bytes(wish.blob)
        offset = wish.index * limits.CHUNK_BYTES
        if offset >= total:
            self.context.send(link, NoBlob(wish.blob))
            return
        data = storage.read_chunk(wish.blob, offset, limits.CHUNK_BYTES)
        self.context.send(link, Chunk(wish.blob, wish.index, total, data))

    def _may_give(self, blob: bytes) -> bool:
        """Only what the swarm shares is given away, never what lies on the disk beside it."""
        return self.context.replica.has_payload(blob) or self.sealing.may_give(blob)

    def _take_chunk(self, chunk: Chunk, link: Link) -> None:
        try:
            download = self._downloads.take(link, chunk, self.context.now)
        except ValueError as error:
            self.context.drop(link, str(error))
            self._downloads.link_down(link.number)
            return
        if download is None:
            return
        storage = self.context.storage
        storage.write_partial(chunk.blob, download.have - len(chunk.data), chunk.data)
        if download.have == download.total:
            self._complete(download, link)

    def _complete(self, download: Download, link: Link) -> None:
        """Checks a blob that is whole now, and keeps it or fetches it again."""
        storage, name = self.context.storage, download.name
        raw = storage.read_partial(name)
        try:
            holds = self._holds(name, raw)
        except PayloadError:
            # It is what its header names, and still no payload: its author lied, not who passed it on.
            storage.remove_blob(name)
            self._downloads.finish(name)
            self.gossip.spread(self.context.replica.drop_payload(name))
            return
        if holds:
            storage.write_blob(name, raw)
            self._downloads.finish(name)
            self.gossip.spread(self.context.replica.add_payload(name))
            return
        storage.remove_blob(name)
        self._downloads.restart(name)
        if download.sources == {link.key}:
            self.context.drop(link, "it sent something else than what was asked for")
            self._forget_link(link)

    def _holds(self, name: bytes, raw: bytes) -> bool:
        """Whether a blob is what its name says.

        Raises:
            PayloadError: It is, but no delta of this swarm.
        """
        genesis = self.context.genesis
        for seal in (record.body for record in self.context.replica.offered_chain()):
            assert isinstance(seal, Seal)
            if seal.contents == name:
                return digest("seal contents", raw) == name
            if seal.state == name:
                try:
                    return state_hash(decode_state(raw, genesis), genesis) == name
                except PayloadError:
                    return False
        if hashlib.sha256(raw).digest() != name:
            return False
        for header in self.context.replica.wanted_payloads():
            if header.payload == name:
                decode_payload(raw, genesis.travelling(header.round), genesis.norm_bound)
        return True

    def _forget_link(self, link: Link) -> None:
        self._downloads.link_down(link.number)
        self.dialling.failed(link.key)
        if link.member is not None:
            self._instances.link_down(link.member, link.number)

    def _others(self) -> frozenset[bytes]:
        return frozenset(self.context.replica.roster.members()) - {self.context.me}


def _place(beat: Beat) -> tuple[object, ...]:
    """What of a beat is worth telling when it changes."""
    return beat.head, beat.height, beat.state, beat.membership, beat.rounds


def _payload_bytes(record: Record) -> int:
    assert isinstance(record.body, Header)
    return record.body.payload_bytes
