"""What a member knows of itself and of the others, as plain values: for `status`, whether the node runs or not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from p2p import increments, limits
from p2p.context import Context
from p2p.links import Dropped, Link
from p2p.outbox import Outbox
from p2p.records import Certificate
from p2p.transport import DISCONNECTED, REPLACED, LinkStats

BANNED = "banned here"
MOST_ROUNDS = 6
MOST_AUTHORS = 16
"""Of a round, that are named."""
ORDINARY = frozenset({BANNED, DISCONNECTED, REPLACED, "a second link", "others have to be heard"})
"""Why links end that nobody has to look into."""


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
            "member": replica.roster.is_member(context.me),
        },
        "peers": peers,
        "contributions": _contributions(context),
        "dropped": [_dropped(context, drop, now) for drop in context.dropped if not _is_ordinary(drop.reason)],
    }


def remember_drop(context: Context, number: int, reason: str, now: float) -> None:
    """Keeps in mind that the transport ended a link, unless the member did that itself, or it is nothing to look into.

    Args:
        context: Of the member, which was not told yet.
        number: Of the link.
        reason: What the transport says.
        now: Time.
    """
    link = context.links.get(number)
    if link is not None and not _is_ordinary(reason):
        context.dropped.append(Dropped(link.key, link.member, reason, now))
        del context.dropped[: -limits.MOST_REMEMBERED_DROPS]


def troubles(outbox: Path) -> list[str]:
    """What somebody should look at in the folder that trainers leave things in."""
    refused = increments.refused(outbox)
    if not refused:
        return []
    return [f"learning that does not fit this swarm, or is damaged, was put aside: {refused[0].parent}/*.refused"]


def _is_ordinary(reason: str) -> bool:
    return reason.removeprefix("it said: ") in ORDINARY


def _dropped(context: Context, dropped: Dropped, now: float) -> dict[str, Any]:
    """A link that was ended; who it was is known by its key even before it said so."""
    bodies = [record.body for record in context.replica.roster.certificates()]
    named = {body.transport: body for body in bodies if isinstance(body, Certificate)}
    body = named.get(dropped.key)
    member = dropped.member or (body.member if body else None)
    where = context.replica.roster.peer(member) if member else None
    return {
        "id": member.hex() if member else None,
        "name": body.name if body else None,
        "key": dropped.key.hex(),
        "address": where.addresses[0] if where and where.addresses else None,
        "reason": dropped.reason,
        "seconds_ago": now - dropped.at,
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
    heard = link.heard if link else context.heard.get(member)
    beat, counts = (link.beat, stats.get(link.number)) if link else (None, None)
    return {
        "id": member.hex(),
        "name": _name(context, member),
        "state": _standing(context, member, link, is_banned),
        "let_in_by": body.issuer.hex() if isinstance(body, Certificate) else None,
        "founder": member == context.genesis.sealer,
        "addresses": list(where.addresses) if where else [],
        "head_round": beat.head if beat else None,
        "state_hash": beat.state.hex() if beat else None,
        "last_seen_s": None if heard is None else now - heard,
        "rtt_ms": counts.rtt_ms if counts else None,
        "sent_bytes": counts.sent_bytes if counts else 0,
        "received_bytes": counts.received_bytes if counts else 0,
    }


def _contributions(context: Context) -> list[dict[str, Any]]:
    """Who has a delta in the last rounds that no seal has passed, newest first; who learned most comes first."""
    replica, found = context.replica, []
    for round in reversed(replica.rounds()[-MOST_ROUNDS:]):
        headers = [replica.header(id) for id in replica.in_round(round)]
        learned = sorted((header for header in headers if not header.is_null), key=lambda h: (-h.wins, h.author))
        authors = [
            {"id": header.author.hex(), "name": _name(context, header.author), "wins": header.wins}
            for header in learned[:MOST_AUTHORS]
        ]
        found.append(
            {
                "round": round,
                "deltas": len(learned),
                "null": len(headers) - len(learned),
                "wins": sum(header.wins for header in learned),
                "authors": authors,
            }
        )
    return found


def _name(context: Context, member: bytes) -> str:
    record = context.replica.roster.certificate_of(member)
    return record.body.name if record and isinstance(record.body, Certificate) else ""


def _standing(context: Context, member: bytes, link: Link | None, is_banned: bool) -> str:
    roster = context.replica.roster
    if member in roster.equivocators:
        return "equivocator"
    if not roster.is_member(member):
        return "revoked"
    if is_banned:
        return "banned"
    return "linked" if link else "away"
