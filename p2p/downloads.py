"""Blobs that are fetched from others, a piece after the other, each from one holder at a time. Pure.

A blob is checked as a whole, by the hash that names it. Where it came from one holder alone and does not hold, that
holder lied; where two took part, it is fetched again from one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field

from p2p import limits
from p2p.links import Link
from p2p.wire import Chunk, WantChunk

MOST_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Wish:
    """A blob to fetch.

    Attributes:
        name: What it must hash to.
        most_bytes: It may not be larger.
        exact: Whether it must be exactly that large.
        is_urgent: Whether it goes before others.
    """

    name: bytes
    most_bytes: int
    exact: bool = True
    is_urgent: bool = False


@dataclass(slots=True)
class Download:
    """A blob on its way.

    Attributes:
        wish: What is wanted.
        have: Bytes that are here.
        total: Its size, as the holder says; 0 while not known.
        link: Asked at the moment.
        tried: Links that were asked before it.
        sources: Keys of all holders that gave a piece.
        asked: The next piece to ask for.
        moved: When a piece came last.
    """

    wish: Wish
    have: int = 0
    total: int = 0
    link: int | None = None
    tried: set[int] = field(default_factory=set)
    sources: set[bytes] = field(default_factory=set)
    asked: int = 0
    moved: float = 0.0

    @property
    def name(self) -> bytes:
        """What it must hash to."""
        return self.wish.name


class Downloads:
    """All blobs on their way to this node.

    Args:
        rng: Chooses among holders.
        partial_bytes: How much of a blob an earlier run left on the disk.
    """

    def __init__(self, rng: random.Random, partial_bytes: Callable[[bytes], int]) -> None:
        self._rng = rng
        self._partial_bytes = partial_bytes
        self._running: dict[bytes, Download] = {}
        self._given_up: dict[bytes, float] = {}

    def __contains__(self, name: bytes) -> bool:
        return name in self._running

    def running(self) -> tuple[Download, ...]:
        """What is on its way."""
        return tuple(self._running.values())

    def want(self, wish: Wish, links: Iterable[Link], now: float) -> None:
        """Starts a download; nothing if it runs, if enough others do, or if nobody is here who may have it.

        So what is withheld takes no place away for long from what is to be had; see also ``patience``.
        """
        if wish.name in self._running or not self._holders(wish.name, links, now) or not self._make_room(wish):
            return
        # The last whole piece is fetched again: with it comes the size.
        pieces = max(0, self._partial_bytes(wish.name) // limits.CHUNK_BYTES - 1)
        self._running[wish.name] = Download(wish, have=pieces * limits.CHUNK_BYTES)

    def patience(self, name: bytes) -> float:
        """When a download was given up last: what was given up longest ago is tried first."""
        return self._given_up.get(name, -1e9)

    def _make_room(self, wish: Wish) -> bool:
        """Whether another one may run; what is urgent takes the place of something that is not."""
        if len(self._running) < MOST_AT_ONCE:
            return True
        others = [download for download in self._running.values() if not download.wish.is_urgent]
        if not wish.is_urgent or not others:
            return False
        del self._running[min(others, key=lambda download: download.moved).name]
        return True

    def keep_only(self, names: Container[bytes]) -> None:
        """Ends downloads that nobody wants any more."""
        self._given_up = {name: at for name, at in self._given_up.items() if name in names}
        self._running = {name: download for name, download in self._running.items() if name in names}

    def finish(self, name: bytes) -> None:
        """Ends a download."""
        del self._running[name]

    def link_down(self, number: int) -> None:
        """A holder is gone."""
        for download in self._running.values():
            if download.link == number:
                download.link = None

    def refused(self, number: int, name: bytes) -> None:
        """A holder does not have a blob."""
        download = self._running.get(name)
        if download is not None and download.link == number:
            download.link = None

    def restart(self, name: bytes) -> None:
        """Begins a blob anew, because what came does not hold together."""
        self._running[name] = Download(self._running[name].wish)

    def steps(self, links: dict[int, Link], now: float) -> list[tuple[int, WantChunk]]:
        """The next pieces to ask for, and of whom."""
        out: list[tuple[int, WantChunk]] = []
        for download in [*self._running.values()]:
            if download.link is not None and now - download.moved > limits.CHUNK_PATIENCE_S:
                if download.link in links:
                    links[download.link].slow_at = links[download.link].lacks[download.name] = now
                download.link = None
            if download.link is None:
                holders = self._holders(download.name, links.values(), now)
                holders = [link for link in holders if link.number not in download.tried]
                if not holders:
                    del self._running[download.name]
                    self._given_up[download.name] = now
                    continue
                download.link = self._rng.choice(holders).number
                download.tried.add(download.link)
                download.asked, download.moved = download.have // limits.CHUNK_BYTES, now
            while self._may_ask(download):
                out.append((download.link, WantChunk(download.name, download.asked)))
                download.asked += 1
        return out

    def take(self, link: Link, chunk: Chunk, now: float) -> Download | None:
        """Takes a piece that came; None if nobody asked for it, it is not the next one, or the sizes do not fit.

        Raises:
            ValueError: It is not as long as it must be.
        """
        download = self._running.get(chunk.blob)
        if download is None or download.link != link.number or chunk.index != download.have // limits.CHUNK_BYTES:
            return None
        most_bytes = download.wish.most_bytes
        wrong_total = chunk.total_bytes > most_bytes or (download.wish.exact and chunk.total_bytes != most_bytes)
        if wrong_total or (download.total and chunk.total_bytes != download.total):
            # Who lies is not known: it may be who signed the size.
            link.lacks[download.name], download.link = now, None
            return None
        if len(chunk.data) != min(limits.CHUNK_BYTES, chunk.total_bytes - download.have):
            raise ValueError("a piece of another size than was asked for")
        download.total = chunk.total_bytes
        download.have += len(chunk.data)
        download.moved = now
        download.sources.add(link.key)
        return download

    def _holders(self, name: bytes, links: Iterable[Link], now: float) -> list[Link]:
        """Links to ask for a blob; those that let others wait only if there are no others."""
        found = [link for link in links if link.member and now - link.lacks.get(name, -1e9) > limits.LACK_MEMORY_S]
        return [link for link in found if now - link.slow_at > limits.LINK_DEAD_S] or found

    def _may_ask(self, download: Download) -> bool:
        behind = download.have // limits.CHUNK_BYTES
        if download.asked - behind >= (limits.CHUNK_CREDIT if download.total else 1):
            return False
        return not download.total or download.asked * limits.CHUNK_BYTES < download.total
