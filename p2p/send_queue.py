"""What waits to be sent: a queue for each link, bounded by itself and together with all others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from p2p import limits

QUEUED_MESSAGES = 1024
QUEUED_BYTES = 2 * limits.MIB
"""What may wait to be sent on a link, beyond what libzmq and the kernel hold."""
ALL_QUEUED_BYTES = 32 * limits.MIB
"""What may wait on all links together."""


class SendAccount:
    """How many bytes wait on all links together."""

    def __init__(self) -> None:
        self.waiting_bytes = 0


class SendQueue:
    """Messages that wait until there is room on a link.

    Args:
        account: Shared with all other links.
    """

    def __init__(self, account: SendAccount) -> None:
        self._account = account
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, data: bytes) -> bool:
        """Has a message wait, if there is room for it; whether there was."""
        size = len(data)
        if (
            len(self._waiting) >= QUEUED_MESSAGES
            or self._waiting_bytes + size > QUEUED_BYTES
            or self._account.waiting_bytes + size > ALL_QUEUED_BYTES
        ):
            return False
        self._waiting.append(data)
        self._count(size)
        return True

    def flush(self, push: Callable[[bytes], bool]) -> bool:
        """Sends what waits for as long as ``push`` takes it; whether anything left."""
        sent = False
        while self._waiting and push(self._waiting[0]):
            self._count(-len(self._waiting.popleft()))
            sent = True
        return sent

    def clear(self) -> None:
        """Forgets what waits."""
        self._waiting.clear()
        self._count(-self._waiting_bytes)

    def _count(self, size: int) -> None:
        self._waiting_bytes += size
        self._account.waiting_bytes += size
