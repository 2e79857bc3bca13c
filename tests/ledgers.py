"""What tests store: records, blobs, and a small ledger of both."""

from __future__ import annotations

import hashlib
from pathlib import Path

from p2p.encoding import encode
from p2p.ledger import Ledger
from p2p.records import Invite, Record, Signed, record_id


def record(number: int) -> Record:
    """A record whose signature nobody checks."""
    key = hashlib.sha256(bytes([number])).digest()
    body = Invite(genesis=key, issuer=key, join_key=key, join_transport=key, expires_s=number)
    raw = encode(body)
    return Record(id=record_id(raw), body=body, signed=Signed(raw, bytes([number]) * 64))


def blob(number: int) -> tuple[bytes, bytes]:
    """A blob, after its name."""
    raw = bytes([number]) * (1000 + number)
    return hashlib.sha256(raw).digest(), raw


def always(_: bytes) -> bool:
    return True


def make_ledger(folder: Path) -> Path:
    """Makes a ledger with a value, two records and two blobs, and one on its way; returns its folder."""
    with Ledger(folder) as ledger:
        ledger.put("a", b"1")
        for number in (1, 2):
            ledger.add_record(record(number))
            ledger.write_blob(*blob(number))
        ledger.write_partial(blob(3)[0], 0, b"x")
        ledger.commit()
    return folder
