"""Turns: sockets are served one message at a time each, and all together never keep the event loop for long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

_READS_A_TURN = 64

Line = TypeVar("Line")
"""What carries links: a dialler, or the listener."""


class Pump(Generic[Line]):
    """Receives what came, in turns and as long as there is room for it, and sends what waits.

    Args:
        read: Receives a message by a line; whether there was one.
        flush: Sends what waits on the links of a line; whether anything left.
        is_full: Whether there is no room to receive anything now.
    """

    def __init__(
        self, *, read: Callable[[Line], bool], flush: Callable[[Line], bool], is_full: Callable[[], bool]
    ) -> None:
        self._read = read
        self._flush = flush
        self._is_full = is_full
        self._to_read: dict[Line, None] = {}  # in turns
        self._scheduled: asyncio.Handle | None = None
        self._closed = False

    def look(self, line: Line) -> None:
        """Has a line looked at soon: something may be there to receive, or room to send."""
        self._to_read[line] = None
        self._schedule()

    def go_on(self) -> None:
        """Goes on where it stopped because there was no room, if it did."""
        if self._to_read:
            self._schedule()

    def forget(self, line: Line) -> None:
        """Does not look at a line any more."""
        self._to_read.pop(line, None)

    def close(self) -> None:
        """Looks at nothing any more."""
        self._closed = True
        if self._scheduled is not None:
            self._scheduled.cancel()
        self._to_read.clear()

    def _schedule(self) -> None:
        if self._scheduled is None and not self._closed:
            self._scheduled = asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Looks at lines until nothing is left to do, or it is time to let others go on.

        Receiving nothing may use up the sign that there is room to send again, so a line is left alone only once
        neither worked. The transport's sweep looks after what slips through even so.
        """
        self._scheduled = None
        for _ in range(_READS_A_TURN):
            if not self._to_read or self._is_full():
                break
            line = next(iter(self._to_read))
            del self._to_read[line]
            if self._read(line) or self._flush(line):
                self._to_read[line] = None
        if self._is_full():
            for line in self._to_read:
                self._flush(line)
        else:
            self.go_on()
