"""What the logic asks of its surroundings. Everything it wrote was committed before these are handed out."""

from __future__ import annotations

from dataclasses import dataclass

from p2p.wire import Message


@dataclass(frozen=True, slots=True)
class Send:
    """Sends a message over a link."""

    link: int
    message: Message


@dataclass(frozen=True, slots=True)
class Drop:
    """Ends a link."""

    link: int
    reason: str


@dataclass(frozen=True, slots=True)
class Dial:
    """Dials an address and expects a CURVE key there."""

    address: str
    key: bytes


Action = Send | Drop | Dial
