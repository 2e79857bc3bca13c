"""How fast bytes move, from two looks at what a node has counted.

Counters of a node begin anew with each link and each start. A look after which one is smaller, or that comes from
another process, says nothing of the time between, and neither does one that came no later on the monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spearctl.snapshot import Found


@dataclass(frozen=True, slots=True)
class Sample:
    """What a node had counted at one moment.

    Attributes:
        at_s: When, on the monotonic clock.
        pid: Of the node.
        sent: Bytes sent to each peer, by its id.
        received: Bytes received from each peer, by its id.
        fetched: Bytes that are here of each blob on its way, by its name.
    """

    at_s: float
    pid: int | None
    sent: Mapping[str, int]
    received: Mapping[str, int]
    fetched: Mapping[str, int]

    @classmethod
    def of(cls, found: Found, at_s: float) -> Sample:
        """What a node's answer counts."""
        return cls(
            at_s,
            found.pid,
            {peer["id"]: peer["sent_bytes"] for peer in found.peers},
            {peer["id"]: peer["received_bytes"] for peer in found.peers},
            {blob["blob"]: blob["bytes"] for blob in found.transfers},
        )


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes a second between two samples; what cannot be told is not in there.

    Attributes:
        sent: By peer.
        received: By peer.
        fetched: By blob.
    """

    sent: Mapping[str, float] = field(default_factory=dict)
    received: Mapping[str, float] = field(default_factory=dict)
    fetched: Mapping[str, float] = field(default_factory=dict)


def rates(before: Sample | None, after: Sample) -> Rates:
    """How fast things moved between two samples."""
    if before is None or before.pid != after.pid or after.at_s <= before.at_s:
        return Rates()
    span_s = after.at_s - before.at_s
    return Rates(
        _rises(before.sent, after.sent, span_s),
        _rises(before.received, after.received, span_s),
        _rises(before.fetched, after.fetched, span_s),
    )


def _rises(before: Mapping[str, int], after: Mapping[str, int], span_s: float) -> dict[str, float]:
    return {name: (now - before[name]) / span_s for name, now in after.items() if now >= before.get(name, now + 1)}
