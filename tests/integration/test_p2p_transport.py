"""Links over real sockets on the loopback interface, among honest peers and hostile ones."""

from __future__ import annotations

import asyncio
import functools
import os
import secrets
import select
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
import zmq
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.poly1305 import Poly1305

from p2p import limits, transport, zap
from p2p.errors import NetworkError
from p2p.transport import LinkDown, LinkUp, Received, Transport
from p2p.zap import Connection, Keys

pytestmark = pytest.mark.filterwarnings("error")  # sockets, contexts and tasks that are left behind, too

PATIENCE_S = 60.0
"""Ends a test that hangs."""
E_ = TypeVar("E_")


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Runs a test in an event loop, in which it leaves no task behind."""

    async def bounded(*args: Any, **options: Any) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await test(*args, **options)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    @functools.wraps(test)
    def run(*args: Any, **options: Any) -> None:
        asyncio.run(bounded(*args, **options))

    return run


class Node:
    """A transport with a key of its own; it admits every key but those that it bans."""

    def __init__(self, listen: str | None = "127.0.0.1:0", secret: bytes | None = None, **options: Any) -> None:
        self.secret = secret or secrets.token_bytes(32)
        self.key = Keys.of(self.secret).public
        self.banned: set[bytes] = set()
        self.transport = Transport(
            secret=self.secret, listen=listen, admit=lambda key: key not in self.banned, **options
        )

    @property
    def address(self) -> str:
        assert self.transport.address is not None
        return self.transport.address

    def dial(self, other: Node) -> int:
        return self.transport.dial(other.address, other.key)

    async def next(self, kind: type[E_]) -> E_:
        event = await self.transport.next_event()
        assert isinstance(event, kind), event
        return event


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    try:
        for node in nodes:
            await node.transport.start()
        yield
    finally:
        for node in nodes:
            await node.transport.close()


async def linked(dialler: Node, listener: Node) -> tuple[int, int]:
    """A link between two nodes: its number at either end."""
    here = dialler.dial(listener)
    assert await dialler.next(LinkUp) == LinkUp(here, listener.key, True)
    assert dialler.transport.send(here, b"hello")
    there = await listener.next(LinkUp)
    assert there == LinkUp(there.link, dialler.key, False)
    assert await listener.next(Received) == Received(there.link, b"hello")
    return here, there.link


async def check(dialler: Node, here: int, listener: Node, there: int) -> None:
    """A link still works, both ways."""
    assert dialler.transport.send(here, b"ping")
    assert await listener.next(Received) == Received(there, b"ping")
    assert listener.transport.send(there, b"pong")
    assert await dialler.next(Received) == Received(here, b"pong")


async def turn(condition: Callable[[], bool]) -> None:
    """Lets everything else go on until something is so."""
    while not condition():
        await asyncio.sleep(0.001)


# Honest peers.


@in_loop
async def test_messages_go_both_ways_between_proven_keys() -> None:
    a, b = Node(), Node(None)
    async with running(a, b):
        here, there = await linked(b, a)
        await check(b, here, a, there)
        assert b.transport.address is None
        sent, received = b.transport.stats(here), a.transport.stats(there)
        assert (sent.sent_bytes, sent.received_bytes, sent.queued) == (9, 4, 0)
        assert (received.sent_bytes, received.received_bytes, received.queued) == (4, 9, 0)


@in_loop
async def test_two_nodes_that_dial_each_other_have_two_links_in_order_both_ways() -> None:
    a, b = Node(), Node()
    async with running(a, b):
        a1, b1 = await linked(a, b)
        b2, a2 = await linked(b, a)
        assert len({a1, b1, a2, b2}) == 4

        async def pour(node: Node, link: int) -> None:
            for number in range(1000):
                await turn(lambda: node.transport.send(link, b"%d of %d" % (number, link)))  # noqa: B023  # called now

        async def take(node: Node, *pairs: tuple[int, int]) -> None:
            heard: dict[int, list[bytes]] = {mine: [] for mine, _ in pairs}
            for _ in range(2000):
                event = await node.next(Received)
                heard[event.link].append(event.data)
            for mine, theirs in pairs:
                assert heard[mine] == [b"%d of %d" % (number, theirs) for number in range(1000)]

        await asyncio.gather(
            pour(a, a1), pour(a, a2), pour(b, b1), pour(b, b2), take(a, (a1, b1), (a2, b2)), take(b, (b1, a1), (b2, a2))
        )


@pytest.mark.parametrize("size", [100, limits.CHUNK_BYTES, limits.MAX_MESSAGE_BYTES])
@pytest.mark.parametrize("dialled", [True, False], ids=["dialled", "accepted"])
@in_loop
async def test_a_full_queue_says_so_and_loses_nothing(size: int, dialled: bool) -> None:
    a, b, newcomer = Node(), Node(), Node(None)
    async with running(a, b, newcomer):
        here, there = await linked(a, b)
        (sender, out), (taker, into) = ((a, here), (b, there)) if dialled else ((b, there), (a, here))

        def message(number: int) -> bytes:
            return number.to_bytes(4, "big") * (size // 4)

        sent = refused = 0
        while refused < 30:  # times in a row: the taker does not ask
            if sender.transport.send(out, message(sent)):
                sent, refused = sent + 1, 0
            else:
                refused += 1
                assert 0 < sender.transport.stats(out).queued <= transport.QUEUED_MESSAGES
                await asyncio.sleep(0.001)
        most = transport.QUEUED_BYTES + transport.EVENT_BYTES + (zap.SEND_MESSAGES + zap.RECEIVE_MESSAGES + 4) * size
        assert sent * size < most + 32 * limits.MIB  # the kernel's own
        if dialled:
            newcomer.dial(taker)
            assert await newcomer.next(LinkUp)
        asleep = select.poll()  # what is not taken does not wake the loop again and again
        asleep.register(taker.transport._links[into].line._watched._fd, select.POLLIN)
        await turn(lambda: not asleep.poll(0))
        for number in range(sent):
            assert await taker.next(Received) == Received(into, message(number))
        assert sender.transport.stats(out).queued == 0
        await check(a, here, b, there)


@in_loop
async def test_what_was_sent_before_a_link_was_dropped_still_arrives() -> None:
    a, b = Node(), Node()
    async with running(a, b):
        for dialler, listener in ((a, b), (b, a)):
            here, there = await linked(dialler, listener)
            assert dialler.transport.send(here, b"bye")
            dialler.transport.drop(here, "enough")
            assert await dialler.next(LinkDown) == LinkDown(here, listener.key, "enough")
            assert await listener.next(Received) == Received(there, b"bye")
            assert await listener.next(LinkDown) == LinkDown(there, dialler.key, transport.DISCONNECTED)
            here, there = await linked(dialler, listener)
            assert listener.transport.send(there, b"go")
            listener.transport.drop(there, "no room")
            assert await listener.next(LinkDown) == LinkDown(there, dialler.key, "no room")
            assert await dialler.next(Received) == Received(here, b"go")
            assert await dialler.next(LinkDown) == LinkDown(here, listener.key, transport.DISCONNECTED)


@in_loop
async def test_nothing_is_told_of_a_dropped_link_but_that_it_went_down() -> None:
    a, b = Node(), Node()
    async with running(a, b):
        here, there = await linked(a, b)
        for _ in range(10):
            assert a.transport.send(here, b"more")
        assert await b.next(Received)
        b.transport.drop(there, "enough")
        b.transport.drop(there, "twice")
        assert not b.transport.send(there, b"late")
        assert await b.next(LinkDown) == LinkDown(there, a.key, "enough")
        assert await a.next(LinkDown)
        assert not a.transport.send(here, b"late")
        for node, link in ((a, here), (b, there), (a, 10**9)):
            assert not node.transport.send(link, b"late")
            with pytest.raises(KeyError):
                node.transport.stats(link)
        await linked(a, b)


@in_loop
async def test_a_node_that_restarts_on_its_port_can_be_dialled_again() -> None:
    a, b = Node(), Node(None)
    async with running(b):
        async with running(a):
            here, _ = await linked(b, a)
            port = a.address
        assert await b.next(LinkDown) == LinkDown(here, a.key, transport.DISCONNECTED)
        gone = b.transport.dial(port, a.key)
        assert await b.next(LinkDown) == LinkDown(gone, a.key, transport.UNREACHABLE)
        again = Node(port, a.secret)
        async with running(again):
            assert again.address == port
            await check(b, (ends := await linked(b, again))[0], again, ends[1])


@in_loop
async def test_a_thousand_short_links_leave_no_descriptor_behind() -> None:
    a, b = Node(), Node(None)
    before = set(os.listdir("/dev/fd"))
    async with running(a, b):
        for count in range(1000):
            link = b.dial(a)
            if count % 2:
                assert await b.next(LinkUp)
            if count % 4 == 3:
                assert b.transport.send(link, b"hello")
                up = await a.next(LinkUp)
                assert await a.next(Received) == Received(up.link, b"hello")
            b.transport.drop(link, "enough")
            assert await b.next(LinkDown)
            if count % 4 == 3:
                assert await a.next(LinkDown) == LinkDown(up.link, b.key, transport.DISCONNECTED)
        await turn(lambda: len(os.listdir("/dev/fd")) < len(before) + 20)
    assert set(os.listdir("/dev/fd")) == before


# What goes wrong.


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "unreachable"),
        ("[::1]:1", "unreachable"),
        ("no-such-host.invalid:1", "unreachable: "),
        ("nonsense", "unreachable: 'nonsense' is no address"),
        ("ipc:///tmp/x:1", "unreachable: 'ipc:"),
        ("\ud800:1", "unreachable: "),
        ("", "unreachable: "),
    ],
)
@in_loop
async def test_an_address_where_nobody_answers_is_told_as_a_link_that_went_down(address: str, reason: str) -> None:
    node = Node(None)
    async with running(node):
        link = node.transport.dial(address, node.key)
        assert not node.transport.send(link, b"early")
        down = await node.next(LinkDown)
        assert (down.link, down.key) == (link, node.key)
        assert down.reason.startswith(reason)


@in_loop
async def test_names_are_looked_up_and_all_they_stand_for_is_tried() -> None:
    a, b = Node(), Node(None)  # the first thing that localhost stands for is often ::1, where nobody listens
    async with running(a, b):
        link = b.transport.dial(f"localhost:{a.address.rpartition(':')[2]}", a.key)
        assert await b.next(LinkUp) == LinkUp(link, a.key, True)


@in_loop
async def test_ipv6_works_where_the_machine_has_it() -> None:
    a = Node("[::]:0" if socket.has_ipv6 and os.path.exists("/proc/net/if_inet6") else "127.0.0.1:0")
    b = Node(None)
    async with running(a, b):
        port = int(a.address.rpartition(":")[2])
        hosts = ["127.0.0.1", "[::1]"] if a.address.startswith("[") else ["127.0.0.1"]
        for host in hosts:
            link = b.transport.dial(f"{host}:{port}", a.key)
            assert await b.next(LinkUp) == LinkUp(link, a.key, True)


@in_loop
async def test_a_peer_that_says_nothing_at_all_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "DIAL_S", 0.2)
    node = Node(None)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        async with running(node):
            link = node.transport.dial(f"127.0.0.1:{mute.getsockname()[1]}", node.key)
            assert await node.next(LinkDown) == LinkDown(link, node.key, "unreachable: no answer")


@pytest.mark.parametrize("listen", ["nonsense", "node.example.org:1", "127.0.0.1:99999", "192.0.2.1:0"])
@in_loop
async def test_nobody_can_listen_at_such_an_address(listen: str) -> None:
    node = Node(listen)
    with pytest.raises(NetworkError) as caught:
        await node.transport.start()
    assert caught.value.hint
    await node.transport.close()


@in_loop
async def test_a_port_that_is_taken_is_refused_with_a_hint() -> None:
    a = Node()
    async with running(a):
        b = Node(a.address)
        with pytest.raises(NetworkError, match=r"cannot listen on .*Address already in use") as caught:
            await b.transport.start()
        assert "another port" in str(caught.value.hint)


@in_loop
async def test_a_closed_transport_tells_nothing_more() -> None:
    a, b = Node(), Node()
    async with running(a, b):
        here, there = await linked(a, b)
        b.transport.drop(there, "a moment before")
        waiting = asyncio.create_task(a.next(LinkUp))
        await asyncio.sleep(0)
        await a.transport.close()
        with pytest.raises(NetworkError, match="closed"):
            await waiting
        with pytest.raises(NetworkError, match="closed"):
            await a.transport.next_event()
        await a.transport.close()
        assert not a.transport.send(here, b"late")
        with pytest.raises(NetworkError, match="not running"):
            a.dial(b)


@in_loop
async def test_a_transport_that_never_started_can_be_closed() -> None:
    node = Node()
    await node.transport.close()
    assert node.transport.address is None


@in_loop
async def test_the_tap_is_shown_every_message_before_encryption() -> None:
    seen: list[tuple[str, int, bytes]] = []
    a, b = Node(tap=lambda *shown: seen.append(shown)), Node()
    async with running(a, b):
        here, there = await linked(a, b)
        await check(a, here, b, there)
        with pytest.raises(ValueError, match="524,289"):
            a.transport.send(here, bytes(limits.MAX_MESSAGE_BYTES + 1))
        assert seen == [("sent", here, b"hello"), ("sent", here, b"ping"), ("received", here, b"pong")]


# Who gets in.


@in_loop
async def test_another_key_than_the_one_that_was_dialled_is_not_accepted() -> None:
    a, b = Node(), Node(None)
    async with running(a, b):
        link = b.transport.dial(a.address, Node().key)
        down = await b.next(LinkDown)
        assert (down.link, down.reason) == (link, transport.HANDSHAKE)
        await linked(b, a)
        assert a.transport.counts["failed handshakes"] == 1


@in_loop
async def test_a_key_that_is_not_admitted_does_not_get_in() -> None:
    a, b, c = Node(), Node(None), Node(None)
    a.banned.add(b.key)
    async with running(a, b, c):
        ends = await linked(c, a)
        link = b.dial(a)
        assert await b.next(LinkDown) == LinkDown(link, a.key, transport.REFUSED)
        assert a.transport.counts["refused keys"] == 1
        a.banned.clear()
        await linked(b, a)
        await check(c, ends[0], a, ends[1])


@in_loop
async def test_nobody_gets_in_while_nobody_decides_who_may() -> None:
    a, b = Node(), Node(None)
    async with running(a, b):
        assert a.transport._gate is not None
        a.transport._gate.close()
        link = b.dial(a)
        down = await b.next(LinkDown)
        assert (down.link, down.reason) == (link, transport.HANDSHAKE)


@in_loop
async def test_a_node_dials_nobody_whom_it_does_not_admit_itself() -> None:
    a, b = Node(), Node(None)
    b.banned.add(a.key)
    async with running(a, b):
        link = b.dial(a)
        assert await b.next(LinkDown) == LinkDown(link, a.key, transport.NOT_ADMITTED)


@pytest.mark.parametrize("dialled", [True, False], ids=["dialled", "accepted"])
@in_loop
async def test_a_key_that_is_banned_while_linked_is_not_heard_any_more(dialled: bool) -> None:
    a, b, c = Node(), Node(), Node(None)
    async with running(a, b, c):
        ends = await linked(c, a)
        (mine, theirs) = await linked(a, b) if dialled else (await linked(b, a))[::-1]
        for _ in range(3):
            assert b.transport.send(theirs, b"this waits when the ban comes")
        await turn(lambda: a.transport.stats(mine).received_bytes >= 3 * 29)
        a.banned.add(b.key)
        assert b.transport.send(theirs, b"this comes after it")
        assert await a.next(LinkDown) == LinkDown(mine, b.key, transport.NOT_ADMITTED)
        assert await b.next(LinkDown) == LinkDown(theirs, a.key, transport.DISCONNECTED)
        link = b.dial(a)
        assert await b.next(LinkDown) == LinkDown(link, a.key, transport.REFUSED)
        await check(c, ends[0], a, ends[1])


@in_loop
async def test_a_second_link_of_one_key_takes_the_place_of_the_first() -> None:
    a, b = Node(most_accepted=1), Node(None)
    async with running(a, b):
        first, there = await linked(b, a)
        second = b.dial(a)
        assert await b.next(LinkUp) == LinkUp(second, a.key, True)
        assert b.transport.send(second, b"again")
        assert await a.next(LinkDown) == LinkDown(there, b.key, transport.REPLACED)
        up = await a.next(LinkUp)
        assert await a.next(Received) == Received(up.link, b"again")
        assert await b.next(LinkDown) == LinkDown(first, a.key, transport.DISCONNECTED)
        await check(b, second, a, up.link)


@in_loop
async def test_beyond_the_most_links_nobody_is_let_in_until_one_goes() -> None:
    a, b, c, d = Node(most_accepted=2), Node(None), Node(None), Node(None)
    async with running(a, b, c, d):
        ends = await linked(b, a)
        gone = await linked(c, a)
        link = d.dial(a)
        assert await d.next(LinkUp)
        assert d.transport.send(link, b"room?")
        assert await d.next(LinkDown) == LinkDown(link, a.key, transport.DISCONNECTED)
        assert a.transport.counts["no room"] == 1
        await check(b, ends[0], a, ends[1])
        c.transport.drop(gone[0], "enough")
        assert await a.next(LinkDown) == LinkDown(gone[1], c.key, transport.DISCONNECTED)
        await linked(d, a)


@in_loop
async def test_a_link_that_brings_nothing_is_dropped() -> None:
    a, b = Node(dead_s=0.1), Node()
    async with running(a, b):
        for dialler, listener in ((a, b), (b, a)):
            ends = await linked(dialler, listener)
            mine, theirs = ends if dialler is a else ends[::-1]
            assert await a.next(LinkDown) == LinkDown(mine, b.key, transport.SILENT)
            assert await b.next(LinkDown) == LinkDown(theirs, a.key, transport.DISCONNECTED)
        link = b.dial(a)  # and says nothing
        assert await b.next(LinkUp)
        assert await b.next(LinkDown) == LinkDown(link, a.key, transport.DISCONNECTED)
        assert a.transport.counts["silent connections"] == 1


# Hostile peers. CURVE is spoken by hand here (RFC 26), so that they can say what ZeroMQ never would.


def _mix(words: list[int]) -> list[int]:
    """The twenty rounds of Salsa20."""
    x = list(words)
    quarters = [(0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11)]
    quarters += [(0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14)]
    for _ in range(10):
        for a, b, c, d in quarters:
            for into, one, other, by in ((b, a, d, 7), (c, b, a, 9), (d, c, b, 13), (a, d, c, 18)):
                total = (x[one] + x[other]) & 0xFFFFFFFF
                x[into] ^= ((total << by) | (total >> (32 - by))) & 0xFFFFFFFF
    return x


def _state(key: bytes, tail: bytes) -> list[int]:
    k, n, c = struct.unpack("<8I", key), struct.unpack("<4I", tail), struct.unpack("<4I", b"expand 32-byte k")
    return [c[0], *k[:4], c[1], *n, c[2], *k[4:], c[3]]


def _hsalsa(key: bytes, nonce: bytes) -> bytes:
    x = _mix(_state(key, nonce))
    return struct.pack("<8I", *(x[place] for place in (0, 5, 10, 15, 6, 7, 8, 9)))


def _stream(key: bytes, nonce: bytes, length: int) -> bytes:
    key, made = _hsalsa(key, nonce[:16]), bytearray()
    while len(made) < length:
        state = _state(key, nonce[16:] + struct.pack("<Q", len(made) // 64))
        made += struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(_mix(state), state, strict=True)))
    return bytes(made[:length])


class Box:
    """NaCl's box between a secret and a public key."""

    def __init__(self, secret: X25519PrivateKey, public: bytes) -> None:
        self.key = _hsalsa(secret.exchange(X25519PublicKey.from_public_bytes(public)), bytes(16))

    def _xor(self, nonce: bytes, data: bytes) -> tuple[bytes, bytes]:
        stream = _stream(self.key, nonce, 32 + len(data))
        return stream[:32], bytes(a ^ b for a, b in zip(data, stream[32:], strict=True))

    def close(self, nonce: bytes, data: bytes) -> bytes:
        key, hidden = self._xor(nonce, data)
        return Poly1305.generate_tag(key, hidden) + hidden

    def open(self, nonce: bytes, boxed: bytes) -> bytes:
        return self._xor(nonce, boxed[16:])[1]


def _frame(body: bytes, flags: int = 0) -> bytes:
    return struct.pack(">BQ", flags | 2, len(body)) + body


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)


class Stranger:
    """A peer that speaks CURVE over a plain socket, and says of itself what it likes."""

    def __init__(self, node: Node) -> None:
        self.server = node.key
        self.secret = X25519PrivateKey.generate()
        self.key = self.secret.public_key().public_bytes_raw()
        self.short = X25519PrivateKey.generate()
        self.count = 0
        self.host, _, port = node.address.rpartition(":")
        self.port = int(port)

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        self.writer.write(GREETING)
        await self.reader.readexactly(64)

    def _nonce(self) -> bytes:
        self.count += 1
        return struct.pack(">Q", self.count)

    async def _read(self) -> bytes:
        flags = (await self.reader.readexactly(1))[0]
        raw = await self.reader.readexactly(8 if flags & 2 else 1)
        return await self.reader.readexactly(int.from_bytes(raw, "big"))

    async def hello(self) -> bytes:
        """Half a handshake; returns the answer."""
        public, nonce = self.short.public_key().public_bytes_raw(), self._nonce()
        boxed = Box(self.short, self.server).close(b"CurveZMQHELLO---" + nonce, bytes(64))
        self.writer.write(_frame(b"\x05HELLO\x01\x00" + bytes(72) + public + nonce + boxed, 4))
        return await self._read()

    async def handshake(self, *properties: tuple[bytes, bytes]) -> None:
        welcome = await self.hello()
        opened = Box(self.short, self.server).open(b"WELCOME-" + welcome[8:24], welcome[24:])
        passing, cookie = opened[:32], opened[32:]
        self.box = Box(self.short, passing)
        vouch_nonce, nonce = secrets.token_bytes(16), self._nonce()
        vouched = self.short.public_key().public_bytes_raw() + self.server
        vouch = Box(self.secret, passing).close(b"VOUCH---" + vouch_nonce, vouched)
        told = b"".join(
            bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
            for name, value in ((b"Socket-Type", b"DEALER"), *properties)
        )
        boxed = self.box.close(b"CurveZMQINITIATE" + nonce, self.key + vouch_nonce + vouch + told)
        self.writer.write(_frame(b"\x08INITIATE" + cookie + nonce + boxed, 4))
        assert (await self._read()).startswith(b"\x05READY")

    def say(self, data: bytes, *, more: bool = False) -> None:
        nonce = self._nonce()
        boxed = self.box.close(b"CurveZMQMESSAGEC" + nonce, bytes([more]) + data)
        self.writer.write(_frame(b"\x07MESSAGE" + nonce + boxed))

    async def hung_up(self) -> bool:
        """Waits until the other side ends the connection."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass
        return True


@asynccontextmanager
async def stranger_at(node: Node) -> AsyncIterator[Stranger]:
    stranger = Stranger(node)
    await stranger.connect()
    try:
        yield stranger
    finally:
        stranger.writer.close()


@in_loop
async def test_a_peer_is_known_by_its_proven_key_whatever_it_says_of_itself() -> None:
    a, b = Node(), Node(None)
    async with running(a, b):
        ends = await linked(b, a)
        async with stranger_at(a) as stranger:
            claims = [(b"User-Id", b.key.hex().encode()), (b"__fd", b"3"), (b"Identity", b"")]
            await stranger.handshake(*claims)
            stranger.say(b"it is me")
            up = await a.next(LinkUp)
            assert up.key == stranger.key
            assert await a.next(Received) == Received(up.link, b"it is me")
            await check(b, ends[0], a, ends[1])
            a.banned.add(stranger.key)
            stranger.say(b"still me")
            assert await a.next(LinkDown) == LinkDown(up.link, stranger.key, transport.NOT_ADMITTED)
            assert await stranger.hung_up()
        await check(b, ends[0], a, ends[1])


@in_loop
async def test_a_peer_that_names_its_own_route_is_not_heard() -> None:
    a, b = Node(), Node(None)
    async with running(a, b):
        ends = await linked(b, a)
        async with stranger_at(a) as stranger:
            await stranger.handshake((b"Identity", b"chosen"))
            stranger.say(b"hello")
            assert await stranger.hung_up()
        assert a.transport.counts["ignored messages"] == 1
        await check(b, ends[0], a, ends[1])


@in_loop
async def test_a_message_in_parts_ends_its_link_alone() -> None:
    a, b = Node(), Node(None)
    async with running(a, b):
        ends = await linked(b, a)
        async with stranger_at(a) as stranger:
            await stranger.handshake()
            stranger.say(b"one")
            up = await a.next(LinkUp)
            assert await a.next(Received)
            stranger.say(b"a part", more=True)
            stranger.say(b"and another")
            assert await a.next(LinkDown) == LinkDown(up.link, stranger.key, transport.MALFORMED)
            assert await stranger.hung_up()
        await check(b, ends[0], a, ends[1])


@pytest.mark.skipif(not os.path.exists("/proc/self/net/tcp"), reason="only Linux tells how much came in")
@pytest.mark.parametrize("is_known", [True, False], ids=["of a link", "of a new connection"])
@in_loop
async def test_a_message_without_an_end_is_ended(is_known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zap, "UNFINISHED_BYTES", 2048)
    a, b = Node(), Node(None)
    async with running(a, b):
        ends = await linked(b, a)
        async with stranger_at(a) as stranger:
            await stranger.handshake()
            if is_known:
                stranger.say(b"hello")
                up = await a.next(LinkUp)
                assert await a.next(Received)

            async def go_on() -> None:
                while True:
                    stranger.say(b"and", more=True)
                    await asyncio.sleep(0.005)

            going_on = asyncio.create_task(go_on())
            if is_known:
                assert await a.next(LinkDown) == LinkDown(up.link, stranger.key, transport.ENDLESS)
            assert await stranger.hung_up()
            going_on.cancel()
            await asyncio.gather(going_on, return_exceptions=True)
        await check(b, ends[0], a, ends[1])


@in_loop
async def test_an_oversized_frame_ends_its_connection_alone() -> None:
    a, b = Node(), Node(None)
    async with running(a, b):
        ends = await linked(b, a)
        async with stranger_at(a) as stranger:
            await stranger.handshake()
            stranger.say(b"hello")
            up = await a.next(LinkUp)
            assert await a.next(Received)
            stranger.writer.write(struct.pack(">BQ", 2, limits.MAX_MESSAGE_BYTES + 65))
            assert await a.next(LinkDown) == LinkDown(up.link, stranger.key, transport.DISCONNECTED)
            assert await stranger.hung_up()
        context = zmq.Context()
        with context, context.socket(zmq.DEALER) as dealer:  # an honest ZeroMQ, and a message just too long
            dealer.linger, dealer.curve_serverkey = 0, a.key
            dealer.curve_publickey, dealer.curve_secretkey = stranger.key, stranger.secret.private_bytes_raw()
            dealer.connect(f"tcp://{a.address}")
            dealer.send(bytes(limits.MAX_MESSAGE_BYTES + 1))
            up = await a.next(LinkUp)
            assert await a.next(LinkDown) == LinkDown(up.link, stranger.key, transport.MALFORMED)
        await check(b, ends[0], a, ends[1])


GARBAGE = {
    "nothing": b"",
    "another protocol": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 9,
    "noise": bytes(range(255, -1, -1)) * 99,
    "zeros": bytes(9999),
    "half a greeting": GREETING[:30],
    "no encryption": GREETING.replace(b"CURVE", b"NULL\0") + _frame(b"\x05READY", 4),
    "an old version": b"\xff" + bytes(8) + b"\x7f\x01\x05\0\0" + b"\0\x05hello" * 9,
    "no hello": GREETING + _frame(b"\x05HELLO" + bytes(194), 4),
    "a message before the handshake": GREETING + _frame(b"hello"),
    "an enormous frame": GREETING + b"\x06" + b"\x7f" * 8,
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
@in_loop
async def test_garbage_disturbs_nobody(garbage: bytes) -> None:
    a, b, c = Node(), Node(None), Node(None)
    async with running(a, b, c):
        ends = await linked(b, a)
        sockets = [socket.create_connection(("127.0.0.1", int(a.address.rpartition(":")[2]))) for _ in range(20)]
        for one in sockets:
            one.sendall(garbage)
        await check(b, ends[0], a, ends[1])
        await linked(c, a)
        for one in sockets:
            one.close()
        await check(b, ends[0], a, ends[1])


@pytest.mark.parametrize("half", [False, True], ids=["without a word", "after half a handshake"])
@in_loop
async def test_of_many_connections_that_stay_silent_the_oldest_are_ended(half: bool) -> None:
    a, b, c = Node(), Node(None), Node(None)
    async with running(a, b, c):
        ends = await linked(b, a)
        strangers = [Stranger(a) for _ in range(transport.MOST_SILENT + 72)]
        for number, one in enumerate(strangers):
            await one.connect()
            if half and number % 25 == 0:
                assert (await one.hello()).startswith(b"\x07WELCOME")
        for one in strangers[:72]:
            assert await one.hung_up()
        await check(b, ends[0], a, ends[1])
        await linked(c, a)
        assert a.transport.counts["silent connections"] >= 72
        for one in strangers:
            one.writer.close()
            assert await one.hung_up()


@in_loop
async def test_bytes_that_the_kernel_still_holds_are_not_counted_as_taken() -> None:
    near, far = socket.socketpair(socket.AF_UNIX)
    with near, far:  # not a connection of ours: nothing is known, nothing breaks
        assert not Connection(near.fileno(), 0.0).is_endless()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        taker, _ = server.accept()
        with taker:
            connection, piece = Connection(taker.fileno(), 0.0), bytes(64 * limits.KIB)
            assert not connection.is_endless()
            for _ in range(zap.UNFINISHED_BYTES // len(piece)):
                client.sendall(piece)
                assert len(taker.recv(len(piece), socket.MSG_WAITALL)) == len(piece)
            client.sendall(piece)
            await turn(lambda: len(taker.recv(len(piece), socket.MSG_PEEK)) == len(piece))
            assert not connection.is_endless()
            taker.recv(1)
            assert connection.is_endless() == os.path.exists("/proc/self/net/tcp")
            connection.heard()
            assert not connection.is_endless()
            connection.hang_up()
            client.settimeout(PATIENCE_S)
            assert client.recv(1) == b""
        connection.hang_up()  # long gone
