"""How newcomers get in: the issuer of an invite judges a request to join, everybody else passes it on.

The issuer alone knows whether an invite was used and whether its time is up, by its own clock, and writes both down
before it answers. Asked again by the same newcomer it gives the same certificate. Members who are linked to only one of
the two keep the request for a while, so that issuer and newcomer need not be there at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from p2p.context import Context
from p2p.encoding import encode
from p2p.errors import TrustError
from p2p.gossip import Gossip, chain_of
from p2p.links import Link
from p2p.records import Certificate, Record, Signed, sign_record
from p2p.wire import Join, Joined, Refused

MOST_WAITING = 16
WAIT_S = 600.0
MOST_TOLD = 16
"""Members that a newcomer is told of."""

Reason = Literal["expired", "used", "unknown", "merging", "revoked", "full"]


@dataclass(slots=True)
class _Waiting:
    join: Join
    since: float
    passed_to: set[bytes]
    refused: Reason | None = None


class Admission:
    """Lets newcomers in, or passes their requests on.

    Args:
        context: Shared with the other parts.
        gossip: Spreads new certificates.

    Attributes:
        leaving_for: Hash of the swarm that this node, a founder, is about to join; none otherwise. Of two founders who
            join each other the one with the smaller hash stays.
        stays: Whether such another founder was let in here, so that this node stays.
    """

    def __init__(self, context: Context, gossip: Gossip) -> None:
        self._context = context
        self._gossip = gossip
        self._waiting: dict[tuple[bytes, bytes], _Waiting] = {}
        self.leaving_for = b""
        self.stays = False

    def ask(self, join: Join, link: Link) -> None:
        """Takes a request to join, from the newcomer or from a member who passes it on."""
        roster = self._context.replica.roster
        invite = roster.invite(join.invite)
        if join.genesis != self._context.replica.hash or invite is None:
            self._refuse(join, "unknown", link)
            return
        if link.member is None and link.key != invite.join_transport:
            self._context.drop(link, "a join with another ticket's key")
            return
        try:
            join.check(invite.join_key)
        except TrustError as error:
            self._context.drop(link, error.message)
            return
        if self._given(join) is not None:
            self._welcome(join, link)
        elif invite.issuer != self._context.me:
            self._keep(join)
        else:
            reason = self._objection(join, invite.expires_s)
            if reason is not None:
                self._refuse(join, reason, link)
            else:
                self._let_in(join)
                self._welcome(join, link)

    def refused(self, refusal: Refused, link: Link) -> None:
        """Takes the issuer's refusal, for the newcomer who asked here."""
        issued = self._context.replica.roster.invite(refusal.invite)
        for (invite, _), waiting in self._waiting.items():
            if invite == refusal.invite and issued is not None and issued.issuer == link.member:
                waiting.refused = refusal.reason

    def step(self) -> None:
        """Passes on what waits, and answers newcomers whose certificate has come."""
        context = self._context
        old = context.now - WAIT_S
        self._waiting = {key: waiting for key, waiting in self._waiting.items() if waiting.since > old}
        for key, waiting in [*self._waiting.items()]:
            join = waiting.join
            if self._given(join) is not None or waiting.refused is not None:
                for link in [link for link in [*context.links.values()] if self._is_asking(link, join)]:
                    if waiting.refused is not None:
                        self._refuse(join, waiting.refused, link)
                    else:
                        self._welcome(join, link)
                del self._waiting[key]
                continue
            for link in context.members():
                assert link.member is not None
                if link.member not in waiting.passed_to:
                    waiting.passed_to.add(link.member)
                    context.send(link, join)

    def _is_asking(self, link: Link, join: Join) -> bool:
        invite = self._context.replica.roster.invite(join.invite)
        return link.member is None and invite is not None and link.key == invite.join_transport

    def _given(self, join: Join) -> Record | None:
        """The certificate that a newcomer was already given for this invite."""
        for record in self._context.replica.roster.certificates():
            body = record.body
            if isinstance(body, Certificate) and (body.invite, body.member) == (join.invite, join.member):
                return record
        return None

    def _objection(self, join: Join, expires_s: int) -> Reason | None:
        roster = self._context.replica.roster
        if not roster.may_invite(self._context.me) or join.member in roster.equivocators:
            return "revoked"
        if roster.is_revoked_by(join.member, (self._context.genesis.sealer, self._context.me)):
            return "revoked"
        if self._context.storage.get(_used(join.invite)) is not None:
            return "used"
        if self._context.clock_s > expires_s:
            return "expired"
        if self._is_merging(join) and self.leaving_for < self._context.replica.hash:
            return "merging"
        return "full" if roster.is_full else None

    def _is_merging(self, join: Join) -> bool:
        """Whether this node is about to join the swarm whose founder asks to join this one."""
        return bool(self.leaving_for) and self.leaving_for == join.leaving

    def _let_in(self, join: Join) -> None:
        context = self._context
        certificate = Certificate(
            genesis=join.genesis,
            member=join.member,
            transport=join.transport,
            name=join.name,
            issuer=context.me,
            issuer_certificate=context.author.certificate,
            invite=join.invite,
        )
        context.storage.put(_used(join.invite), encode(join.member))
        self._gossip.add(sign_record(context.author.key, certificate))
        self.stays = self.stays or self._is_merging(join)

    def _welcome(self, join: Join, link: Link) -> None:
        given = self._given(join)
        if link.member is None and given is not None:
            chain = chain_of(self._context, given.id)
            self._context.send(link, Joined(encode(self._context.genesis), chain, self._others(join.member)))

    def _others(self, newcomer: bytes) -> tuple[Signed, ...]:
        """Certificates and addresses of a few members: whoever lets somebody in may be gone for good a moment later."""
        context, roster = self._context, self._context.replica.roster
        reachable = [member for member in roster.members() if (peer := roster.peer(member)) and peer.addresses]
        told: dict[bytes, Signed] = {}
        for member in context.rng.sample(reachable, min(len(reachable), MOST_TOLD)):
            certificate, peer_record = roster.certificate_of(member), roster.peer_record(member)
            if member != newcomer and certificate is not None and peer_record is not None:
                told |= {signed.body: signed for signed in (*chain_of(context, certificate.id), peer_record.signed)}
        return tuple(told.values())

    def _refuse(self, join: Join, reason: Reason, link: Link) -> None:
        self._context.send(link, Refused(join.invite, reason))

    def _keep(self, join: Join) -> None:
        if len(self._waiting) < MOST_WAITING:
            self._waiting.setdefault((join.invite, join.member), _Waiting(join, self._context.now, set()))


def _used(invite: bytes) -> str:
    return f"invite/{invite.hex()}"
