"""One member of a swarm, without sockets, clock or randomness of its own: messages and ticks in, actions out.

A step begins with something that happened (a link, a message, a tick, an increment) and ends with ``_finish``: the
state is brought up to date, everything written becomes durable in one commit, and only then the actions are handed out.
So nothing is ever sent that a power cut could make untrue.

The same class runs under the real transport (``p2p.node``) and under the simulator of the tests.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from p2p import limits
from p2p.actions import Action
from p2p.admission import Admission
from p2p.announcing import Announcing
from p2p.dialling import Dialling
from p2p.downloads import Download, Downloads
from p2p.errors import TrustError, WireError
from p2p.gate import Gate
from p2p.gossip import Gossip
from p2p.health import find_troubles
from p2p.links import Dropped, Link
from p2p.meeting import BEAT_ON_CHANGE_S, Meeting
from p2p.opening import forget_refused, open_context
from p2p.outbox import Author, Outbox
from p2p.records import Genesis, Header, Record
from p2p.sealing import Sealing, payloads_of
from p2p.signing import Signing
from p2p.state import State
from p2p.storage import Storage
from p2p.transfers import Transfers
from p2p.wire import (
    MEMBERSHIP,
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
        self.outbox.opened(is_suspect=storage.is_suspect)
        previous = storage.get("instance") or b""
        storage.put("instance", (previous + instance)[-16 * limits.KNOWN_INSTANCES :])
        self._downloads = Downloads(rng, storage.partial_bytes)
        self.gossip = Gossip(
            self.context,
            recent=lambda id: self.sealing.recent.get(id),
            own=self._heard_of_own,
            needed=self.referenced,
        )
        self.admission = Admission(self.context, self.gossip)
        self._announcing = Announcing(self.context, self.gossip)
        self.dialling = Dialling(self.context)
        self.state = State(self.context.replica, storage)
        self.sealing = Sealing(self.context, self.state, self.outbox, ask=self._ask_all)
        self.transfers = Transfers(self.context, self.gossip, self.sealing, self._downloads)
        self.signing = Signing(self.context, self.state, self.outbox, self.gossip)
        self._gate = Gate(storage.is_suspect, set())
        self.meeting = Meeting(
            self.context,
            self.gossip,
            self.dialling,
            self._gate,
            instance=instance,
            previous=previous,
            beat=self.beat,
            own=self._heard_of_own,
        )
        self._everybody: tuple[int, frozenset[bytes]] = (-1, frozenset())
        self._tidied = now
        self._in_step = False
        self._was_restored = False
        self.state.refresh()
        forget_refused(self.context)
        storage.commit()

    # What happens.

    def link_up(self, number: int, key: bytes, *, dialled: bool, now: float, clock_s: int) -> list[Action]:
        """A link came up."""
        self._begin(now, clock_s)
        link = Link(number, key, dialled, now, heard=now)
        self.context.links[number] = link
        self.meeting.link_up(link)
        return self._finish()

    def link_down(self, number: int, *, now: float, clock_s: int) -> list[Action]:
        """A link is gone."""
        self._begin(now, clock_s)
        link = self.context.links.pop(number, None)
        if link is not None:
            self.context.ended.append(link)
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
            self.meeting.tick(link)
        if now - self._tidied >= limits.LINK_DEAD_S:
            self._tidied = now
            self.gossip.tidy()
        self._announcing.step()
        self.dialling.step(self._gate.waits_for(self._others()))
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
        with self._unless_refused():
            self.outbox.add(id, increment, wins, base)
        return self._finish()

    def add_own(self, record: Record, *, now: float, clock_s: int) -> list[Action]:
        """Takes and spreads a record that this node itself signed: an invite, or a revocation."""
        self._begin(now, clock_s)
        with self._unless_refused():
            self.gossip.add(record)
        return self._finish()

    def reachable_at(self, addresses: tuple[str, ...], *, now: float, clock_s: int) -> list[Action]:
        """Tells the swarm where this node can be reached, best first; nothing for a node that only dials."""
        self._begin(now, clock_s)
        self._announcing.tell(addresses)
        return self._finish()

    # What there is to know.

    @property
    def health(self) -> tuple[str, ...]:
        """What somebody should look at, in words."""
        waiting = len(self._gate.waits_for(self._others()))
        lines = find_troubles(self.context, self.sealing, self.signing, waiting)
        restored = "this home was restored from an older copy; it went on from what peers knew"
        return (restored, *lines) if self._was_restored else lines

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
        context, replica = self.context, self.context.replica
        return replica.roster.is_member(context.me) and self._gate.is_open(
            self._others(),
            context.links.values(),
            known=replica.sealed.height,
            offered=replica.sealed.height if self.sealing.is_halted else replica.seals.offered_height,
            membership=replica.round_digest(MEMBERSHIP),
            now=context.now,
        )

    @property
    def is_cleared(self) -> bool:
        """Whether this home is known to be no copy and no old backup, or to have caught up: it may be marked as own."""
        return not self._gate.suspect

    def referenced(self) -> set[bytes]:
        """Names of all blobs that are needed, here or on their way; every other one may be removed."""
        payloads = payloads_of(self.context.replica.unsealed())
        return self.outbox.blobs() | self.sealing.blobs() | payloads

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
            waits=self.signing.waits,
            time_s=max(0, self.context.clock_s),
        )

    # Steps.

    def _begin(self, now: float, clock_s: int) -> None:
        if self._in_step:
            # Half of a step must not become durable with the next one: what is on the disk is whole.
            raise RuntimeError("a step failed half-way; the node has to be started again")
        self._in_step = True
        self.context.now, self.context.clock_s, self.context.actions = now, clock_s, []

    @contextmanager
    def _unless_refused(self) -> Iterator[None]:
        """Ends the step where what it began with is refused before anything was written."""
        try:
            yield
        except (WireError, TrustError):
            self._in_step = False
            raise

    def _finish(self) -> list[Action]:
        context = self.context
        self._forget_links()
        if self._gate.suspect and self.may_sign:
            self._gate.suspect = False
            self.outbox.cleared()
        may_sign = self.may_sign
        self.signing.step(may_sign=may_sign)
        while self.sealing.step(may_sign=may_sign):
            record = context.replica.seals.newest()
            assert record is not None
            self.gossip.announce(record)
        self.admission.step()
        self.transfers.fetch()
        self._ask_all(context.replica.wanted_parents())
        self.state.refresh()
        self.gossip.flush()
        for link in context.members():
            self.meeting.beat(link, after_s=BEAT_ON_CHANGE_S, only_changed=True)
        context.storage.commit()
        self._in_step = False
        return context.actions

    def _forget_links(self) -> None:
        """Tells the parts which links are gone."""
        for link in self.context.ended:
            self._downloads.link_down(link.number)
            self.meeting.link_down(link)
            if link.member is not None:
                self.context.heard[link.member] = link.heard
        self.context.ended.clear()

    def _heard_of_own(self, record: Record) -> None:
        """Somebody sent a header that this node signed; a copy or an old backup does not know it."""
        assert isinstance(record.body, Header)
        if self.outbox.adopt(record, is_open=record.body.round > self.context.replica.sealed.round):
            self._was_restored = True

    def _handle(self, link: Link, message: object) -> None:
        if link.member is None:
            self._handle_stranger(link, message)
            return
        if not self.context.replica.roster.holds_transport(link.member, link.key):
            self.context.drop(link, "its membership was revoked")
            return
        self.meeting.heard(link)
        match message:
            case Beat():
                self.gossip.compare(message, link)
            case Hello():
                self.meeting.take_hello(message, link)
            case Tip():
                self.meeting.take_tip(message, link)
            case Push():
                self.gossip.take(message.records, link)
            case Have():
                self.gossip.ask(message.ids, link)
            case Listing():
                self.transfers.listed(message.ids, link)
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
                self.transfers.give(message, link)
            case Chunk():
                self.transfers.take(message, link)
            case NoBlob():
                self.transfers.refused(message, link)
            case Join():
                self.admission.ask(message, link)
            case Refused():
                self.admission.refused(message, link)
            case Redirect() if link.dialled:
                self._redirected(message, link)
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
            self.meeting.take_hello(message, link)
        elif isinstance(message, Redirect) and link.dialled:
            self._redirected(message, link)
        elif not (link.dialled or roster.admits(link.key)):
            self.context.drop(link, "a newcomer who says something else than that it wants to join")

    def _redirected(self, message: Redirect, link: Link) -> None:
        """There is no room at the other end: others are dialled before it is tried again."""
        self.gossip.take(message.records, link)
        self.context.drop(link, "no room there")

    def _ask_all(self, ids: Collection[bytes]) -> None:
        """Asks one member, chosen at random, for records; another one if they do not come."""
        links = [*self.context.members()]
        if ids and links:
            self.gossip.ask(ids, self.context.rng.choice(links))

    def _others(self) -> frozenset[bytes]:
        """All other members in good standing."""
        roster = self.context.replica.roster
        if self._everybody[0] != roster.version:
            self._everybody = roster.version, frozenset(roster.members()) - {self.context.me}
        return self._everybody[1]
