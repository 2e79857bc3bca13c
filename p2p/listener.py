"""The listening end of all links that others dialled: one ROUTER, and who is below it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial

import zmq

from p2p import addresses
from p2p.errors import NetworkError
from p2p.zap import Arrival, Connection, Context, Keys, Monitor, Watched, make_router

MOST_SILENT = 128
"""Connections without a message yet, which anybody can make. Of more, the oldest go: honest ones soon have one."""

_GRACE_S = 0.2
"""What was sent before a link was dropped has so long to leave."""
_IGNORED_A_TURN = 64
"""After so many messages that nobody gets, everything else has its turn first."""
_ROUTE_BYTES = 5
_FAILED = zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
_EVENTS = zmq.Event.ACCEPTED | zmq.Event.DISCONNECTED | _FAILED


class Listener:
    """Where others dial in: a ROUTER, and the connections below it.

    A ROUTER neither says that a peer has gone nor lets go of one, but its monitor says when a connection, named by its
    descriptor, was made and has ended; and every message names its descriptor too.

    Args:
        context: With a ``ZapHandler``.
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
        on_ready: Callable[[Listener], None],
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
        self._monitor = Monitor(context, router, _EVENTS, self._happened)
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
        for _ in range(_IGNORED_A_TURN):
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
        self._monitor.read()  # that the connection was made was said before, but perhaps not heard yet
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
