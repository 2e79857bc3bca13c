"""What a member knows of itself and of the others, as plain values: for `status`, whether the node runs or not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from p2p.context import Context
from p2p.links import Link
from p2p.outbox import Outbox
from p2p.records import Certificate
from p2p.transport import LinkStats


def overview(
    context: Context,
    state_hash: bytes,
    outbox: Outbox,
    *,
    now: float,
    banned: Collection[bytes] = (),
    stats: Mapping[int, LinkStats] | None = None,
) -> dict[str, Any]:
    """The swarm and its members, as this node sees them.

    Args:
        context: Of the member.
        state_hash: Of its state.
        outbox: What it has pending.
        now: Time, as the links count it.
        banned: Members that this node holds no link to.
        stats: Bytes by link.
    """
    replica = context.replica
    others = [member for member in _everybody(context) if member != context.me]
    peers = [_peer(context, member, now, member in banned, stats or {}) for member in others]
    return {
        "id": context.me.hex(),
        "swarm": {
            "name": context.genesis.name,
            "genesis": replica.hash.hex(),
            "members": len(replica.roster.members()),
            "head_round": replica.head,
            "sealed_round": replica.sealed.round,
            "state_hash": state_hash.hex(),
            "pending_wins": outbox.wins,
            "unsealed_deltas": len(outbox.unsealed()),
            "founder": context.me == context.genesis.sealer,
        },
        "peers": peers,
        "dropped": [
            {
                "id": dropped.member.hex() if dropped.member else None,
                "key": dropped.key.hex(),
                "reason": dropped.reason,
                "seconds_ago": now - dropped.at,
            }
            for dropped in context.dropped
        ],
    }


def _everybody(context: Context) -> list[bytes]:
    """All who ever were members, by name."""
    records = [record.body for record in context.replica.roster.certificates()]
    named = {body.member: body.name for body in records if isinstance(body, Certificate)}
    return sorted(named, key=lambda member: (named[member].casefold(), member))


def _peer(
    context: Context, member: bytes, now: float, is_banned: bool, stats: Mapping[int, LinkStats]
) -> dict[str, Any]:
    roster = context.replica.roster
    record, where = roster.certificate_of(member), roster.peer(member)
    link = next((link for link in context.members() if link.member == member), None)
    body = record.body if record else None
    beat, counts = (link.beat, stats.get(link.number)) if link else (None, None)
    return {
        "id": member.hex(),
        "name": body.name if isinstance(body, Certificate) else "",
        "state": _standing(context, member, link, is_banned),
        "let_in_by": body.issuer.hex() if isinstance(body, Certificate) else None,
        "founder": member == context.genesis.sealer,
        "addresses": list(where.addresses) if where else [],
        "head_round": beat.head if beat else None,
        "state_hash": beat.state.hex() if beat else None,
        "last_seen_s": now - link.heard if link else None,
        "rtt_ms": None,
        "sent_bytes": counts.sent_bytes if counts else 0,
        "received_bytes": counts.received_bytes if counts else 0,
    }


def _standing(context: Context, member: bytes, link: Link | None, is_banned: bool) -> str:
    roster = context.replica.roster
    if member in roster.equivocators:
        return "equivocator"
    if not roster.is_member(member):
        return "revoked"
    if is_banned:
        return "banned"
    return "linked" if link else "away"
