"""Links that end, and transports that do: what is told of it, what still arrives, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import os

import pytest

from p2p import transport
from p2p.errors import NetworkError
from p2p.transport import LinkDown, LinkUp, Received
from tests.transports import Node, in_loop, linked, running, turn

pytestmark = pytest.mark.filterwarnings("error")  # sockets, contexts and tasks that are left behind, too


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
