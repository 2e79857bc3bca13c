"""Members that talk to each other in one process, over links that lose nothing: for tests that need a few of them."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from p2p.actions import Action, Drop, Send
from p2p.encoding import digest
from p2p.member import Member
from p2p.outbox import Author
from p2p.records import Body, Certificate, Genesis, Header, Record, Seal, sign_record
from p2p.wire import Message, read_message, write_message
from tests.memory import MemoryStorage
from tests.simulation.people import person
from tests.vectors import small_genesis


class Company:
    """A founder and those whom it let in, numbered from 0.

    Args:
        count: How many.
        genesis: Fields that are not as usual.
    """

    def __init__(self, count: int, **genesis: object) -> None:
        self.genesis: Genesis = small_genesis(sealer=person(0).node_id, **genesis)
        self.now = 0.0
        self.certificates: list[Record] = []
        for number in range(count):
            self.certificates.append(self.certificate(number))
        self.disks = [MemoryStorage() for _ in range(count)]
        for disk in self.disks:
            for record in self.certificates:
                disk.add_record(record)
        self.members = [self.opened(number) for number in range(count)]
        self.dropped: list[tuple[int, str]] = []
        self.sent_bytes = [0] * count
        self.seen: list[tuple[int, Message]] = []
        self._ends: dict[tuple[int, int], tuple[int, int]] = {}
        self._queue: deque[tuple[int, int, bytes]] = deque()
        self._next = 1

    def certificate(self, number: int, *, issuer: int = 0, invite: bytes = b"") -> Record:
        """That the founder, or another member, lets somebody in."""
        return self.sign(
            issuer,
            Certificate(
                genesis=self.genesis.hash,
                member=person(number).node_id,
                transport=person(number).transport_public,
                name=f"n{number}",
                issuer=person(issuer).node_id,
                issuer_certificate=self.certificates[issuer].id if number else b"",
                invite=(invite or number.to_bytes(32)) if number else b"",
            ),
        )

    def sign(self, number: int, body: Body) -> Record:
        """A record by somebody."""
        return sign_record(person(number).key, body)

    def opened(self, number: int) -> Member:
        """A member, from its disk."""
        author = Author(person(number).key, person(number).node_id, self.certificates[number].id)
        rng, instance = random.Random(number), random.Random().randbytes(16)
        return Member(self.genesis, author, self.disks[number], rng=rng, instance=instance, now=self.now, clock_s=1)

    def restart(self, number: int) -> None:
        """The power goes and comes back; its links are gone."""
        for (node, link), (other, theirs) in [*self._ends.items()]:
            if node == number:
                del self._ends[node, link], self._ends[other, theirs]
                self.do(other, lambda member, now, theirs=theirs: member.link_down(theirs, now=now, clock_s=1))  # type: ignore[misc]
        self.disks[number].crash()
        self.members[number] = self.opened(number)

    def link(self, one: int, other: int, *, key: bytes | None = None) -> int:
        """The first dials the second; the link's number at the second."""
        mine, theirs = self._next, self._next + 1
        self._next += 2
        self._ends[one, mine], self._ends[other, theirs] = (other, theirs), (one, mine)
        shown, expected = key or person(one).transport_public, person(other).transport_public
        for number, link, at_the_end, dialled in ((one, mine, expected, True), (other, theirs, shown, False)):
            member = self.members[number]
            self._carry_out(number, member.link_up(link, at_the_end, dialled=dialled, now=self.now, clock_s=1))
        self._deliver()
        return theirs

    def link_of(self, number: int, other: int) -> int:
        """The number, at one member, of its link to another."""
        return next(link for (node, link), end in self._ends.items() if (node, end[0]) == (number, other))

    def knock(self, number: int, key: bytes) -> int:
        """Somebody dials a member with a key, and listens to nothing but what ``hear`` returns."""
        self._next += 1
        self.do(number, lambda member, now: member.link_up(self._next, key, dialled=False, now=now, clock_s=1))
        return self._next

    def hear(self, number: int, link: int, message: Message) -> list[Message]:
        """What a member answers to a message over one of its links."""
        actions = self.members[number].received(link, write_message(message), now=self.now, clock_s=1)
        self._carry_out(number, actions)
        return [action.message for action in actions if isinstance(action, Send) and action.link == link]

    def do(self, number: int, step: Callable[..., list[Action]]) -> None:
        """Lets a member take a step, and delivers until nobody says anything more."""
        self._carry_out(number, step(self.members[number], now=self.now))
        self._deliver()

    def _deliver(self) -> None:
        while self._queue:
            node, link, raw = self._queue.popleft()
            if (node, link) in self._ends:
                self.seen.append((node, read_message(raw)))
                self._carry_out(node, self.members[node].received(link, raw, now=self.now, clock_s=1))

    def tell(self, number: int, link: int, message: Message) -> None:
        """Brings a message to a member, as from the other end of one of its links."""
        self.do(number, lambda member, now: member.received(link, write_message(message), now=now, clock_s=1))

    def learn(self, number: int, id: str, *, wins: int = 3, base: int = 0) -> None:
        """A member learns something."""
        values: npt.NDArray[np.float32] = np.full(self.genesis.parameters, 0.001, dtype=np.float32)
        self.do(number, lambda member, now: member.learn(id, values, wins, base=base, now=now, clock_s=1))

    def wait(self, seconds: float) -> None:
        """Time goes by."""
        end = self.now + seconds
        while self.now < end:
            self.now += 1.0
            for number in range(len(self.members)):
                self.do(number, lambda member, now: member.tick(now=now, clock_s=1))

    def drops(self, number: int) -> list[str]:
        """Why a member ended links."""
        return [reason for node, reason in self.dropped if node == number]

    def _carry_out(self, number: int, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(link=link, message=message) if (number, link) in self._ends:
                    raw = write_message(message)
                    self.sent_bytes[number] += len(raw)
                    self._queue.append((*self._ends[number, link], raw))
                case Drop(link=link, reason=reason):
                    self.dropped.append((number, reason))
                    other = self._ends.pop((number, link), None)
                    if other is not None:
                        self._queue = deque(entry for entry in self._queue if entry[:2] != (number, link))
                        self._hang_up(*other)
                case _:
                    pass

    def _hang_up(self, number: int, link: int) -> None:
        """The other end of a link learns that it is gone, after what was still under way."""
        while waiting := [entry for entry in self._queue if entry[:2] == (number, link)]:
            self._queue.remove(waiting[0])
            self.seen.append((number, read_message(waiting[0][2])))
            self._carry_out(number, self.members[number].received(link, waiting[0][2], now=self.now, clock_s=1))
        self._ends.pop((number, link), None)
        self._carry_out(number, self.members[number].link_down(link, now=self.now, clock_s=1))


def linked(count: int, **genesis: object) -> Company:
    company = Company(count, **genesis)
    for one in range(count):
        for other in range(one):
            company.link(one, other)
    return company


def heads(company: Company) -> list[int]:
    return [member.context.replica.head for member in company.members]


def sealed(company: Company) -> Company:
    """Lets a company learn until something is sealed."""
    for at in range(8):
        company.learn(at % 2, f"early {at}")
        company.wait(5.0)
    assert [member.context.replica.sealed.height > 0 for member in company.members] == [True] * len(company.members)
    return company


def header(company: Company, number: int, **changes: Any) -> Record:
    """A header that a member could sign on what the founder holds."""
    replica = company.members[0].context.replica
    parents = tuple(
        sorted(id for id in replica.in_round(replica.head) if replica.header(id).author != person(number).node_id)
    )
    fields: dict[str, Any] = {
        "genesis": company.genesis.hash,
        "author": person(number).node_id,
        "round": replica.head + 1,
        "prev": b"",
        "parents": parents,
        "certificate": company.certificates[number].id,
        "wins": 3,
        "payload": bytes(32),
        "payload_bytes": 100,
        "base_state": bytes(32),
    }
    return company.sign(number, Header(**{**fields, **changes}))


def seal(company: Company, height: int, contents: bytes) -> Record:
    """A seal that its sealer could sign, of the first round."""
    body = Seal(
        genesis=company.genesis.hash,
        height=height,
        previous=company.genesis.hash,
        round=1,
        contents=digest("seal contents", contents),
        contents_bytes=len(contents),
        state=bytes(32),
        sealer=person(0).node_id,
    )
    return company.sign(0, body)
