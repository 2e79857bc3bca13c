"""What only some members may sign: tickets, and the end of a membership."""

from __future__ import annotations

import os

from p2p.errors import NetworkError, TrustError
from p2p.identity import Identity
from p2p.member import Member
from p2p.records import Certificate, Invite, Record, Revocation, sign_record
from p2p.tickets import Endpoint, Ticket, new_invite, write


def make_ticket(
    member: Member, identity: Identity, told: tuple[str, ...], *, life_s: int, now_s: int
) -> tuple[str, Record]:
    """A new ticket, and the invite to spread.

    Raises:
        NetworkError: There is no address to put into it.
        TrustError: This node may not invite.
    """
    replica = member.context.replica
    if not replica.roster.may_invite(identity.node_id):
        raise TrustError(
            "this device may not invite: only the founder does, and members whom the founder let in",
            "ask one of them: spearctl invite",
        )
    if not told:
        raise NetworkError("there is no address to put into the ticket", "name one: spearctl invite --addr HOST:PORT")
    secret = os.urandom(32)
    record, _ = new_invite(identity, replica.hash, life_s=life_s, now_s=now_s, secret=secret)
    assert isinstance(record.body, Invite)
    ticket = Ticket(
        genesis=replica.hash,
        name=replica.genesis.name,
        issuer=identity.node_id,
        endpoints=tuple(Endpoint(address, identity.transport_public) for address in told),
        expires_s=record.body.expires_s,
        seal=replica.sealed.id if replica.sealed.height else b"",
        seal_height=replica.sealed.height,
        secret=secret,
    )
    return write(ticket), record


def make_revocation(member: Member, identity: Identity, who: bytes, reason: str) -> Record:
    """Ends a membership from the next round on.

    Raises:
        TrustError: It is not this node's to end.
    """
    replica = member.context.replica
    record = replica.roster.certificate_of(who)
    if record is None or not replica.roster.is_member(who):
        raise TrustError(f"{who.hex()[:12]} is no member", "see who is: spearctl peers list")
    assert isinstance(record.body, Certificate)
    if who == replica.genesis.sealer:
        raise TrustError("nobody can revoke the founder", None)
    if identity.node_id not in (replica.genesis.sealer, record.body.issuer):
        raise TrustError(
            "only the founder and whoever let a member in can revoke it", "ask them: spearctl peers show NAME"
        )
    body = Revocation(
        genesis=replica.hash,
        member=who,
        issuer=identity.node_id,
        from_round=replica.head + 1,
        reason=reason[:200],
    )
    return sign_record(identity.key, body)
