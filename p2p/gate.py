"""Whether this node may sign. A home that was copied, or restored from an old backup, must not say two things at once.

After a start a node first hears from its peers what they know that it signed (``Tip``). From a home that is as it was
written last, one peer is enough; from one that may be a copy or an old backup, every member has to answer. And as long
as a peer has lately seen another instance of this identity, nothing is signed at all.

An instance is one run of a node. Each names the one before it, so that a restart is told apart from a copy: what a copy
names as the one before it is still alive, or was followed by another.

Not covered: a copy and its original that never reach a common peer, where each of them hears from all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from p2p import limits
from p2p.links import Link


@dataclass(slots=True)
class Gate:
    """Whether this node may sign.

    Attributes:
        suspect: Whether the home may be a copy or an old backup.
        heard: Members that told what they know.
    """

    suspect: bool
    heard: set[bytes]

    def told(self, member: bytes) -> None:
        """A member told what it knows of this node's own records."""
        self.heard.add(member)

    def waits_for(self, others: Set[bytes]) -> Set[bytes]:
        """Members that have to be heard yet because this home may be a copy."""
        return others - self.heard if self.suspect else frozenset()

    def is_open(self, others: Set[bytes], links: Iterable[Link], height: int) -> bool:
        """Whether something may be signed now.

        Args:
            others: All other members in good standing.
            links: All links that are up.
            height: Of the last seal here: seals tell what this node signed, too, so those of peers come first.
        """
        mine = [link for link in links if link.member is not None]
        if any(link.contested for link in mine):
            return False
        if not others:
            return True
        if self.waits_for(others):
            return False
        behind = any(link.beat is not None and link.beat.height > height for link in mine)
        return not behind and any(link.confirmed for link in mine)


@dataclass(slots=True)
class _Seen:
    latest: bytes
    at: float
    links: dict[int, bytes]


class Instances:
    """The instances of other members that this node has seen."""

    def __init__(self) -> None:
        self._seen: dict[bytes, _Seen] = {}

    def hello(self, member: bytes, instance: bytes, previous: bytes, link: int, now: float) -> None:
        """Takes note of an instance that says hello.

        Args:
            member: Whose.
            instance: Its name.
            previous: The one that it says ran before it.
            link: Over which.
            now: Time.
        """
        seen = self._seen.setdefault(member, _Seen(instance, now, {}))
        is_alive = seen.latest in seen.links.values()
        if not is_alive and (previous == seen.latest or now - seen.at > limits.INSTANCE_MEMORY_S):
            seen.latest = instance
        seen.links[link] = instance
        self.heard(member, instance, now)

    def heard(self, member: bytes, instance: bytes, now: float) -> None:
        """Takes note that an instance is alive."""
        seen = self._seen[member]
        if seen.latest == instance:
            seen.at = now
        elif seen.latest not in seen.links.values() and now - seen.at > limits.INSTANCE_MEMORY_S:
            seen.latest, seen.at = instance, now

    def is_contested(self, member: bytes, instance: bytes) -> bool:
        """Whether another instance of a member is about, or came after this one."""
        seen = self._seen[member]
        return seen.latest != instance or any(other != instance for other in seen.links.values())

    def link_down(self, member: bytes, link: int) -> None:
        """A link of a member is gone."""
        if member in self._seen:
            self._seen[member].links.pop(link, None)
