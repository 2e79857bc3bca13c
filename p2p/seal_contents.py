"""What a seal holds: proposed from a replica, and checked against one. Pure: reads a replica."""

from __future__ import annotations

from collections.abc import Iterator

from p2p.errors import WireError
from p2p.records import Revocation, Seal, SealContents, SealedDelta
from p2p.replica import Composition, Replica


def propose(replica: Replica, round: int) -> SealContents:
    """What a seal of everything up to a round would hold."""
    deltas = [(replica.header(id), id) for r in replica.rounds() if r <= round for id in replica.in_round(r)]
    roster = replica.roster
    return SealContents(
        deltas=tuple(
            SealedDelta(header.round, header.author, id)
            for header, id in sorted(deltas, key=lambda row: (row[0].round, row[0].author, row[1]))
        ),
        certificates=tuple(_standing_certificates(replica)),
        revocations=tuple(record.id for record in roster.revocations),
        equivocators=tuple(sorted(roster.equivocators | replica.sealed.equivocators)),
    )


def check(replica: Replica, seal: Seal, contents: SealContents) -> dict[int, Composition]:
    """What a seal adds to the state before it, by round. Everything it names is here.

    Raises:
        WireError: It contradicts itself, or what it names.
    """
    ids = [(delta.round, delta.author, delta.id) for delta in contents.deltas]
    if ids != sorted(set(ids)):
        raise WireError("a seal whose deltas are not sorted, or not different")
    revocations = [replica.roster.get(id) for id in contents.revocations]
    said = [record.body for record in revocations if record and isinstance(record.body, Revocation)]
    equivocators = frozenset(contents.equivocators) | replica.sealed.equivocators
    sums: dict[int, list[tuple[bytes, int]]] = {}
    for delta in contents.deltas:
        header = replica.header(delta.id)
        if (header.round, header.author) != (delta.round, delta.author):
            raise WireError("a seal that misnames a delta")
        if not replica.sealed.round < header.round <= seal.round:
            raise WireError("a seal with a delta of another time")
        weight = replica.roster.weight(
            header,
            sealed_certificates=replica.sealed.certificates,
            revocations=said,
            equivocators=equivocators,
        )
        if weight:
            sums.setdefault(header.round, []).append((delta.id, weight))
    return {round: tuple(sorted(parts)) for round, parts in sorted(sums.items())}


def _standing_certificates(replica: Replica) -> Iterator[bytes]:
    """Ids of certificates, without those that a revoked inviter gave since the last seal."""
    for record in replica.roster.certificates():
        if record.id in replica.sealed.certificates or replica.roster.is_well_given(record):
            yield record.id
