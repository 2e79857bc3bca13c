"""Whether this node may sign. A home that was copied, or restored from an old backup, must not say two things at once.

After a start a node first hears from its peers what they know that it signed (``Tip``). From a home that is as it was
written last, one peer is enough; from one that may be a copy or an old backup, every member has to answer. And as long
as a peer has lately seen another instance of this identity, nothing is signed at all.

An instance is one run of a node. Each names those before it, so that a restart is told apart from a copy: one of those
that a copy names is still alive, or was followed by another.

Not covered: a copy and its original that never reach a common peer, where each of them hears from all others; and an
original that is started again after its copy was used, or was cut off from all who heard of the copy, and first meets a
peer who has not.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, field

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
    _ahead: dict[bytes, tuple[int, float]] = field(default_factory=dict)

    def told(self, member: bytes) -> None:
        """A member told what it knows of this node's own records."""
        self.heard.add(member)

    def waits_for(self, others: Set[bytes]) -> Set[bytes]:
        """Members that have to be heard yet because this home may be a copy."""
        return others - self.heard if self.suspect else frozenset()

    def is_open(
        self, others: Set[bytes], links: Iterable[Link], *, known: int, offered: int, membership: bytes, now: float
    ) -> bool:
        """Whether something may be signed now.

        Args:
            others: All other members in good standing.
            links: All links that are up.
            known: Height of the last seal here: seals tell what this node signed, too, so those of peers come first.
            offered: Height of the last seal that came and is not refused, whether it is accepted or not.
            membership: Digest of what is known of members here: an old backup has to learn first whom to ask.
            now: Time: who says that there are higher seals, and sends none, is waited for once, and not for long.
        """
        mine = [link for link in links if link.member is not None]
        if any(link.contested for link in mine):
            return False
        if not others:
            return True
        if self.waits_for(others):
            return False
        if self.suspect and any(link.beat is None or link.beat.membership != membership for link in mine):
            return False
        return not self._is_behind(mine, known, offered, now) and any(link.confirmed for link in mine)

    def _is_behind(self, links: Iterable[Link], known: int, offered: int, now: float) -> bool:
        """Whether there are seals to take first: such as have come, or such as somebody said a moment ago to have."""
        behind = False
        for link in links:
            if link.member is None or link.beat is None:
                continue
            if link.beat.height > known:
                if self._ahead.get(link.member, (-1, now))[0] != known:
                    self._ahead[link.member] = known, now
                since = self._ahead[link.member][1]
                behind |= link.beat.height <= offered or now - since < limits.LINK_DEAD_S
        return behind


@dataclass(slots=True)
class _Run:
    """An instance at the other end of a link, and those that it says ran before it, 16 bytes each."""

    instance: bytes
    previous: bytes

    def follows(self, instance: bytes) -> bool:
        return any(self.previous[start : start + 16] == instance for start in range(0, len(self.previous), 16))


@dataclass(slots=True)
class _Seen:
    latest: bytes
    at: float
    links: dict[int, _Run]

    def is_alive(self) -> bool:
        return any(run.instance == self.latest for run in self.links.values())


class Instances:
    """The instances of other members that this node has seen."""

    def __init__(self) -> None:
        self._seen: dict[bytes, _Seen] = {}

    def hello(self, member: bytes, instance: bytes, previous: bytes, link: int, now: float) -> None:
        """Takes note of an instance that says hello.

        Args:
            member: Whose.
            instance: Its name.
            previous: Those that it says ran before it, 16 bytes each.
            link: Over which.
            now: Time.
        """
        seen = self._seen.setdefault(member, _Seen(instance, now, {}))
        seen.links[link] = _Run(instance, previous)
        self.heard(member, link, now)

    def heard(self, member: bytes, link: int, now: float) -> None:
        """Takes note that the instance at the other end of a link is alive.

        It takes over from one that has no link any more, if it ran after that one, or if that one is long gone.
        """
        seen = self._seen[member]
        run = seen.links[link]
        if run.instance == seen.latest:
            seen.at = now
        elif not seen.is_alive() and (run.follows(seen.latest) or now - seen.at > limits.INSTANCE_MEMORY_S):
            seen.latest, seen.at = run.instance, now

    def is_contested(self, member: bytes, instance: bytes) -> bool:
        """Whether another instance of a member is about, or came after this one."""
        seen = self._seen[member]
        return seen.latest != instance or any(run.instance != instance for run in seen.links.values())

    def link_down(self, member: bytes, link: int) -> None:
        """A link of a member is gone."""
        if member in self._seen:
            self._seen[member].links.pop(link, None)
