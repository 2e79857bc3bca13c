"""The dialling end of a link: one DEALER at a time. Whom to dial is the business of ``p2p.dialling``."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial

import zmq

from p2p import addresses
from p2p.errors import NetworkError
from p2p.events import DISCONNECTED, HANDSHAKE, REFUSED, UNREACHABLE
from p2p.zap import Arrival, Connection, Context, Keys, Monitor, Watched, make_dealer

_EVENTS = (
    zmq.Event.CONNECTED
    | zmq.Event.CLOSED
    | zmq.Event.DISCONNECTED
    | zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
)


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
            self._monitor = Monitor(self._context, dealer, _EVENTS, self._happened)
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
