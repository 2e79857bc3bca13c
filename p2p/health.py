"""What somebody should look at, in words."""

from __future__ import annotations

from p2p import limits
from p2p.context import Context
from p2p.records import Certificate
from p2p.sealing import Sealing
from p2p.signing import Signing


def find_troubles(context: Context, sealing: Sealing, signing: Signing, waiting: int) -> tuple[str, ...]:
    """What keeps a member from signing, sealing or being counted, a line each.

    Args:
        context: The member's.
        sealing: Its part that takes seals.
        signing: Its part that signs deltas.
        waiting: Members that have to be heard yet because its home may be a copy.
    """
    lines, replica = list[str](), context.replica
    if signing.is_full:
        quota = f"{limits.UNSEALED_QUOTA_BYTES >> 30} GiB"
        lines.append(f"unsealed learning fills its {quota}; nothing is shared until a seal")
    if sealing.mismatch is not None:
        lines.append(f"{sealing.mismatch}; nothing is sealed or pruned any more")
    if replica.seals.forked:
        lines.append("the sealer signed two different seals; nothing is sealed or pruned any more")
    witnesses = {link.member for link in context.links.values() if link.contested and link.member}
    if witnesses:
        names = ", ".join(sorted(name_of(context, member) for member in witnesses))
        what = "another device runs with a copy of this home"
        lines.append(f"{what}, says {names}; nothing is signed until only one of them does")
    elif waiting:
        lines.append(f"this home is a copy or an old backup; before it shares, {waiting} members have to be heard")
    if sealing.is_early:
        lines.append("the seal that this device's ticket names has not come yet; no other is taken before")
    if sealing.lost:
        lines.append(f"{sealing.lost} deltas that an older copy of this home shared came too late for a seal")
    if not replica.roster.is_member(context.me):
        lines.append("this device is no member any more: what it learns stays here")
    for member in sorted(replica.roster.equivocators):
        lines.append(f"{name_of(context, member)} signed contradicting records; its learning counts nothing")
    return tuple(lines)


def name_of(context: Context, member: bytes) -> str:
    """What a member calls itself, and the beginning of its id."""
    record = context.replica.roster.certificate_of(member)
    name = record.body.name if record and isinstance(record.body, Certificate) else "somebody"
    return f"{name} ({member.hex()[:8]})"
