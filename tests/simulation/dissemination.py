"""How far and how often a header travels in a large swarm: every node runs the real member, over whole links."""

from __future__ import annotations

import random
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np

from p2p import gossip, limits, meeting, opening
from p2p.actions import Action, Send
from p2p.member import Member
from p2p.outbox import Author
from p2p.records import Certificate, Genesis, Header, Record, TensorSpec, record_id, sign_record
from p2p.wire import Have, Push, write_message
from tests.memory import MemoryStorage
from tests.simulation.pace import _open_record as open_once
from tests.simulation.people import person
from tests.vectors import small_genesis

FIRST = 1000
"""Persons from here on are these nodes."""


@dataclass(frozen=True)
class Spread:
    """What came of it.

    Attributes:
        reached: Nodes that have the header.
        hops: Of the longest way that a first copy took.
        most_copies: That one node was sent.
        mean_copies: That a node was sent.
        most_told: Times that one node was told the id.
    """

    reached: int
    hops: int
    most_copies: int
    mean_copies: float
    most_told: int

    def __str__(self) -> str:
        return (
            f"{self.reached} nodes reached in {self.hops} hops; copies a node: {self.mean_copies:.2f} on average, "
            f"{self.most_copies} at most; told of it {self.most_told} times at most"
        )


def spread(nodes: int, seed: int) -> Spread:
    """Lets one node of many sign a delta, and counts copies until no message is under way.

    Args:
        nodes: How many; each dials ``limits.MAX_DIALLED`` others at random.
        seed: Of everything drawn.
    """
    with ExitStack() as patches:
        for module in (opening, gossip, meeting):
            patches.enter_context(patch.object(module, "open_record", open_once))
        return _Swarm(nodes, seed).run()


class _Swarm:
    def __init__(self, nodes: int, seed: int) -> None:
        self._rng = random.Random(seed)
        self._genesis = _genesis()
        self._certificates = _certify(self._genesis, nodes)
        self._members = [self._member(number) for number in range(nodes)]
        self._linked: set[tuple[int, int]] = set()
        self._ends: dict[tuple[int, int], tuple[int, int]] = {}
        self._queue: deque[tuple[int, int, bytes, object, int]] = deque()
        self._watched = b""
        self._hops = {0: 0}
        self._copies = [0] * nodes
        self._told = [0] * nodes

    def run(self) -> Spread:
        for number in range(len(self._members)):
            for other in self._rng.sample(range(len(self._members)), limits.MAX_DIALLED):
                self._link(number, other)
        self._deliver()
        member = self._members[0]
        increment = np.full(self._genesis.parameters, 0.001, dtype=np.float32)
        actions = member.learn("first", increment, 1, now=1.0, clock_s=1)
        headers = [record for record in member.context.replica.unsealed() if isinstance(record.body, Header)]
        self._watched = headers[-1].id
        self._carry_out(0, actions, hop=1)
        self._deliver()
        reached = sum(member.context.replica.holds(self._watched) for member in self._members)
        mean = sum(self._copies) / (len(self._copies) - 1)
        return Spread(reached, max(self._hops.values()), max(self._copies), mean, max(self._told))

    def _member(self, number: int) -> Member:
        storage, identity = MemoryStorage(), person(FIRST + number)
        for record in self._certificates:
            storage.add_record(record)
        author = Author(identity.key, identity.node_id, self._certificates[number].id)
        return Member(self._genesis, author, storage, rng=random.Random(number), instance=bytes(16), now=0.0, clock_s=0)

    def _link(self, one: int, other: int) -> None:
        if one == other or {(one, other), (other, one)} & self._linked:
            return
        self._linked.add((one, other))
        first, second = 2 * len(self._ends), 2 * len(self._ends) + 1
        self._ends[one, first], self._ends[other, second] = (other, second), (one, first)
        keys = [person(FIRST + number).transport_public for number in (one, other)]
        self._carry_out(one, self._members[one].link_up(first, keys[1], dialled=True, now=0.0, clock_s=0), hop=0)
        self._carry_out(other, self._members[other].link_up(second, keys[0], dialled=False, now=0.0, clock_s=0), hop=0)

    def _carry_out(self, number: int, actions: list[Action], *, hop: int) -> None:
        for action in actions:
            if isinstance(action, Send) and (number, action.link) in self._ends:
                node, link = self._ends[number, action.link]
                self._queue.append((node, link, write_message(action.message), action.message, hop))

    def _deliver(self) -> None:
        """All messages take equally long, so those of fewer hops come first."""
        while self._queue:
            node, link, raw, message, hop = self._queue.popleft()
            self._count(node, message, hop)
            member = self._members[node]
            self._carry_out(node, member.received(link, raw, now=1.0, clock_s=1), hop=hop + 1)

    def _count(self, node: int, message: object, hop: int) -> None:
        if isinstance(message, Push) and any(record_id(item.body) == self._watched for item in message.records):
            self._copies[node] += 1
            self._hops.setdefault(node, hop)
        elif isinstance(message, Have) and self._watched in message.ids:
            self._told[node] += 1


def _genesis() -> Genesis:
    tensors = (TensorSpec("a.lora_A", 1, 2), TensorSpec("a.lora_B", 2, 1))
    return small_genesis(name="large", tensors=tensors, norm_bound=1 << 16, sealer=person(FIRST).node_id)


def _certify(genesis: Genesis, nodes: int) -> list[Record]:
    founder, records = person(FIRST), list[Record]()
    for number in range(nodes):
        identity = person(FIRST + number)
        body = Certificate(
            genesis=genesis.hash,
            member=identity.node_id,
            transport=identity.transport_public,
            name=f"n{number}",
            issuer=founder.node_id,
            issuer_certificate=records[0].id if number else b"",
            invite=number.to_bytes(32) if number else b"",
        )
        records.append(sign_record(founder.key, body))
    return records
