"""What a transport keeps of each link: the socket that carries it, what waits to be sent, and what became of it.

What a member keeps of a link, once it knows whose it is, is in ``p2p.links``.
"""

from __future__ import annotations

from dataclasses import dataclass

import zmq

from p2p.dialler import Dialler
from p2p.listener import Listener
from p2p.send_queue import SendQueue
from p2p.zap import Connection


@dataclass(frozen=True, slots=True)
class LinkStats:
    """What went over a link: bytes of messages, and how many messages wait to be sent; how long an answer takes."""

    sent_bytes: int
    received_bytes: int
    queued: int
    rtt_ms: float | None


@dataclass(slots=True, eq=False, kw_only=True)
class LinkEnd:
    """This end of a link, from the first attempt until its end was told.

    Attributes:
        number: Of the link.
        key: The peer's.
        dialled: Whether this node dialled.
        queue: What waits to be sent.
        line: What carries it.
        connection: Below it, once it is up.
        heard_s: When there was a message, or the attempt began; by the loop's clock.
        down: Whether it has ended. That may still have to be told.
        cut: Whether messages that wait to be told are not told any more.
        sent_bytes: Of messages, those that wait included.
        received_bytes: Of messages.
    """

    number: int
    key: bytes
    dialled: bool
    heard_s: float
    queue: SendQueue
    line: Listener | Dialler | None = None
    connection: Connection | None = None
    down: bool = False
    cut: bool = False
    sent_bytes: int = 0
    received_bytes: int = 0

    def push(self, data: bytes) -> bool:
        """Gives a message to libzmq, if that has room for it."""
        try:
            match self.line:
                case Dialler():
                    return self.line.send(data)
                case Listener() if self.connection is not None:
                    return self.line.send(self.connection.route, data)
        except zmq.ZMQError:  # the peer has gone; the monitor is about to tell
            return False
        return False

    def stats(self) -> LinkStats:
        """What went over it so far."""
        rtt_ms = self.connection.rtt_ms() if self.connection is not None and not self.down else None
        return LinkStats(self.sent_bytes, self.received_bytes, len(self.queue), rtt_ms)
