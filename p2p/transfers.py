"""Blobs between members: what is fetched, what is given away, and what is done with one that is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from p2p import limits
from p2p.codec import decode_payload
from p2p.context import Context
from p2p.downloads import Download, Downloads, Wish
from p2p.errors import PayloadError
from p2p.gossip import Gossip
from p2p.links import Link
from p2p.records import Header
from p2p.sealing import Sealing
from p2p.wire import Chunk, NoBlob, WantChunk


class Transfers:
    """Fetches blobs and gives them away.

    Args:
        context: Shared with the other parts.
        gossip: Spreads what a payload brought about.
        sealing: Knows what seals need.
        downloads: What is on its way.
    """

    def __init__(self, context: Context, gossip: Gossip, sealing: Sealing, downloads: Downloads) -> None:
        self._context = context
        self._gossip = gossip
        self._sealing = sealing
        self._downloads = downloads
        self._begun: set[bytes] = set()

    def fetch(self) -> None:
        """Goes on fetching what the next seal needs, and payloads."""
        context, downloads = self._context, self._downloads
        wanted = self._wanted()
        if not wanted and not self._begun and not downloads.running():
            return
        names = {wish.name for wish in wanted}
        downloads.keep_only(names)
        for name in sorted(self._begun - names):
            self._begun.discard(name)
            if not context.storage.has_blob(name):
                context.storage.remove_blob(name)
        for wish in wanted:
            downloads.want(wish, context.links.values(), context.now)
        for number, message in downloads.steps(context.links, context.now):
            context.send(context.links[number], message)

    def _wanted(self) -> list[Wish]:
        """What the next seal needs, then payloads, by what was given up longest ago."""
        urgent = self._sealing.wanted()
        others: dict[bytes, Wish] = {}
        for header in self._context.replica.wanted_payloads():
            name, size = header.payload, header.payload_bytes
            if self._context.storage.has_blob(name):
                self._judge(name, self._context.storage.read_blob(name))
                continue
            known = others.get(name, Wish(name, size))
            others[name] = Wish(name, max(known.most_bytes, size), exact=known.exact and known.most_bytes == size)
        for wish in urgent:
            others.pop(wish.name, None)
        return [*urgent, *sorted(others.values(), key=lambda wish: self._downloads.patience(wish.name))]

    def give(self, wish: WantChunk, link: Link) -> None:
        """Answers a wish for a piece."""
        storage, total = self._context.storage, 0
        if self._may_give(wish.blob):
            total = storage.blob_bytes(wish.blob)
        offset = wish.index * limits.CHUNK_BYTES
        if offset >= total:
            self._context.send(link, NoBlob(wish.blob))
            return
        data = storage.read_chunk(wish.blob, offset, limits.CHUNK_BYTES)
        self._context.send(link, Chunk(wish.blob, wish.index, total, data))

    def refused(self, answer: NoBlob, link: Link) -> None:
        """A member does not have what it was asked for."""
        if answer.blob in self._downloads:
            link.lacks[answer.blob] = self._context.now
            self._downloads.refused(link.number, answer.blob)

    def listed(self, ids: Iterable[bytes], link: Link) -> None:
        """A member has these deltas with their payloads, also those that it lacked a moment ago."""
        for record in map(self._context.replica.get, ids if link.lacks else ()):
            if record is not None and isinstance(record.body, Header):
                link.lacks.pop(record.body.payload, None)

    def take(self, chunk: Chunk, link: Link) -> None:
        """Takes a piece that came."""
        try:
            download = self._downloads.take(link, chunk, self._context.now)
        except ValueError as error:
            self._context.drop(link, str(error))
            return
        if download is None:
            return
        self._begun.add(chunk.blob)
        self._context.storage.write_partial(chunk.blob, download.have - len(chunk.data), chunk.data)
        if download.have == download.total:
            self._complete(download, link)

    def _may_give(self, blob: bytes) -> bool:
        """Only what the swarm shares is given away, never what lies on the disk beside it."""
        return self._context.replica.has_payload(blob) or self._sealing.may_give(blob)

    def _complete(self, download: Download, link: Link) -> None:
        """Checks a blob that is whole now, and keeps it or fetches it again."""
        storage, name = self._context.storage, download.name
        if storage.has_blob(name):  # it came about here, too
            self._downloads.finish(name)
            return
        raw = storage.read_partial(name)
        if self._sealing.holds(name, raw):
            storage.write_blob(name, raw)
            self._downloads.finish(name)
        elif hashlib.sha256(raw).digest() == name:
            self._downloads.finish(name)
            if self._judge(name, raw):
                storage.write_blob(name, raw)
            else:
                storage.remove_blob(name)
        else:
            storage.remove_blob(name)
            self._downloads.restart(name)
            if download.sources == {link.key}:
                self._context.drop(link, "it sent something else than what was asked for")

    def _judge(self, name: bytes, raw: bytes) -> bool:
        """Holds a payload against every header that names it; whether one of them tells the truth.

        Where one lies, its author does, not who passed the payload on.
        """
        genesis, replica, holds = self._context.genesis, self._context.replica, False
        for header in [header for header in replica.wanted_payloads() if header.payload == name]:
            try:
                if len(raw) != header.payload_bytes:
                    raise PayloadError("a payload of another size than its header says")
                decode_payload(raw, genesis.travelling(header.round), genesis.norm_bound)
            except PayloadError:
                self._gossip.spread(replica.drop_payload(header))
            else:
                holds = True
                self._gossip.spread(replica.add_payload(header))
        return holds
