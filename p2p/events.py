"""What a transport tells of its links, why links end, and the queue in which this waits to be asked for."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from p2p import limits

EVENT_BYTES = 8 * limits.MIB
EVENT_MESSAGES = 1024
"""What was received waits for ``Transport.next_event``; sockets are not read from while more than this does."""

UNREACHABLE = "unreachable"
HANDSHAKE = "the handshake failed: another node than was meant, or none"
REFUSED = "refused: this node's key is not admitted there"
DISCONNECTED = "disconnected"
SILENT = "silent"
NOT_ADMITTED = "its key is not admitted any more"
REPLACED = "replaced by a newer link of the same key"
MALFORMED = "a message that is too long, or in parts"
ENDLESS = "a message without an end"


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


class EventQueue:
    """Events that wait to be asked for, in order. It only counts its messages: who fills it asks whether it is full."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._messages = self._bytes = 0
        self._arrived = asyncio.Event()
        self._closed = False

    @property
    def is_full(self) -> bool:
        """Whether as many messages wait as may, or as many bytes of them."""
        return self._messages >= EVENT_MESSAGES or self._bytes >= EVENT_BYTES

    def add(self, event: Event) -> None:
        """Adds an event. Nobody is refused: what is no message is rare, and has to be told."""
        if isinstance(event, Received):
            self._messages += 1
            self._bytes += len(event.data)
        self._events.append(event)
        self._arrived.set()

    async def take(self) -> Event | None:
        """The next event, once there is one; none once the queue is closed. For one task at a time."""
        while not self._events and not self._closed:
            self._arrived.clear()
            await self._arrived.wait()
        if self._closed:
            return None
        event = self._events.popleft()
        if isinstance(event, Received):
            self._messages -= 1
            self._bytes -= len(event.data)
        return event

    def close(self) -> None:
        """Forgets what waits, and wakes who waits for it."""
        self._closed = True
        self._events.clear()
        self._arrived.set()
