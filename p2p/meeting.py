"""How two members meet: each says who it is, tells the other what that signed last, and where it stands itself.

    hello ->            who I am, by certificates, and which run of me
    <- tip              what I know that you signed last, and whether another run of you is about
    beat <->            where I stand

A hello is said again until the tip came, and a tip that warns is said again as long as it does, so that nothing depends
on a single message.
"""

from __future__ import annotations

from collections.abc import Callable

from p2p import limits
from p2p.admission import WAIT_S
from p2p.context import Context
from p2p.dialling import Dialling
from p2p.errors import TrustError, WireError
from p2p.gate import Gate, Instances
from p2p.gossip import Gossip, chain_of
from p2p.links import Link
from p2p.records import Certificate, Header, Record, open_record
from p2p.roster import Missing
from p2p.wire import Beat, Bye, Hello, Redirect, Tip

BEAT_ON_CHANGE_S = 2.0
MOST_REDIRECTED = 16
"""Members that somebody is told of for whom there is no room."""


class Meeting:
    """Greets, listens to greetings, and keeps links alive.

    Args:
        context: Shared with the other parts.
        gossip: Takes in what comes along.
        dialling: Told which dialled links came to something.
        gate: Told who told what it knows.
        instance: Of this run, 16 bytes.
        previous: The instances before, 16 bytes each.
        beat: Says where this node stands.
        own: Told of headers of this very node that others sent.
    """

    def __init__(
        self,
        context: Context,
        gossip: Gossip,
        dialling: Dialling,
        gate: Gate,
        *,
        instance: bytes,
        previous: bytes,
        beat: Callable[[], Beat],
        own: Callable[[Record], None],
    ) -> None:
        self._context = context
        self._gossip = gossip
        self._dialling = dialling
        self._gate = gate
        self._instance = instance
        self._previous = previous
        self._place = beat
        self._own = own
        self._instances = Instances()

    def link_up(self, link: Link) -> None:
        """A link came up: members are greeted, newcomers are listened to."""
        context, roster = self._context, self._context.replica.roster
        if roster.admits(link.key) or link.dialled:
            self._greet(link)
        elif roster.invite_of_transport(link.key) is None:
            context.drop(link, "not a member")
        elif sum(other.member is None for other in context.links.values()) > limits.MAX_UNKNOWN:
            context.drop(link, "too many newcomers at once")

    def link_down(self, link: Link) -> None:
        """A link is gone."""
        self._dialling.failed(link.key)
        if link.member is not None:
            self._instances.link_down(link.member, link.number)

    def tick(self, link: Link) -> None:
        """Keeps a link alive, or gives it up."""
        context, now = self._context, self._context.now
        patience_s = WAIT_S if link.greeted is None else limits.LINK_DEAD_S
        if now - link.heard > limits.LINK_DEAD_S:
            context.drop(link, "silent")
        elif link.member is None and now - link.since > patience_s:
            context.drop(link, "it never said who it is")
        elif link.greeted is not None and now - link.greeted >= limits.BEAT_S and not link.is_clear:
            self._greet(link)
        elif link.member is not None:
            self.beat(link, after_s=limits.BEAT_S)
            self.tell(link)

    def heard(self, link: Link) -> None:
        """A member said something."""
        assert link.member is not None
        self._instances.heard(link.member, link.number, self._context.now)

    def take_hello(self, hello: Hello, link: Link) -> None:
        """Takes in who is at the other end of a link.

        Raises:
            WireError: It says that with something else than certificates.
            TrustError: Its certificates do not hold.
        """
        context, roster = self._context, self._context.replica.roster
        if hello.genesis != context.replica.hash:
            context.send(link, Bye("another swarm"))
            context.drop(link, "a member of another swarm")
            return
        own = self._take_chain(hello, link)
        if own.transport != link.key or not roster.holds_transport(own.member, link.key):
            context.drop(link, "not a member")
        elif own.member == context.me:
            context.drop(link, "this very node")
        elif link.member is not None:
            self._take_again(hello, link)
        elif not self._is_second(link, own.member) and self._has_room(link):
            self._meet(link, own.member, hello)

    def _take_chain(self, hello: Hello, link: Link) -> Certificate:
        genesis, roster = self._context.replica.hash, self._context.replica.roster
        own: Certificate | None = None
        for record in (open_record(signed, genesis) for signed in hello.certificates):
            if not isinstance(record.body, Certificate):
                raise WireError("a hello with something else than certificates")
            own = record.body
            if not roster.holds(record.id):
                try:
                    self._gossip.add(record, link)
                except Missing as missing:
                    raise TrustError("a hello whose certificates do not follow from the founder's") from missing
        assert own is not None
        return own

    def _take_again(self, hello: Hello, link: Link) -> None:
        """A hello said again asks for a tip: none arrived, or only one that keeps the other end from signing."""
        if hello.instance != link.instance:
            self._context.drop(link, "two runs on one link")
            return
        link.told = None
        self.tell(link)

    def _meet(self, link: Link, member: bytes, hello: Hello) -> None:
        context = self._context
        link.member, link.instance = member, hello.instance
        self._instances.hello(member, hello.instance, hello.previous, link.number, context.now)
        if link.greeted is None:  # its certificate came with the hello
            self._greet(link)
        if link.dialled:
            self._dialling.up(link.key)
        for other in context.members():
            self.tell(other)
        self._gossip.introduce(link)
        self._gossip.compare(hello.beat, link)

    def _is_second(self, link: Link, member: bytes) -> bool:
        """Of two links between two nodes, both ends keep the one that the smaller id dialled."""
        for other in self._context.members():
            if other.member == member and other.dialled != link.dialled:
                keeps_dialled = self._context.me < member
                loser = other if other.dialled != keeps_dialled else link
                self._context.send(loser, Bye("a second link"))
                self._context.drop(loser, "a second link")
                if loser is link:
                    return True
        return False

    def _has_room(self, link: Link) -> bool:
        """Whether there is room for a link, or for one that this node wanted; who is too many is told of others."""
        context = self._context
        accepted = sum(not other.dialled for other in context.members())
        if link.dialled or accepted < limits.MAX_ACCEPTED:
            return True
        others = [record.signed for record in context.replica.roster.peer_records()]
        context.send(link, Redirect(tuple(context.rng.sample(others, min(len(others), MOST_REDIRECTED)))))
        context.drop(link, "no room")
        return False

    def _greet(self, link: Link) -> None:
        context = self._context
        hello = Hello(
            genesis=context.replica.hash,
            instance=self._instance,
            previous=self._previous,
            certificates=chain_of(context, context.author.certificate),
            beat=self._place(),
        )
        context.send(link, hello)
        link.greeted = link.beaten_at = context.now
        link.beaten = hello.beat

    def tell(self, link: Link) -> None:
        """Tells a member what it signed last, as far as this node knows, and whether a copy of it is about."""
        assert link.member is not None
        context, replica = self._context, self._context.replica
        contested = self._instances.is_contested(link.member, link.instance)
        is_due = contested and context.now - link.told_at >= limits.BEAT_S
        if link.told != contested or is_due:
            link.told, link.told_at = contested, context.now
            header = replica.newest(link.member)
            seal = replica.seals.last_known() if link.member == context.genesis.sealer else None
            tip = Tip(header=header.signed if header else None, seal=seal.signed if seal else None, contested=contested)
            context.send(link, tip)

    def take_tip(self, tip: Tip, link: Link) -> None:
        """Takes in what a member knows that this node signed last."""
        assert link.member is not None
        link.contested = tip.contested
        self._gossip.take([signed for signed in (tip.header, tip.seal) if signed is not None], link)
        if tip.header is not None:
            record = open_record(tip.header, self._context.replica.hash)
            is_own = isinstance(record.body, Header) and record.body.author == self._context.me
            if is_own and not self._context.replica.holds(record.id):
                self._own(record)
        if not tip.contested:
            link.confirmed = True
            self._gate.told(link.member)

    def beat(self, link: Link, *, after_s: float, only_changed: bool = False) -> None:
        """Says where this node stands, if it has not for some time."""
        if self._context.now - link.beaten_at < after_s:
            return
        beat = self._place()
        if only_changed and link.beaten is not None and _place(beat) == _place(link.beaten):
            return
        self._context.send(link, beat)
        link.beaten, link.beaten_at = beat, self._context.now


def _place(beat: Beat) -> tuple[object, ...]:
    """What of a beat is worth telling when it changes."""
    return beat.head, beat.height, beat.state, beat.membership, beat.rounds, beat.waits
