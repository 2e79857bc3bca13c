"""The seals that a member knows, for people: what each counted, and when that came about here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from p2p import limits
from p2p.blobs import Blobs
from p2p.context import Context
from p2p.encoding import decode
from p2p.records import Certificate, SealContents
from p2p.seals import seal_of


def seals(context: Context, ledger: Path, limit: int) -> list[dict[str, Any]]:
    """The last seals that were accepted, oldest first.

    Seals carry no time. ``written_s`` is when the list of what a seal counts was written on this disk, in Unix time:
    for the sealer when it signed, for others when it came. A copy of the home may have another one.

    Args:
        context: Of the member.
        ledger: Its ledger's folder.
        limit: The most there may be.

    Raises:
        LedgerError: The ledger is damaged.
        WireError: What a seal counts cannot be read.
    """
    chain, blobs = context.replica.seals, Blobs(ledger / "blobs")
    height, found = chain.sealed.height, []
    for record in (chain.accepted(number) for number in range(max(1, height - limit + 1), height + 1)):
        if record is None:
            continue
        seal = seal_of(record)
        contents = decode(blobs.read(seal.contents), SealContents, limits.MAX_SEAL_CONTENTS_BYTES)
        rounds = {delta.round for delta in contents.deltas}
        found.append(
            {
                "height": seal.height,
                "from_round": min(rounds, default=seal.round),
                "to_round": seal.round,
                "deltas": len(contents.deltas),
                "authors": sorted({_name(context, delta.author) for delta in contents.deltas}, key=str.casefold),
                "written_s": blobs.written_s(seal.contents),
            }
        )
    return found


def _name(context: Context, member: bytes) -> str:
    record = context.replica.roster.certificate_of(member)
    return record.body.name if record and isinstance(record.body, Certificate) else member.hex()[:8]
