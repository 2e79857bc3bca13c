"""Transports for tests over real sockets on the loopback interface."""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from p2p.transport import LinkUp, Received, Transport
from p2p.zap import Keys

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
