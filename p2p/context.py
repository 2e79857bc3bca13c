"""What the parts of a member share: its replica, its disk, its links, and the actions of the step it is in."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from p2p import limits
from p2p.actions import Action, Drop, Send
from p2p.links import Dropped, Link
from p2p.outbox import Author
from p2p.records import Genesis
from p2p.replica import Replica
from p2p.storage import Storage
from p2p.wire import Message


@dataclass(slots=True)
class Context:
    """What the parts of a member share.

    Attributes:
        genesis: The swarm's.
        author: Who this node is.
        replica: What it holds.
        storage: Its disk.
        rng: Its randomness.
        links: Its links, by number.
        now: Time of the step, in seconds; only differences mean anything.
        clock_s: Unix time of the step, which may be wrong.
        actions: What the step asks for.
        ended: Links that went down or were ended in this step.
        dropped: Links that were ended lately, newest last.
        heard: When members were heard last whose links are gone.
    """

    genesis: Genesis
    author: Author
    replica: Replica
    storage: Storage
    rng: random.Random
    links: dict[int, Link] = field(default_factory=dict)
    now: float = 0.0
    clock_s: int = 0
    actions: list[Action] = field(default_factory=list)
    ended: list[Link] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    heard: dict[bytes, float] = field(default_factory=dict)

    @property
    def me(self) -> bytes:
        """This node's id."""
        return self.author.node

    def send(self, link: Link, message: Message) -> None:
        """Sends a message over a link."""
        self.actions.append(Send(link.number, message))

    def drop(self, link: Link, reason: str) -> None:
        """Ends a link; what comes over it from now on is ignored."""
        if self.links.pop(link.number, None) is None:
            return
        self.actions.append(Drop(link.number, reason))
        self.ended.append(link)
        self.dropped.append(Dropped(link.key, link.member, reason, self.now))
        del self.dropped[: -limits.MOST_REMEMBERED_DROPS]

    def members(self) -> Iterator[Link]:
        """Links whose other end said who it is."""
        return (link for link in [*self.links.values()] if link.member is not None)
