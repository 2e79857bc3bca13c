"""Who gets in, as whom, and who has to make room."""

from __future__ import annotations

import pytest

from p2p import transport
from p2p.transport import LinkDown, LinkUp, Received
from tests.curve import stranger_at
from tests.transports import Node, check, in_loop, linked, running, turn

pytestmark = pytest.mark.filterwarnings("error")  # sockets, contexts and tasks that are left behind, too


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
        assert a.transport._zap_handler is not None
        a.transport._zap_handler.close()
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
