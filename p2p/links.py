"""The links of a node: who is at the other end, and how much of it this node puts up with."""

from __future__ import annotations

from dataclasses import dataclass, field

from p2p import limits
from p2p.wire import Beat


@dataclass(slots=True)
class Bucket:
    """A token bucket: so much at once, so much a second.

    Attributes:
        burst: The most that is put up with at once.
        rate: And a second, in the long run.
    """

    burst: float
    rate: float
    _level: float = field(default=0.0, init=False)
    _at: float = field(default=0.0, init=False)

    def take(self, amount: float, now: float) -> bool:
        """Whether so much more is put up with."""
        self._level = max(0.0, self._level - max(0.0, now - self._at) * self.rate) + amount
        self._at = now
        return self._level <= self.burst


@dataclass(slots=True)
class Link:
    """One link.

    Attributes:
        number: The transport's.
        key: The CURVE key at the other end.
        dialled: Whether this node dialled it.
        since: When it came up.
        member: Who it is, once it said hello.
        instance: Which start of that member.
        greeted: When it was told last who this node is; None before that.
        confirmed: Whether it told what it knows of this node's own records, without a warning.
        contested: Whether it sees another instance of this node.
        told: Whether it was told that another instance of it is about; None before it was told anything.
        told_at: When.
        beaten: What it was sent last of where this node stands, and when.
        beat: Where it stood last.
        heard: When anything came last.
        compared: When digests were sent last.
        lacks: Blobs that it said it does not have, or did not give, and when.
        slow_at: When it last let this node wait for a blob in vain.
        asked: Ids asked of it.
        messages: Limits messages.
        records: Limits records that nobody asked for.
    """

    number: int
    key: bytes
    dialled: bool
    since: float
    member: bytes | None = None
    instance: bytes = b""
    greeted: float | None = None
    confirmed: bool = False
    contested: bool = False
    told: bool | None = None
    told_at: float = 0.0
    beaten: Beat | None = None
    beaten_at: float = 0.0
    beat: Beat | None = None
    heard: float = 0.0
    compared: float = -1e9
    lacks: dict[bytes, float] = field(default_factory=dict)
    slow_at: float = -1e9
    asked: dict[bytes, float] = field(default_factory=dict)
    messages: Bucket = field(default_factory=lambda: Bucket(limits.MESSAGE_BURST, limits.MESSAGES_A_SECOND))
    records: Bucket = field(default_factory=lambda: Bucket(limits.RECORD_BURST, limits.RECORDS_A_SECOND))

    @property
    def is_clear(self) -> bool:
        """Whether the other end has no objection to what this node may sign."""
        return self.confirmed and not self.contested


@dataclass(frozen=True, slots=True)
class Dropped:
    """A link that was ended, for people.

    Attributes:
        key: The CURVE key that was at the other end.
        member: Who it was, if it had said so.
        reason: Why.
        at: When.
    """

    key: bytes
    member: bytes | None
    reason: str
    at: float
