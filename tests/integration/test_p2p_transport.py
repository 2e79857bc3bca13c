"""Messages over real sockets: in order, bounded, and shown to whoever taps them."""

from __future__ import annotations

import asyncio
import select

import pytest

from p2p import events, limits, send_queue, zap
from p2p.transport import LinkUp, Received
from tests.transports import Node, check, in_loop, linked, running, turn

pytestmark = pytest.mark.filterwarnings("error")  # sockets, contexts and tasks that are left behind, too


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
                assert 0 < sender.transport.stats(out).queued <= send_queue.QUEUED_MESSAGES
                await asyncio.sleep(0.001)
        most = send_queue.QUEUED_BYTES + events.EVENT_BYTES + (zap.SEND_MESSAGES + zap.RECEIVE_MESSAGES + 4) * size
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
async def test_the_tap_is_shown_every_message_before_encryption() -> None:
    seen: list[tuple[str, int, bytes]] = []
    a, b = Node(tap=lambda *shown: seen.append(shown)), Node()
    async with running(a, b):
        here, there = await linked(a, b)
        await check(a, here, b, there)
        with pytest.raises(ValueError, match="524,289"):
            a.transport.send(here, bytes(limits.MAX_MESSAGE_BYTES + 1))
        assert seen == [("sent", here, b"hello"), ("sent", here, b"ping"), ("received", here, b"pong")]
