"""Looks a ledger over, beside the node that may write to it, and says what is wrong and what is lost by it.

Payloads that others signed can be fetched again from any member: one that is damaged is removed, and asked for at the
next start. All else that is damaged is gone; nobody else may have had it.

Not covered: what deltas say, which their signatures and hashes vouch for, and a ledger of another swarm in this place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from p2p import limits
from p2p.codec import decode_state
from p2p.encoding import decode, digest
from p2p.errors import P2PError
from p2p.founding import genesis_of, reader_of_home
from p2p.grid import state_hash
from p2p.ledger import LedgerReader
from p2p.records import Genesis, Header, Seal, Signed, open_record

_TRIES = 3


@dataclass(frozen=True, slots=True, order=True)
class Damage:
    """Something that is wrong.

    Attributes:
        text: What, in words.
        blob: The file to remove, where the node can fetch what was in it again.
    """

    text: str
    blob: Path | None = None


def examine(ledger: LedgerReader) -> list[Damage]:
    """Reads everything; what a node is just writing or removing is looked at again before it is called damage."""
    found = set(_examine(ledger))
    for _ in range(_TRIES - 1):
        if found:
            found &= set(_examine(ledger))
    return sorted(found, key=lambda damage: damage.text)


def _examine(ledger: LedgerReader) -> list[Damage]:
    try:
        genesis = genesis_of(ledger)  # type: ignore[arg-type]  # only reads
        seals, payloads = _named(ledger, genesis)
    except P2PError as error:
        return [Damage(error.message), *map(Damage, ledger.check(lambda name: False))]
    states = {seal.state for seal in seals}
    contents = {seal.contents for seal in seals}
    damages = [_damage(ledger, line, payloads) for line in ledger.check(lambda name: name not in states | contents)]
    for name in sorted((states | contents) & set(ledger.blobs())):
        try:
            raw = ledger.read_blob(name)
            held = state_hash(decode_state(raw, genesis), genesis) if name in states else digest("seal contents", raw)
        except P2PError as error:
            damages.append(Damage(f"{ledger.folder / 'blobs' / name.hex()}: {error.message}"))
        else:
            if held != name:
                damages.append(Damage(f"{ledger.folder / 'blobs' / name.hex()}: not what its name says"))
    return damages


def _named(ledger: LedgerReader, genesis: Genesis) -> tuple[list[Seal], frozenset[bytes]]:
    """The seals that the ledger holds, and the payloads that others signed."""
    seals, payloads = list[Seal](), set[bytes]()
    for prefix in ("seal/", "offered/", "forked/"):
        for key in ledger.keys(prefix):
            body = open_record(decode(ledger.get(key) or b"", Signed, 2 * limits.MAX_RECORD_BYTES), genesis.hash).body
            assert isinstance(body, Seal)
            seals.append(body)
    me = reader_of_home(ledger).node  # type: ignore[arg-type]  # only reads
    for signed in ledger.records():
        body = open_record(signed, genesis.hash).body
        if isinstance(body, Header) and not body.is_null and body.author != me:
            payloads.add(body.payload)
    return seals, frozenset(payloads)


def _damage(ledger: LedgerReader, line: str, payloads: frozenset[bytes]) -> Damage:
    """A line of the ledger's own check; with the file, if that is a payload."""
    path = Path(line.partition(": ")[0])
    is_payload = path.parent.name == "blobs" and any(name.hex() == path.name for name in payloads)
    return Damage(line, path if is_payload else None)
