"""Where this node can be reached, kept true in the swarm: a copy of this home may have said something else."""

from __future__ import annotations

import math

from p2p import limits
from p2p.context import Context
from p2p.gossip import Gossip
from p2p.records import PeerRecord, sign_record


class Announcing:
    """Keeps this node's peer record.

    Args:
        context: Shared with the other parts.
        gossip: Spreads it.
    """

    def __init__(self, context: Context, gossip: Gossip) -> None:
        self._context = context
        self._gossip = gossip
        self._addresses: tuple[str, ...] | None = None
        self._said_at = -math.inf

    def tell(self, addresses: tuple[str, ...]) -> None:
        """Signs where this node can be reached from now on."""
        self._addresses = addresses
        self._sign(addresses)

    def step(self) -> None:
        """Signs it again where what others hold is untrue or grows old; not while a copy of this home would answer."""
        context, addresses = self._context, self._addresses
        if addresses is None or context.now - self._said_at < limits.LINK_DEAD_S:
            return
        known = context.replica.roster.peer(context.me)
        is_true = known is not None and known.addresses == addresses
        is_fresh = known is not None and known.expires_s - context.clock_s > limits.PEER_RECORD_LIFE_S // 2
        if not (is_true and is_fresh) and not any(link.contested for link in context.links.values()):
            self._sign(addresses)

    def _sign(self, addresses: tuple[str, ...]) -> None:
        context = self._context
        known = context.replica.roster.peer(context.me)
        body = PeerRecord(
            genesis=context.replica.hash,
            member=context.me,
            number=max(0, context.clock_s, known.number + 1 if known else 0),
            addresses=addresses,
            expires_s=max(0, context.clock_s) + limits.PEER_RECORD_LIFE_S,
        )
        self._said_at = context.now
        self._gossip.add(sign_record(context.author.key, body))
