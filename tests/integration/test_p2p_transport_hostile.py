"""Hostile peers: what is malformed, endless, or silent ends its own connection, and disturbs no other."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

import pytest
import zmq

from p2p import limits, transport, zap
from p2p.transport import LinkDown, LinkUp, Received
from p2p.zap import Connection
from tests.curve import GREETING, Stranger, frame, stranger_at
from tests.transports import PATIENCE_S, Node, check, in_loop, linked, running, turn

pytestmark = pytest.mark.filterwarnings("error")  # sockets, contexts and tasks that are left behind, too


# Messages that break the rules.


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
            stranger.writer.write(struct.pack(">BQ", 2, zap.TAKEN_BYTES + 1))
            assert await a.next(LinkDown) == LinkDown(up.link, stranger.key, transport.DISCONNECTED)
            assert await stranger.hung_up()
        for size in (limits.MAX_MESSAGE_BYTES + 1, zap.TAKEN_BYTES - 64):
            context = zmq.Context()
            with context, context.socket(zmq.DEALER) as dealer:  # an honest ZeroMQ, and a message that is too long
                dealer.linger, dealer.curve_serverkey = 0, a.key
                dealer.curve_publickey, dealer.curve_secretkey = stranger.key, stranger.secret.private_bytes_raw()
                dealer.connect(f"tcp://{a.address}")
                dealer.send(bytes(size))
                up = await a.next(LinkUp)
                assert await a.next(LinkDown) == LinkDown(up.link, stranger.key, transport.MALFORMED)
        await check(b, ends[0], a, ends[1])


# Connections that never become links.

GARBAGE = {
    "nothing": b"",
    "another protocol": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 9,
    "noise": bytes(range(255, -1, -1)) * 99,
    "zeros": bytes(9999),
    "half a greeting": GREETING[:30],
    "no encryption": GREETING.replace(b"CURVE", b"NULL\0") + frame(b"\x05READY", 4),
    "an old version": b"\xff" + bytes(8) + b"\x7f\x01\x05\0\0" + b"\0\x05hello" * 9,
    "no hello": GREETING + frame(b"\x05HELLO" + bytes(194), 4),
    "a message before the handshake": GREETING + frame(b"hello"),
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
