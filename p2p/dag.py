"""The deltas that a node holds: a directed acyclic graph, in which each cites others of the round before it. Pure.

A delta is *in the set* once it is complete, and waits until then: for its payload, for parents, or for both. What is
kept and forgotten here is a matter of ``p2p.replica``, which knows the rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from p2p.records import Genesis, Header, Record

K = TypeVar("K")


class Dag:
    """Headers, where they are in the graph, and what those that are not in the set wait for.

    Args:
        genesis: The swarm's.
    """

    def __init__(self, genesis: Genesis) -> None:
        self.genesis = genesis
        self._headers: dict[bytes, Record] = {}
        self._set: set[bytes] = set()
        self._rounds: dict[int, set[bytes]] = {}
        self._pending: dict[bytes, int] = {}
        self._children: dict[bytes, set[bytes]] = {}
        self._bodies: dict[tuple[bytes, int], list[bytes]] = {}
        self._successors: dict[tuple[bytes, bytes], list[bytes]] = {}
        self._naming: dict[bytes, set[bytes]] = {}
        self._payloads: dict[bytes, set[tuple[int, int]]] = {}
        self._wanted: list[Header] | None = None
        self._orphaned: list[bytes] | None = None

    # What there is.

    def header(self, id: bytes) -> Header:
        """The header of a delta that is held."""
        return header_of(self._headers[id])

    def unsealed(self) -> Iterator[Record]:
        """All headers that are held, by round."""
        yield from sorted(self._headers.values(), key=lambda record: (header_of(record).round, record.id))

    def rounds(self) -> tuple[int, ...]:
        """The rounds above the last seal that hold something, ascending."""
        return tuple(sorted(self._rounds))

    def in_round(self, round: int) -> tuple[bytes, ...]:
        """Ids in the set of one round, sorted."""
        return tuple(sorted(self._rounds.get(round, ())))

    def is_in_set(self, id: bytes) -> bool:
        """Whether a delta is in the set."""
        return id in self._set

    def has_payload(self, payload: bytes) -> bool:
        """Whether a payload is here and was checked."""
        return payload in self._payloads

    def _has_payload_of(self, header: Header) -> bool:
        return header.is_null or self._use(header) in self._payloads.get(header.payload, ())

    def _use(self, header: Header) -> tuple[int, int]:
        """What a header says of its payload, besides its hash: two may say different things of one payload."""
        return header.payload_bytes, header.round % 2 if self.genesis.share == "alternate" else 0

    # What is waited for.

    def pending_of(self, author: bytes) -> tuple[bytes, ...]:
        """Ids of the headers of an author that wait for their payload or their parents."""
        return tuple(id for id in self._pending if self.header(id).author == author)

    def wanted_payloads(self) -> list[Header]:
        """Headers whose payload is not here yet, lowest round first."""
        if self._wanted is None:
            waiting = (self.header(id) for id in self._pending)
            wanted = (header for header in waiting if not self._has_payload_of(header))
            self._wanted = sorted(wanted, key=lambda header: (header.round, header.payload))
        return self._wanted

    def wanted_parents(self) -> list[bytes]:
        """Ids of parents that nobody has sent yet, sorted."""
        if self._orphaned is None:
            self._orphaned = sorted(self._children.keys() - self._headers.keys())
        return self._orphaned

    def _waits_change(self) -> None:
        """Forgets what was worked out of what pending headers wait for."""
        self._wanted = self._orphaned = None

    def _waiting_like(self, checked: Header) -> list[bytes]:
        """Ids of pending headers that say the same of the same payload."""
        said = checked.payload, self._use(checked)
        waiting = ((id, self.header(id)) for id in self._pending)
        return [id for id, header in waiting if (header.payload, self._use(header)) == said]

    # What changes.

    def _keep(self, record: Record, parents: Iterable[bytes]) -> None:
        """Takes a header; it waits for those of some parents that are not in the set."""
        header = header_of(record)
        self._waits_change()
        self._headers[record.id] = record
        self._bodies.setdefault(slot(header), []).append(record.id)
        self._successors.setdefault((header.author, header.prev), []).append(record.id)
        self._pending[record.id] = header.round
        if not header.is_null:
            self._naming.setdefault(header.payload, set()).add(record.id)
        for parent in set(parents) - self._set:
            self._children.setdefault(parent, set()).add(record.id)

    def _enter(self, id: bytes, header: Header) -> None:
        """Lets a delta into the set."""
        self._waits_change()
        del self._pending[id]
        self._set.add(id)
        self._rounds.setdefault(header.round, set()).add(id)

    def _free_of_parents(self, id: bytes) -> None:
        """Lets a header wait for its parents no more."""
        for parent in self.header(id).parents:
            children = self._children.get(parent)
            if children is not None:
                children.discard(id)
                if not children:
                    del self._children[parent]

    def _remove(self, id: bytes) -> bytes | None:
        """Forgets a header; returns its payload if no other names that."""
        self._waits_change()
        self._free_of_parents(id)
        header = header_of(self._headers.pop(id))
        _take_out(self._bodies, slot(header), id)
        _take_out(self._successors, (header.author, header.prev), id)
        self._pending.pop(id, None)
        if id in self._set:
            self._set.discard(id)
            self._rounds[header.round].discard(id)
            if not self._rounds[header.round]:
                del self._rounds[header.round]
        if header.is_null:
            return None
        self._naming[header.payload].discard(id)
        if self._naming[header.payload]:
            return None
        del self._naming[header.payload]
        self._payloads.pop(header.payload, None)
        return header.payload


def header_of(record: Record) -> Header:
    """The header that a record is."""
    assert isinstance(record.body, Header)
    return record.body


def slot(header: Header) -> tuple[bytes, int]:
    """Where an author may have one delta."""
    return header.author, header.round


def _take_out(index: dict[K, list[bytes]], key: K, id: bytes) -> None:
    index[key].remove(id)
    if not index[key]:
        del index[key]
