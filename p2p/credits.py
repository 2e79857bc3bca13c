"""Who has taken part in a swarm's learning, as far as one member's ledger tells. Pure: reads what is kept.

A seal keeps who signed in which round, and no more: how much was learned from, and whether anything was, is told only
of the rounds above the last seal.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from p2p import limits
from p2p.context import Context
from p2p.encoding import decode
from p2p.records import Certificate, SealContents
from p2p.seals import seal_of


@dataclass(frozen=True, slots=True)
class Credit:
    """What one member gave.

    Attributes:
        member: Its node id.
        name: What it calls itself; anything can be in there.
        sealed: Sealed rounds that it signed in, those included in which it had nothing to give.
        rounds: Rounds above the last seal that its learning counts in.
        wins: What that was learned from.
    """

    member: bytes
    name: str
    sealed: int
    rounds: int
    wins: int


def credits(context: Context) -> tuple[Credit, ...]:
    """All who ever were members and signed something that is in the state, most rounds first.

    Raises:
        WireError: A seal is damaged.
    """
    sealed, rounds, wins = _sealed(context), Counter[bytes](), Counter[bytes]()
    replica = context.replica
    for round in replica.rounds():
        for id, _ in replica.composition(round):
            header = replica.header(id)
            rounds[header.author] += 1
            wins[header.author] += header.wins
    found = [
        Credit(member, _name(context, member), sealed[member], rounds[member], wins[member])
        for member in sealed.keys() | rounds.keys()
    ]
    return tuple(sorted(found, key=lambda credit: (-credit.sealed - credit.rounds, credit.member)))


def _sealed(context: Context) -> Counter[bytes]:
    """Sealed rounds by author."""
    replica, storage = context.replica, context.storage
    signed: Counter[bytes] = Counter()
    for height in range(1, replica.sealed.height + 1):
        record = replica.seals.accepted(height)
        if record is not None and storage.has_blob(seal_of(record).contents):
            raw = storage.read_blob(seal_of(record).contents)
            contents = decode(raw, SealContents, limits.MAX_SEAL_CONTENTS_BYTES)
            signed.update(delta.author for delta in contents.deltas)
    return signed


def _name(context: Context, member: bytes) -> str:
    record = context.replica.roster.certificate_of(member)
    return record.body.name if record and isinstance(record.body, Certificate) else ""
