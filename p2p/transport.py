"""Links between nodes: authenticated, encrypted, and bounded in memory and time.

A node that can be reached listens with one ROUTER (``p2p.listener``), and dials with a DEALER a link (``p2p.dialler``).
Of both, ``Transport`` makes links (``p2p.link_end``). With ``p2p.zap``, which they stand on, that is all of ZeroMQ.

Messages go in by ``send`` and come out of ``next_event``, in order. Nothing waits: a queue that is full says so, and a
node that does not ask for events stops its peers from sending once its own queue is full.

A link belongs to a peer's key for its whole life. Whether that key may hold one is asked again for every message.

Not covered: what peers say. And one assertion of libzmq 4.3.5: an admitted peer that gives itself the routing id which
the ROUTER is about to give to another, 32 bits that it can only guess, stops the process.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Literal

import zmq

from p2p import limits
from p2p.dialler import Dialler
from p2p.errors import NetworkError
from p2p.events import (
    DISCONNECTED,
    ENDLESS,
    HANDSHAKE,
    MALFORMED,
    NOT_ADMITTED,
    REFUSED,
    REPLACED,
    SILENT,
    UNREACHABLE,
    Event,
    EventQueue,
    LinkDown,
    LinkUp,
    Received,
)
from p2p.link_end import LinkEnd, LinkStats
from p2p.listener import MOST_SILENT, Listener
from p2p.pump import Pump
from p2p.send_queue import SendAccount, SendQueue
from p2p.zap import Admit, Arrival, Connection, Context, Keys, ZapHandler

DIAL_S = 20.0
"""A dialled peer has so long to answer."""

_SWEEP_S = 0.5

Tap = Callable[[Literal["sent", "received"], int, bytes], None]


class Transport:
    """All links of a node.

    Args:
        secret: This node's Curve25519 key, 32 bytes.
        listen: Where others can dial in, as ``host:port``, port 0 for any free one; None if they cannot.
        admit: Whether a key may hold a link now. Asked at each handshake, on both sides, and for each message.
        tap: Is shown every message as it was before encryption.
        dead_s: A link that brings nothing for so long, in seconds, is dropped.
        most_accepted: Links that others dialled; a few more than members keep, so that who is too many can be told so.
    """

    _numbers = itertools.count(1)

    def __init__(
        self,
        *,
        secret: bytes,
        listen: str | None,
        admit: Admit,
        tap: Tap | None = None,
        dead_s: float = limits.LINK_DEAD_S,
        most_accepted: int = limits.MAX_ACCEPTED + limits.MAX_UNKNOWN,
    ) -> None:
        self._keys = Keys.of(secret)
        self._listen = listen
        self._admit = admit
        self._tap = tap
        self._dead_s = dead_s
        self._most_accepted = most_accepted
        self._context: Context | None = None
        self._zap_handler: ZapHandler | None = None
        self._listener: Listener | None = None
        self._closed = False
        self._links: dict[int, LinkEnd] = {}
        self._by_connection: dict[Connection, LinkEnd] = {}
        self._events = EventQueue()
        self._waiting = SendAccount()
        self._pump: Pump[Listener | Dialler] = Pump(
            read=self._read, flush=self._flush, is_full=lambda: self._events.is_full
        )
        self._sweeping: asyncio.TimerHandle | None = None
        self._counts: Counter[str] = Counter()

    # From outside.

    async def start(self) -> None:
        """Begins to listen, and to dial when told to.

        Raises:
            NetworkError: Nobody can listen at that address.
        """
        self._loop = asyncio.get_running_loop()
        self._swept_s = self._loop.time()
        self._context = zmq.Context()
        try:
            self._zap_handler = ZapHandler(self._context, self._admit)
            if self._listen is not None:
                self._listener = Listener(
                    self._context, self._keys, self._listen, on_ready=self._pump.look, on_end=self._connection_ended
                )
        except BaseException:
            await self.close()
            raise
        self._sweeping = self._loop.call_later(_SWEEP_S, self._sweep)

    async def close(self) -> None:
        """Ends all links, of which nothing more is told. What was sent has a moment to leave. Closing twice is fine."""
        if self._closed or self._context is None:
            return
        self._closed = True
        self._events.close()
        self._pump.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
        diallers = [link.line for link in self._links.values() if isinstance(link.line, Dialler)]
        for line in (*diallers, self._listener, self._zap_handler):
            if line is not None:
                line.close()
        self._links.clear()
        self._by_connection.clear()
        await asyncio.gather(*(dialler.task for dialler in diallers), return_exceptions=True)
        await asyncio.to_thread(self._context.term)

    @property
    def address(self) -> str | None:
        """Where it listens, as ``host:port``, with the port it was given."""
        return None if self._listener is None else self._listener.address

    @property
    def counts(self) -> Counter[str]:
        """What was turned away before it became a link, by reason."""
        counts = self._counts + (self._listener.counts if self._listener is not None else Counter())
        counts["refused keys"] += self._zap_handler.refused if self._zap_handler is not None else 0
        return counts

    def dial(self, address: str, server_key: bytes) -> int:
        """Tries to reach a peer.

        Args:
            address: Where, as ``host:port``.
            server_key: The peer's Curve25519 key, 32 bytes.

        Returns:
            The number of the link. ``LinkUp`` or ``LinkDown`` follow, also for an address that is none.

        Raises:
            NetworkError: The transport is not running.
        """
        if self._context is None or self._closed:
            raise NetworkError("the transport is not running")
        link = self._add(server_key, dialled=True)
        link.line = Dialler(
            self._context,
            self._keys,
            server_key,
            address,
            on_up=partial(self._answered, link),
            on_end=partial(self._end, link),
            on_ready=self._pump.look,
        )
        return link.number

    def send(self, link: int, data: bytes) -> bool:
        """Sends a message, or has it wait.

        Args:
            link: Its number.
            data: At most ``MAX_MESSAGE_BYTES``.

        Returns:
            False if the link is not up, or too much waits on it already; the message is not sent then.

        Raises:
            ValueError: The message is too long for any link.
        """
        if len(data) > limits.MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {len(data):,} bytes")
        found = self._links.get(link)
        if found is None or found.down or found.connection is None or found.line is None:
            return False
        self._pump.look(found.line)
        if (found.queue or not found.push(data)) and not found.queue.add(data):
            return False
        found.sent_bytes += len(data)
        if self._tap is not None:
            self._tap("sent", link, data)
        return True

    def drop(self, link: int, reason: str) -> None:
        """Ends a link: all that is told of it from now on is ``LinkDown`` with this reason. What was sent may leave."""
        found = self._links.get(link)
        if found is not None and not found.down:
            found.cut = True
            self._end(found, reason)

    async def next_event(self) -> Event:
        """What happened next. For one task at a time.

        Raises:
            NetworkError: The transport was closed.
        """
        while (event := await self._events.take()) is not None:
            if isinstance(event, LinkDown):
                del self._links[event.link]
            elif isinstance(event, Received) and not self._may_tell(self._links[event.link], event):
                continue
            return event
        raise NetworkError("the transport is closed")

    def stats(self, link: int) -> LinkStats:
        """What went over a link so far.

        Raises:
            KeyError: There is no such link, or its ``LinkDown`` was told.
        """
        return self._links[link].stats()

    # Links.

    def _add(self, key: bytes, *, dialled: bool) -> LinkEnd:
        link = LinkEnd(
            number=next(self._numbers),
            key=key,
            dialled=dialled,
            heard_s=self._loop.time(),
            queue=SendQueue(self._waiting),
        )
        self._links[link.number] = link
        return link

    def _answered(self, link: LinkEnd) -> None:
        """A dialled peer proved its key."""
        assert isinstance(link.line, Dialler)
        assert link.line.connection is not None
        if self._admit(link.key):
            self._up(link, link.line.connection)
        else:
            self._end(link, NOT_ADMITTED)

    def _welcome(self, listener: Listener, arrival: Arrival) -> LinkEnd | None:
        """Makes a link of a first message, if there is room. It takes the place of an older one of the same key."""
        accepted = [link for link in self._by_connection.values() if not link.dialled]
        older = next((link for link in accepted if link.key == arrival.key), None)
        refusal = "" if self._admit(arrival.key) else "refused keys"
        if older is None and len(accepted) >= self._most_accepted:
            refusal = "no room"
        if refusal:
            self._counts[refusal] += 1
            listener.hang_up(arrival.connection)
            return None
        if older is not None:
            self._end(older, REPLACED)
        link = self._add(arrival.key, dialled=False)
        link.line = listener
        self._up(link, arrival.connection)
        return link

    def _up(self, link: LinkEnd, connection: Connection) -> None:
        link.connection = connection
        link.heard_s = self._loop.time()
        self._by_connection[connection] = link
        self._events.add(LinkUp(link.number, link.key, link.dialled))

    def _connection_ended(self, connection: Connection) -> None:
        link = self._by_connection.get(connection)
        if link is not None:
            self._end(link, DISCONNECTED)

    def _end(self, link: LinkEnd, reason: str) -> None:
        if link.down:
            return
        link.down = True
        link.queue.clear()
        if link.connection is not None:
            del self._by_connection[link.connection]
        match link.line:
            case Dialler():
                self._pump.forget(link.line)
                link.line.close()
            case Listener() if link.connection is not None:
                link.line.let_go(link.connection)
        self._events.add(LinkDown(link.number, link.key, reason))

    # Messages.

    def _read(self, line: Listener | Dialler) -> bool:
        """Receives a message; whether there was one."""
        arrival = line.receive()
        if arrival is None:
            return False
        link = self._by_connection.get(arrival.connection)
        if link is None and isinstance(line, Listener):
            link = self._welcome(line, arrival)
        if link is None:
            return True
        arrival.connection.heard()
        link.heard_s = self._loop.time()
        link.received_bytes += sum(map(len, arrival.parts))
        data = arrival.parts[0] if len(arrival.parts) == 1 else None
        if data is None or len(data) > limits.MAX_MESSAGE_BYTES:
            self._end(link, MALFORMED)
        else:
            self._events.add(Received(link.number, data))
        return True

    def _flush(self, line: Listener | Dialler) -> bool:
        """Sends what waits on the links of a line; whether anything left."""
        sent = False
        for link in self._by_connection.values():
            if link.line is line and link.queue.flush(link.push):
                sent = True
        return sent

    def _may_tell(self, link: LinkEnd, event: Received) -> bool:
        """Whether the sender of a message, for which there is room again, may be heard now."""
        self._pump.go_on()
        if link.cut:
            return False
        if not self._admit(link.key):
            link.cut = True
            self._end(link, NOT_ADMITTED)
            return False
        if self._tap is not None:
            self._tap("received", event.link, event.data)
        return True

    def _sweep(self) -> None:
        """Looks for what no event tells of."""
        now_s = self._loop.time()
        self._sweeping = self._loop.call_later(_SWEEP_S, self._sweep)
        was_deaf = self._events.is_full or now_s - self._swept_s > 10 * _SWEEP_S
        self._swept_s = now_s
        for link in list(self._links.values()):
            if link.down:
                continue
            if was_deaf:
                link.heard_s = now_s
            if link.connection is None and now_s - link.heard_s > DIAL_S:
                self._end(link, f"{UNREACHABLE}: no answer")
            elif link.connection is not None and now_s - link.heard_s > self._dead_s:
                self._end(link, SILENT)
            elif link.connection is not None and link.connection.is_endless():
                self._end(link, ENDLESS)
            elif link.queue and link.line is not None:
                self._pump.look(link.line)
        if self._listener is not None:
            self._listener.sweep(now_s - self._dead_s)


__all__ = [
    "DIAL_S",
    "DISCONNECTED",
    "ENDLESS",
    "HANDSHAKE",
    "MALFORMED",
    "MOST_SILENT",
    "NOT_ADMITTED",
    "REFUSED",
    "REPLACED",
    "SILENT",
    "UNREACHABLE",
    "Admit",
    "Event",
    "LinkDown",
    "LinkStats",
    "LinkUp",
    "Received",
    "Tap",
    "Transport",
]
