"""Everything that was ever committed or sent, by anyone, as somebody who sees all devices knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from p2p.codec import decode_payload
from p2p.encoding import decode
from p2p.grid import Wide, scatter
from p2p.limits import MAX_RECORD_BYTES
from p2p.records import Body as AnyBody
from p2p.records import Certificate, Genesis, Header, Record, Seal, SealContents, Signed, record_id
from p2p.wire import Message, Proof, Push, Tip
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from tests.simulation.device import Device


class Evidence:
    """What was committed on any disk, and what honest authors sent.

    Attributes:
        honest: Ids of honest members.
        records: All records that were committed anywhere, by id.
        blobs: All blobs that were committed anywhere, by name.
        sealed: Ids of all deltas that seals count.
        excused: Honest members that could not know what they had signed before they were restored.
        seals: Ids of the seals that somebody received, by height.
        said: Rounds of all headers of each honest author that somebody received, by id.
        shared: Ids of the non-null deltas of each honest author that another honest member has.
    """

    def __init__(self, genesis: Genesis, honest: set[bytes]) -> None:
        self._genesis = genesis
        self.honest = honest
        self.excused: set[bytes] = set()
        self.records: dict[bytes, Record] = {}
        self.blobs: dict[bytes, bytes] = {}
        self.sealed: set[bytes] = set()
        self.shared: dict[bytes, set[bytes]] = {}
        self.said: dict[bytes, dict[bytes, int]] = {}
        self._read: set[bytes] = set()
        self._slots: dict[tuple[bytes, int | bytes], bytes] = {}
        self.seals: dict[int, bytes] = {}
        self._invites: dict[bytes, bytes] = {}
        self._deltas: dict[bytes, Wide] = {}

    def committed(self, node: bytes, records: list[Record], blobs: list[tuple[bytes, bytes]]) -> list[Record]:
        """Takes note of what the disk of a node has now; returns the records that nobody had before."""
        new = [record for record in records if record.id not in self.records]
        for record in new:
            self.records[record.id] = record
        if node in self.honest:
            for record in records:
                body = record.body
                if isinstance(body, Header) and body.author in self.honest - {node} and not body.is_null:
                    self.shared.setdefault(body.author, set()).add(record.id)
        self.blobs.update(blobs)
        return new

    def seal(self, record: Record) -> None:
        """Takes note of a seal that somebody accepted; its contents were committed."""
        assert isinstance(record.body, Seal)
        self.records[record.id] = record
        contents = self.contents(record.body)
        self.sealed.update(delta.id for delta in contents.deltas)

    def contents(self, seal: Seal) -> SealContents:
        """Of a seal."""
        return decode(self.blobs[seal.contents], SealContents, 1 << 22)

    def header(self, id: bytes) -> Header | None:
        """A header that was committed anywhere."""
        record = self.records.get(id)
        return record.body if record is not None and isinstance(record.body, Header) else None

    def delta(self, id: bytes) -> Wide:
        """What a non-null delta adds up to, ``[parameters]`` in coarse steps."""
        if id not in self._deltas:
            header = self.header(id)
            assert header is not None
            if header.payload not in self.blobs:
                raise Violation("durability", f"{id.hex()} is about, and its payload was never on a disk")
            tensors = self._genesis.travelling(header.round)
            values = decode_payload(self.blobs[header.payload], tensors, self._genesis.norm_bound)
            self._deltas[id] = scatter(values.astype(np.int64), self._genesis, tensors)
        return self._deltas[id]

    def received(self, device: Device, message: Message) -> None:
        """Looks at what somebody has now: honest authors must never have said two things at once."""
        match message:
            case Push():
                signed: tuple[Signed, ...] = message.records
            case Proof():
                signed = (message.first, message.second)
            case Tip():
                signed = tuple(item for item in (message.header, message.seal) if item is not None)
            case _:
                return
        for item in signed:
            if item.body not in self._read:
                self._read.add(item.body)
                self._look(device, item)

    def _look(self, device: Device, item: Signed) -> None:
        body: AnyBody = decode(item.body, AnyBody, MAX_RECORD_BYTES)  # type: ignore[arg-type]  # a union is a type
        id = record_id(item.body)
        match body:
            case Header() if body.author in self.honest:
                if body.author in self.excused:
                    return
                self.said.setdefault(body.author, {})[id] = body.round
                for slot in ((body.author, body.round), (body.author, body.prev)):
                    if self._slots.setdefault(slot, id) != id:
                        raise Violation("equivocation", f"{device} has a second header of an honest author: {body}")
            case Seal():
                if self.seals.setdefault(body.height, id) != id:
                    raise Violation("seal agreement", f"{device} has a second seal of height {body.height}")
            case Certificate() if body.issuer in self.honest and body.invite:
                if self._invites.setdefault(body.invite, body.member) != body.member:
                    raise Violation("one ticket, one member", f"{device} has a second certificate for one invite")
            case _:
                return
