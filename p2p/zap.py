"""What lies below the links: CURVE sockets that are bounded in every way, who gets in by them, and TCP connections.

Every handshake is decided here, by ZeroMQ's authentication protocol (ZAP, RFC 27): the answer names a peer by its key,
and that name, which cannot be forged, is on every message that follows.

libzmq can neither hang up on one peer nor tell how much it took in from it, so ``Connection`` does both by the
connection's descriptor. That is libzmq's, and may be another's once the monitor has said that the connection ended. At
worst another connection of this process is hung up on, and dialled again.

Nothing may fork once a context exists: the child would share the descriptors of threads that it does not have.

Not covered: what a key that was let in does later; its messages are checked again. Where the kernel does not say how
many bytes came in (anywhere but on Linux), a member that sends one message in endlessly many parts fills the memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import socket
import struct
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import zmq
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from p2p import limits

Context = zmq.Context[zmq.Socket[bytes]]
Admit = Callable[[bytes], bool]
"""Whether a Curve25519 key, 32 bytes, may hold a link now."""

DOMAIN = b"spearctl"
"""Of ZAP. With one set and enforced, nobody gets in while no handler answers."""
SEND_MESSAGES = 4
"""More wait in the link's own queue, where their bytes are counted."""
RECEIVE_MESSAGES = 8
"""A connection is not read from while so many of its messages wait in libzmq."""
TAKEN_BYTES = 2 * limits.MAX_MESSAGE_BYTES
"""libzmq cuts the connection of a longer message without a word; one that is just too long gets its reason from us."""
UNFINISHED_BYTES = (RECEIVE_MESSAGES + 2) * limits.MAX_MESSAGE_BYTES
"""No honest connection has more than this in libzmq."""

_ENDPOINT = "inproc://zeromq.zap.01"
_VERSION = b"1.0"
_LINGER_MS = 200
"""What was sent before a link is closed has so long to leave."""
_HANDSHAKE_MS = 10_000
_CONNECT_MS = 5_000
_HEARTBEAT_MS = 20_000
_HEARTBEAT_TIMEOUT_MS = 60_000
"""Longer than the largest message takes."""
_BACKLOG = 256
_MONITOR_EVENTS = 10_000
"""libzmq's one I/O thread waits, and all links with it, while a monitor has more than this to read."""
_RTT_AT = 68
"""Offset of ``tcpi_rtt`` in Linux's ``struct tcp_info``, a 32-bit integer, in microseconds."""
_RECEIVED_AT = 128
"""Offset of ``tcpi_bytes_received`` there, a 64-bit integer."""


@dataclass(frozen=True, slots=True)
class Keys:
    """A Curve25519 pair, raw: 32 bytes each."""

    secret: bytes
    public: bytes

    @classmethod
    def of(cls, secret: bytes) -> Keys:
        """The pair of a secret key."""
        return cls(secret, X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw())


def make_router(context: Context, keys: Keys, *, ipv6: bool) -> zmq.Socket[bytes]:
    """A CURVE server that lets in whom the context's ``ZapHandler`` lets in."""
    router = _make(context, zmq.ROUTER, keys, ipv6=ipv6)
    router.setsockopt(zmq.CURVE_SERVER, 1)
    router.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
    router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    router.setsockopt(zmq.ROUTER_HANDOVER, 0)
    router.setsockopt(zmq.BACKLOG, _BACKLOG)
    return router


def make_dealer(context: Context, keys: Keys, server_key: bytes, *, ipv6: bool) -> zmq.Socket[bytes]:
    """A CURVE client for one connection: it never tries again by itself, since after a refusal it might not."""
    dealer = _make(context, zmq.DEALER, keys, ipv6=ipv6)
    dealer.setsockopt(zmq.CURVE_SERVERKEY, server_key)
    dealer.setsockopt(zmq.RECONNECT_IVL, -1)
    dealer.setsockopt(zmq.CONNECT_TIMEOUT, _CONNECT_MS)
    return dealer


def _make(context: Context, kind: int, keys: Keys, *, ipv6: bool) -> zmq.Socket[bytes]:
    made = context.socket(kind)
    made.setsockopt(zmq.IPV6, int(ipv6))
    made.setsockopt(zmq.LINGER, _LINGER_MS)
    made.setsockopt(zmq.MAXMSGSIZE, TAKEN_BYTES)
    made.setsockopt(zmq.RCVHWM, RECEIVE_MESSAGES)
    made.setsockopt(zmq.SNDHWM, SEND_MESSAGES)
    made.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
    made.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
    made.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
    made.setsockopt(zmq.HEARTBEAT_TTL, _HEARTBEAT_TIMEOUT_MS)
    made.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    made.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
    return made


class Watched:
    """A socket that calls back when there may be something to receive, or room to send.

    libzmq's descriptor tells of changes only, and any call on the socket may use one up. So whoever is called back
    receives until nothing is left, and looks again after each sending.
    """

    def __init__(self, watched: zmq.Socket[bytes], on_ready: Callable[[], None]) -> None:
        self.socket = watched
        self._fd = int(watched.getsockopt(zmq.FD))
        self._on_ready = on_ready
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._ready)
        self._first = self._loop.call_soon(self._ready)

    def _ready(self) -> None:
        self.socket.getsockopt(zmq.EVENTS)  # the descriptor stays readable until somebody asks
        self._on_ready()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self.socket.closed

    def receive(self) -> list[zmq.Frame]:
        """All parts of a message; none if there is no message."""
        try:
            return self.socket.recv_multipart(zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return []

    def send(self, *parts: bytes) -> bool:
        """Sends a message of some parts.

        Returns:
            Whether there was room.

        Raises:
            zmq.ZMQError: There is no such receiver.
        """
        try:
            self.socket.send_multipart(parts, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        """Closes the socket. What it sent may linger."""
        self._first.cancel()
        if not self.closed:
            self._loop.remove_reader(self._fd)
            self.socket.close()


class Monitor:
    """Tells what happens to the connections of a socket, in order.

    Args:
        context: Of both.
        of: The socket, before it binds or connects.
        mask: The events to tell of.
        on_event: Is called with an event and its value.
    """

    _numbers = itertools.count()

    def __init__(
        self, context: Context, of: zmq.Socket[bytes], mask: int, on_event: Callable[[zmq.Event, int], None]
    ) -> None:
        self._of = of
        self._on_event = on_event
        address = f"inproc://monitor-{next(self._numbers)}"
        of.monitor(address, mask)
        pair = context.socket(zmq.PAIR)
        pair.setsockopt(zmq.RCVHWM, _MONITOR_EVENTS)
        pair.connect(address)
        self._watched = Watched(pair, self.read)

    def read(self) -> None:
        """Tells all that has happened so far."""
        while not self._watched.closed and (frames := self._watched.receive()):
            event, value = struct.unpack("=HI", frames[0].bytes)
            self._on_event(zmq.Event(event), value)

    def close(self) -> None:
        """Stops telling; to be called before the socket is closed."""
        if self._watched.closed:
            return
        while self._watched.receive():
            pass  # an I/O thread that waits for room here holds the lock that the next call needs
        self._of.disable_monitor()
        self._watched.close()


def answer(request: Sequence[bytes], admit: Admit) -> tuple[list[bytes], bool]:
    """The answer to a request.

    Args:
        request: Version, request id, domain, address, routing id, mechanism, credentials.
        admit: Decides.

    Returns:
        Version, request id, status, text, user id and metadata; and whether it lets the peer in.
    """
    version, number, domain, _, _, mechanism, *credentials = request
    if (version, domain, mechanism) != (_VERSION, DOMAIN, b"CURVE") or [len(part) for part in credentials] != [32]:
        return [_VERSION, number, b"400", b"not a request for this handler", b"", b""], False
    if not admit(credentials[0]):
        return [_VERSION, number, b"400", b"not admitted", b"", b""], False
    return [_VERSION, number, b"200", b"OK", credentials[0].hex().encode(), b""], True


class ZapHandler:
    """Answers the handshakes of all sockets of a context.

    Attributes:
        refused: How many it turned away.
    """

    def __init__(self, context: Context, admit: Admit) -> None:
        self.refused = 0
        self._admit = admit
        replies = context.socket(zmq.ROUTER)
        replies.setsockopt(zmq.LINGER, 0)
        replies.bind(_ENDPOINT)
        self._watched = Watched(replies, self._answer_all)

    def _answer_all(self) -> None:
        while frames := self._watched.receive():
            route, _, *request = (frame.bytes for frame in frames)
            reply, granted = answer(request, self._admit)
            self.refused += not granted
            self._watched.send(route, b"", *reply)

    def close(self) -> None:
        """Closes it. Without it, nobody gets in."""
        self._watched.close()


class Connection:
    """One TCP connection.

    Attributes:
        fd: Its descriptor.
        since_s: When it was made, by the loop's clock.
        route: Routing id of its messages, once there was one.
        refused: Whether its messages are ignored from now on.
    """

    def __init__(self, fd: int, since_s: float) -> None:
        self.fd = fd
        self.since_s = since_s
        self.route = b""
        self.refused = False
        self._heard = True
        self._taken_bytes = 0

    def heard(self) -> None:
        """Takes note that a whole message came."""
        self._heard = True

    def is_endless(self) -> bool:
        """Whether libzmq took in more since the last whole message than honest messages hold; to be asked regularly."""
        taken = _taken_bytes(self.fd)
        if self._heard:
            self._heard, self._taken_bytes = False, taken
        return taken - self._taken_bytes > UNFINISHED_BYTES

    def rtt_ms(self) -> float | None:
        """How long an answer takes, in milliseconds, as the kernel measures it; none where it does not say."""
        info = _tcp_info(self.fd)
        (rtt_us,) = struct.unpack_from("=I", info, _RTT_AT) if info else (0,)
        return rtt_us / 1000 if rtt_us else None

    def hang_up(self) -> None:
        """Ends it, as if the other side had: libzmq notices, and the monitor tells."""
        with contextlib.suppress(OSError), _borrowed(self.fd) as view:
            view.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message that came in.

    Attributes:
        connection: That it came by.
        key: Of the sender, which the handshake has proven.
        parts: One, if the sender keeps to the protocol.
    """

    connection: Connection
    key: bytes
    parts: tuple[bytes, ...]


@contextlib.contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket]:
    view = socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=fd)  # the family plays no part in what follows
    try:
        yield view
    finally:
        view.detach()


def _tcp_info(fd: int) -> bytes:
    """What the kernel says of a connection; nothing where it does not say all that is asked here."""
    if sys.platform != "linux":
        return b""
    try:
        with _borrowed(fd) as view:
            info = view.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED_AT + 8)
    except OSError:
        return b""
    return info if len(info) == _RECEIVED_AT + 8 else b""


def _taken_bytes(fd: int) -> int:
    """Bytes that libzmq has read from a connection; 0 where the kernel does not say."""
    info = _tcp_info(fd)
    try:
        (unread,) = struct.unpack("=i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))
    except OSError:
        return 0
    return int(struct.unpack_from("=Q", info, _RECEIVED_AT)[0]) - int(unread) if info else 0
