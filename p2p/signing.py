"""When and where a member signs deltas: what it learned, and null deltas that let others go on."""

from __future__ import annotations

from p2p import limits
from p2p.clock import Room, is_short, open_round
from p2p.context import Context
from p2p.gossip import Gossip
from p2p.outbox import Outbox
from p2p.records import Header
from p2p.state import State


class Signing:
    """Signs the deltas of a member.

    Args:
        context: Shared with the other parts.
        state: The state that deltas are based on.
        outbox: Holds what is pending.
        gossip: Spreads what was signed.

    Attributes:
        waits: Whether something was learned and no round is open for it before somebody else signs.
        is_full: Whether the disk quota for unsealed payloads leaves no room for another one.
    """

    def __init__(self, context: Context, state: State, outbox: Outbox, gossip: Gossip) -> None:
        self._context = context
        self._state = state
        self._outbox = outbox
        self._gossip = gossip
        self._null_at: float | None = None
        self.waits = False
        self.is_full = False

    def step(self, *, may_sign: bool) -> None:
        """Signs what is pending, or a null delta where somebody waits for company, if it may and a round is open."""
        context, replica, outbox = self._context, self._context.replica, self._outbox
        self.waits = False
        if not may_sign:
            self._null_at = None
            return
        learned = outbox.wins > 0 and self._has_room()
        room = open_round(replica, context.me, outbox.last.round, outbox.base if learned else 0)
        self.waits = learned and room is None
        if learned and room is not None:
            self._keep_company(room[0])
            self._sign(*room, null=False)
            self._null_at = None
        elif (wanted := self._room_for_company()) is not None:
            if self._null_at is None:
                self._null_at = context.now + context.rng.uniform(*limits.NULL_DELAY_S)
            elif context.now >= self._null_at:
                self._sign(*wanted, null=True)
                self._null_at = None
        else:
            self._null_at = None

    def _room_for_company(self) -> Room | None:
        """Where a null delta lets somebody go on: in the head round, if that is short, or above it, if somebody waits.

        Who is in the head round already cannot be waited for there. Only who has learned something waits, so that null
        deltas never answer each other.
        """
        replica, me = self._context.replica, self._context.me
        room = open_round(replica, me, self._outbox.last.round) if is_short(replica, me) else None
        if room is None or room[0] == replica.head:
            return room
        beats = [link.beat for link in self._context.members() if link.beat is not None]
        return room if any(beat.waits and beat.head == replica.head for beat in beats) else None

    def _keep_company(self, opening: int) -> None:
        """Joins the head round before the next is opened, if somebody is alone there and could never follow."""
        replica, me = self._context.replica, self._context.me
        head = open_round(replica, me, self._outbox.last.round)
        if is_short(replica, me) and head is not None and head[0] == replica.head < opening:
            self._sign(*head, null=True)

    def _sign(self, round: int, parents: tuple[bytes, ...], *, null: bool) -> None:
        record = self._outbox.sign(self._context.author, round, parents, self._state.hash, null=null)
        assert isinstance(record.body, Header)
        if not null:
            self._context.replica.add_payload(record.body)
        self._gossip.spread(self._context.replica.add_header(record))

    def _has_room(self) -> bool:
        replica = self._context.replica
        used = sum(replica.header(record.id).payload_bytes for record in replica.unsealed())
        self.is_full = used >= limits.UNSEALED_QUOTA_BYTES
        return not self.is_full
