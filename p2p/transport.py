"""Links between nodes: authenticated, encrypted, and bounded in memory and time. With ``p2p.zap``, all that is ZeroMQ.

A node that can be reached listens with one ROUTER (``Door``), and dials with a DEALER a link (``Dialler``). Of both,
``Transport`` makes links. Messages go in by ``send`` and come out of ``next_event``, in order. Nothing waits: a queue
that is full says so, and a node that does not ask for events stops its peers from sending once its own queue is full.

A link belongs to a peer's key for its whole life. Whether that key may hold one is asked again for every message.

Not covered: what peers say. And one assertion of libzmq 4.3.5: an admitted peer that gives itself the routing id which
the ROUTER is about to give to another, 32 bits that it can only guess, stops the process.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import zmq

from p2p import addresses, limits
from p2p.errors import NetworkError
from p2p.zap import (
    Admit,
    Arrival,
    Connection,
    Context,
    Gate,
    Keys,
    Monitor,
    Watched,
    make_dealer,
    make_router,
)

MOST_SILENT = 128
"""Connections without a message yet, which anybody can make. Of more, the oldest go: honest ones soon have one."""
DIAL_S = 20.0
"""A dialled peer has so long to answer."""
QUEUED_MESSAGES = 1024
QUEUED_BYTES = 2 * limits.MIB
"""What may wait to be sent on a link, beyond what libzmq and the kernel hold."""
ALL_QUEUED_BYTES = 32 * limits.MIB
"""What may wait on all links together."""
EVENT_BYTES = 8 * limits.MIB
EVENT_MESSAGES = 1024
"""What was received waits for ``next_event``; sockets are not read from while more than this does."""

UNREACHABLE = "unreachable"
HANDSHAKE = "the handshake failed: another node than was meant, or none"
REFUSED = "refused: this node's key is not admitted there"
DISCONNECTED = "disconnected"
SILENT = "silent"
NOT_ADMITTED = "its key is not admitted any more"
REPLACED = "replaced by a newer link of the same key"
MALFORMED = "a message that is too long, or in parts"
ENDLESS = "a message without an end"

_SWEEP_S = 0.5
_GRACE_S = 0.2
"""What was sent before a link was dropped has so long to leave."""
_READS_A_TURN = 64
_ROUTE_BYTES = 5
_FAILED = zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
_DOOR_EVENTS = zmq.Event.ACCEPTED | zmq.Event.DISCONNECTED | _FAILED
_DIALLER_EVENTS = (
    zmq.Event.CONNECTED
    | zmq.Event.CLOSED
    | zmq.Event.DISCONNECTED
    | zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.HANDSHAKE_FAILED_AUTH
    | _FAILED
)


# What happens.


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A link came up.

    Attributes:
        link: Its number, which no other link of this process ever has.
        key: The peer's Curve25519 key.
        dialled: Whether this node dialled.
    """

    link: int
    key: bytes
    dialled: bool


@dataclass(frozen=True, slots=True)
class LinkDown:
    """A link went down, or a dialled one never came up. The last that is heard of it."""

    link: int
    key: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Received:
    """A message."""

    link: int
    data: bytes


Event = LinkUp | LinkDown | Received
Tap = Callable[[Literal["sent", "received"], int, bytes], None]


@dataclass(frozen=True, slots=True)
class LinkStats:
    """What went over a link: bytes of messages, and how many messages wait to be sent."""

    sent_bytes: int
    received_bytes: int
    queued: int


# Dialling.


async def _resolve(address: str) -> list[tuple[str, bool]]:
    """The endpoints that an address stands for, best first, and whether each is of IPv6.

    Names are looked up here, in a thread: given one, libzmq's only I/O thread would wait, and all links with it.
    """
    parsed = addresses.parse(address)
    found = await asyncio.get_running_loop().getaddrinfo(parsed.host, parsed.port, type=socket.SOCK_STREAM)
    hosts = dict.fromkeys((str(sockaddr[0]), family == socket.AF_INET6) for family, *_, sockaddr in found)
    return [(f"tcp://{addresses.HostPort(host, parsed.port)}", ipv6) for host, ipv6 in hosts]


class Dialler:
    """Tries what an address stands for in turn, until the peer with the right key answers; then carries its link.

    Args:
        context: Of the sockets.
        keys: This node's.
        server_key: The peer's.
        address: Where it should be.
        on_up: Is called once the peer has answered.
        on_end: Is called with a reason once nobody did, or the connection has ended and all it brought was received.
        on_ready: Is called with this when there may be something to receive, or room to send.

    Attributes:
        connection: To the peer, once there is one.
        task: Looks up the address.
    """

    def __init__(
        self,
        context: Context,
        keys: Keys,
        server_key: bytes,
        address: str,
        *,
        on_up: Callable[[], None],
        on_end: Callable[[str], None],
        on_ready: Callable[[Dialler], None],
    ) -> None:
        self.connection: Connection | None = None
        self._context = context
        self._keys = keys
        self._server_key = server_key
        self._on_up = on_up
        self._on_end = on_end
        self._on_ready = on_ready
        self._endpoints: list[tuple[str, bool]] = []
        self._watched: Watched | None = None
        self._monitor: Monitor | None = None
        self._is_up = False
        self._failure = ""
        self._loop = asyncio.get_running_loop()
        self.task = self._loop.create_task(self._begin(address))

    def receive(self) -> Arrival | None:
        """A message, if there is one."""
        if self._watched is None or self._watched.closed or not self._is_up:
            return None
        frames = self._watched.receive()
        if frames and self.connection is not None:
            return Arrival(self.connection, self._server_key, tuple(frame.bytes for frame in frames))
        if self._failure:
            self._on_end(self._failure)
        return None

    def send(self, data: bytes) -> bool:
        """Sends a message, once the peer answered; whether there was room."""
        return self._watched is not None and self._watched.send(data)

    def close(self) -> None:
        """Gives up, or ends the connection. Neither is told."""
        self.task.cancel()
        self._close_sockets()

    def _close_sockets(self) -> None:
        if self._monitor is not None:
            self._monitor.close()
        if self._watched is not None:
            self._watched.close()

    async def _begin(self, address: str) -> None:
        try:
            self._endpoints = await _resolve(address)
        except (NetworkError, OSError, UnicodeError) as error:
            self._on_end(f"{UNREACHABLE}: {error}")
        else:
            self._try_next(UNREACHABLE)

    def _try_next(self, failure: str) -> None:
        """Tries the next endpoint; if none is left, ends with what became of the last."""
        self._close_sockets()
        self.connection, self._failure = None, ""
        if not self._endpoints:
            self._on_end(failure)
            return
        endpoint, ipv6 = self._endpoints.pop(0)
        try:
            dealer = make_dealer(self._context, self._keys, self._server_key, ipv6=ipv6)
            self._watched = Watched(dealer, partial(self._on_ready, self))
            self._monitor = Monitor(self._context, dealer, _DIALLER_EVENTS, self._happened)
            dealer.connect(endpoint)
        except zmq.ZMQError as error:  # no descriptors are left, or no such network is here
            self._try_next(f"{UNREACHABLE}: {error.strerror}")

    def _happened(self, event: zmq.Event, value: int) -> None:
        match event:
            case zmq.Event.CONNECTED:
                self.connection = Connection(value, self._loop.time())
            case zmq.Event.HANDSHAKE_SUCCEEDED:
                self._is_up = True
                self._on_up()
                self._on_ready(self)
            case zmq.Event.HANDSHAKE_FAILED_AUTH:
                self._failure = REFUSED
            case zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
                self._failure = HANDSHAKE
            case zmq.Event.CLOSED if self.connection is None:
                self._try_next(UNREACHABLE)
            case zmq.Event.DISCONNECTED if self._is_up:
                self._failure = DISCONNECTED
                self._on_ready(self)
            case zmq.Event.DISCONNECTED:
                self._try_next(self._failure or DISCONNECTED)
            case _:
                pass


# Being dialled.


class Door:
    """Where others dial in: a ROUTER, and the connections below it.

    A ROUTER neither says that a peer has gone nor lets go of one, but its monitor says when a connection, named by its
    descriptor, was made and has ended; and every message names its descriptor too.

    Args:
        context: With a gate.
        keys: This node's.
        listen: Address; port 0 for any free one.
        on_ready: Is called with this when there may be something to receive, or room to send.
        on_end: Is called when a connection that brought messages has ended, and all of them were received.

    Attributes:
        counts: What was turned away, by reason.

    Raises:
        NetworkError: Nobody can listen there.
    """

    def __init__(
        self,
        context: Context,
        keys: Keys,
        listen: str,
        *,
        on_ready: Callable[[Door], None],
        on_end: Callable[[Connection], None],
    ) -> None:
        endpoint = addresses.to_endpoint(listen, listen=True)
        self.counts: Counter[str] = Counter()
        self._loop = asyncio.get_running_loop()
        self._on_ready = on_ready
        self._on_end = on_end
        self._connections: dict[int, Connection] = {}  # by descriptor
        self._silent: dict[int, Connection] = {}  # those that brought no message yet, oldest first
        self._routes: dict[bytes, Connection] = {}  # those that did
        self._ended: list[Connection] = []
        router = make_router(context, keys, ipv6="[" in endpoint)
        self._monitor = Monitor(context, router, _DOOR_EVENTS, self._happened)
        self._watched = Watched(router, partial(on_ready, self))
        try:
            router.bind(endpoint)
        except zmq.ZMQError as error:
            self.close()
            hint = "stop what listens there, or choose another port; port 0 takes any free one"
            raise NetworkError(f"cannot listen on {listen}: {error.strerror}", hint) from error

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._watched.socket.getsockopt_string(zmq.LAST_ENDPOINT).removeprefix("tcp://")

    def receive(self) -> Arrival | None:
        """A message, if there is one."""
        for _ in range(_READS_A_TURN):
            frames = self._watched.receive()
            if not frames:
                self._bury()
                return None
            connection = self._connection_of(frames)
            if connection is not None and not connection.refused:
                key = bytes.fromhex(str(frames[-1].get("User-Id")))
                return Arrival(connection, key, tuple(frame.bytes for frame in frames[1:]))
            self.counts["ignored messages"] += 1
        self._on_ready(self)
        return None

    def send(self, route: bytes, data: bytes) -> bool:
        """Sends a message.

        Returns:
            Whether there was room.

        Raises:
            zmq.ZMQError: The peer has gone.
        """
        return self._watched.send(route, data)

    def let_go(self, connection: Connection) -> None:
        """Receives nothing more by a connection, and ends it as soon as what was sent has had time to leave."""
        connection.refused = True
        self._loop.call_later(_GRACE_S, self.hang_up, connection)

    def hang_up(self, connection: Connection) -> None:
        """Ends a connection at once."""
        connection.refused = True
        self._monitor.read()  # the descriptor may be another's by now
        if self._connections.get(connection.fd) is connection:
            self._silent.pop(connection.fd, None)
            connection.hang_up()

    def sweep(self, silent_since_s: float) -> None:
        """Hangs up on connections that brought no message since a time, or one that does not end."""
        for connection in list(self._silent.values()):
            if connection.since_s < silent_since_s or connection.is_endless():
                self.counts["silent connections"] += 1
                self.hang_up(connection)

    def close(self) -> None:
        """Stops listening, and lets go of all."""
        self._connections.clear()
        self._monitor.close()
        self._watched.close()

    def _happened(self, event: zmq.Event, value: int) -> None:
        if event == zmq.Event.ACCEPTED:
            self._end(value)
            self._connections[value] = self._silent[value] = Connection(value, self._loop.time())
            if len(self._silent) > MOST_SILENT:
                self._loop.call_soon(self._make_room)
        elif event == zmq.Event.DISCONNECTED:
            self._end(value)
        elif event & _FAILED:
            self.counts["failed handshakes"] += 1

    def _make_room(self) -> None:
        while len(self._silent) > MOST_SILENT:
            self.counts["silent connections"] += 1
            self.hang_up(next(iter(self._silent.values())))

    def _end(self, fd: int) -> None:
        """A connection ended; what it brought may still have to be received."""
        self._silent.pop(fd, None)
        connection = self._connections.pop(fd, None)
        if connection is not None and connection.route:
            self._ended.append(connection)
            self._on_ready(self)

    def _bury(self) -> None:
        """Nothing is left to receive, so nothing is left of connections that ended."""
        ended, self._ended = self._ended, []
        for connection in ended:
            self._routes.pop(connection.route, None)
            self._on_end(connection)

    def _connection_of(self, frames: list[zmq.Frame]) -> Connection | None:
        """The connection that a message came by; none if it has no right to one, or its connection has ended already.

        A descriptor may be in use again, and then names a later connection. Routing ids are counted up, so of two that
        claim one descriptor the later is right. Ids that peers give themselves count nothing.
        """
        route = frames[0].bytes
        if route in self._routes:
            return self._routes[route]
        fd = int(frames[-1].get(zmq.SRCFD))
        connection = self._connections.get(fd)
        if connection is None:
            return None
        if len(route) != _ROUTE_BYTES or route[0]:
            self.hang_up(connection)
            return None
        if connection.route:
            if not _is_later(route, connection.route):
                return None
            self._end(fd)
            connection = self._connections[fd] = Connection(fd, self._loop.time())
        self._silent.pop(fd, None)
        connection.route = route
        self._routes[route] = connection
        return connection


def _is_later(route: bytes, other: bytes) -> bool:
    """Whether a routing id was given after another."""
    return (int.from_bytes(route[1:], "big") - int.from_bytes(other[1:], "big")) % 2**32 < 2**31


# Both.


@dataclass(slots=True, eq=False, kw_only=True)
class _Link:
    """A link, from the first attempt until its end was told.

    Attributes:
        line: What carries it.
        connection: Below it, once it is up.
        heard_s: When there was a message, or the attempt began; by the loop's clock.
        down: Whether it has ended. That may still have to be told.
        cut: Whether messages that wait to be told are not told any more.
        waiting: To be sent.
    """

    number: int
    key: bytes
    dialled: bool
    heard_s: float
    line: Door | Dialler | None = None
    connection: Connection | None = None
    down: bool = False
    cut: bool = False
    waiting: deque[bytes] = field(default_factory=deque)
    waiting_bytes: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0

    def push(self, data: bytes) -> bool:
        """Gives a message to libzmq, if that has room for it."""
        try:
            match self.line:
                case Dialler():
                    return self.line.send(data)
                case Door() if self.connection is not None:
                    return self.line.send(self.connection.route, data)
        except zmq.ZMQError:  # the peer has gone; the monitor is about to tell
            return False
        return False


class Transport:
    """All links of a node.

    Args:
        secret: This node's Curve25519 key, 32 bytes.
        listen: Where others can dial in, as ``host:port``, port 0 for any free one; None if they cannot.
        admit: Whether a key may hold a link now. Asked at each handshake, on both sides, and for each message.
        tap: Is shown every message as it was before encryption.
        dead_s: A link that brings nothing for so long, in seconds, is dropped.
        most_accepted: Links that others dialled.
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
        most_accepted: int = limits.MAX_ACCEPTED,
    ) -> None:
        self._keys = Keys.of(secret)
        self._listen = listen
        self._admit = admit
        self._tap = tap
        self._dead_s = dead_s
        self._most_accepted = most_accepted
        self._context: Context | None = None
        self._gate: Gate | None = None
        self._door: Door | None = None
        self._closed = False
        self._links: dict[int, _Link] = {}
        self._by_connection: dict[Connection, _Link] = {}
        self._events: deque[tuple[_Link, Event]] = deque()
        self._event_messages = self._event_bytes = 0
        self._arrived = asyncio.Event()
        self._queued_bytes = 0
        self._to_read: dict[Door | Dialler, None] = {}  # in turns
        self._pumping: asyncio.Handle | None = None
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
            self._gate = Gate(self._context, self._admit)
            if self._listen is not None:
                self._door = Door(
                    self._context, self._keys, self._listen, on_ready=self._look, on_end=self._connection_ended
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
        self._arrived.set()
        for handle in (self._pumping, self._sweeping):
            if handle is not None:
                handle.cancel()
        diallers = [link.line for link in self._links.values() if isinstance(link.line, Dialler)]
        for line in (*diallers, self._door, self._gate):
            if line is not None:
                line.close()
        for kept in (self._links, self._by_connection, self._events, self._to_read):
            kept.clear()
        await asyncio.gather(*(dialler.task for dialler in diallers), return_exceptions=True)
        await asyncio.to_thread(self._context.term)

    @property
    def address(self) -> str | None:
        """Where it listens, as ``host:port``, with the port it was given."""
        return None if self._door is None else self._door.address

    @property
    def counts(self) -> Counter[str]:
        """What was turned away before it became a link, by reason."""
        counts = self._counts + (self._door.counts if self._door is not None else Counter())
        counts["refused keys"] += self._gate.refused if self._gate is not None else 0
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
            on_ready=self._look,
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
        self._look(found.line)
        if found.waiting or not found.push(data):
            if not self._has_room(found, len(data)):
                return False
            found.waiting.append(data)
            found.waiting_bytes += len(data)
            self._queued_bytes += len(data)
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
        while True:
            while not self._events and not self._closed:
                self._arrived.clear()
                await self._arrived.wait()
            if self._closed:
                raise NetworkError("the transport is closed")
            link, event = self._events.popleft()
            if isinstance(event, LinkDown):
                del self._links[link.number]
            elif isinstance(event, Received) and not self._may_tell(link, event):
                continue
            return event

    def stats(self, link: int) -> LinkStats:
        """What went over a link so far.

        Raises:
            KeyError: There is no such link, or its ``LinkDown`` was told.
        """
        found = self._links[link]
        return LinkStats(found.sent_bytes, found.received_bytes, len(found.waiting))

    # Links.

    def _add(self, key: bytes, *, dialled: bool) -> _Link:
        link = _Link(number=next(self._numbers), key=key, dialled=dialled, heard_s=self._loop.time())
        self._links[link.number] = link
        return link

    def _answered(self, link: _Link) -> None:
        """A dialled peer proved its key."""
        assert isinstance(link.line, Dialler)
        assert link.line.connection is not None
        if self._admit(link.key):
            self._up(link, link.line.connection)
        else:
            self._end(link, NOT_ADMITTED)

    def _welcome(self, door: Door, arrival: Arrival) -> _Link | None:
        """Makes a link of a first message, if there is room. It takes the place of an older one of the same key."""
        accepted = [link for link in self._by_connection.values() if not link.dialled]
        older = next((link for link in accepted if link.key == arrival.key), None)
        refusal = "" if self._admit(arrival.key) else "refused keys"
        if older is None and len(accepted) >= self._most_accepted:
            refusal = "no room"
        if refusal:
            self._counts[refusal] += 1
            door.hang_up(arrival.connection)
            return None
        if older is not None:
            self._end(older, REPLACED)
        link = self._add(arrival.key, dialled=False)
        link.line = door
        self._up(link, arrival.connection)
        return link

    def _up(self, link: _Link, connection: Connection) -> None:
        link.connection = connection
        link.heard_s = self._loop.time()
        self._by_connection[connection] = link
        self._tell(link, LinkUp(link.number, link.key, link.dialled))

    def _connection_ended(self, connection: Connection) -> None:
        link = self._by_connection.get(connection)
        if link is not None:
            self._end(link, DISCONNECTED)

    def _end(self, link: _Link, reason: str) -> None:
        if link.down:
            return
        link.down = True
        self._queued_bytes -= link.waiting_bytes
        link.waiting.clear()
        if link.connection is not None:
            del self._by_connection[link.connection]
        match link.line:
            case Dialler():
                self._to_read.pop(link.line, None)
                link.line.close()
            case Door() if link.connection is not None:
                link.line.let_go(link.connection)
        self._tell(link, LinkDown(link.number, link.key, reason))

    # Messages.

    def _look(self, line: Door | Dialler) -> None:
        """Has a line looked at soon: something may be there to receive, or room to send."""
        self._to_read[line] = None
        if self._pumping is None and not self._closed:
            self._pumping = self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Receives what came, in turns and as long as there is room for it, and sends what waits.

        Receiving nothing may use up the sign that there is room to send again, so a line is left alone only once
        neither worked. The sweep looks after what slips through even so.
        """
        self._pumping = None
        for _ in range(_READS_A_TURN):
            if not self._to_read or self._is_full:
                break
            line = next(iter(self._to_read))
            del self._to_read[line]
            if self._read(line) or self._flush(line):
                self._to_read[line] = None
        if self._is_full:
            for line in self._to_read:
                self._flush(line)
        elif self._to_read:
            self._look(next(iter(self._to_read)))

    def _read(self, line: Door | Dialler) -> bool:
        """Receives a message; whether there was one."""
        arrival = line.receive()
        if arrival is None:
            return False
        link = self._by_connection.get(arrival.connection)
        if link is None and isinstance(line, Door):
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
            self._event_messages += 1
            self._event_bytes += len(data)
            self._tell(link, Received(link.number, data))
        return True

    def _flush(self, line: Door | Dialler) -> bool:
        """Sends what waits on the links of a line; whether anything left."""
        sent = False
        for link in self._by_connection.values():
            while link.line is line and link.waiting and link.push(link.waiting[0]):
                size = len(link.waiting.popleft())
                link.waiting_bytes -= size
                self._queued_bytes -= size
                sent = True
        return sent

    def _has_room(self, link: _Link, size: int) -> bool:
        return (
            len(link.waiting) < QUEUED_MESSAGES
            and link.waiting_bytes + size <= QUEUED_BYTES
            and self._queued_bytes + size <= ALL_QUEUED_BYTES
        )

    # Events.

    @property
    def _is_full(self) -> bool:
        return self._event_messages >= EVENT_MESSAGES or self._event_bytes >= EVENT_BYTES

    def _tell(self, link: _Link, event: Event) -> None:
        self._events.append((link, event))
        self._arrived.set()

    def _may_tell(self, link: _Link, event: Received) -> bool:
        """Takes a message out of the account; whether its sender may be heard now."""
        self._event_messages -= 1
        self._event_bytes -= len(event.data)
        if self._to_read:
            self._look(next(iter(self._to_read)))
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
        was_deaf = self._is_full or now_s - self._swept_s > 10 * _SWEEP_S
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
            elif link.waiting and link.line is not None:
                self._look(link.line)
        if self._door is not None:
            self._door.sweep(now_s - self._dead_s)
