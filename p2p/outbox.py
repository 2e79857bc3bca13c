"""What this device learned, until it is signed: increments come in once, deltas go out once, nothing gets lost between.

    increment --add--> pending --sign--> own delta, unsealed --> sealed
                          ^                      |
                          +----- give back ------+   (a seal left it out)

Each arrow is one durable step. What a delta cannot carry (rounding, the clip to the norm bound, tensors that do not
travel in its round) stays pending.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct

from p2p.codec import decode_payload, encode_payload
from p2p.encoding import decode, encode
from p2p.grid import to_fine
from p2p.pending import Pending
from p2p.records import NONE, Genesis, Header, Record, sign_record
from p2p.storage import Storage

_PENDING = "pending"
_BASE = "pending/base"
_CARRIED = "carried"
_LAST = "own/last"
_UNSEALED = "own/delta/"
_INCREMENT = "increment/"


class Last(Struct, frozen=True, array_like=True):
    """The last delta that this author ever signed."""

    round: int = 0
    id: bytes = NONE


class Own(Struct, frozen=True, array_like=True):
    """An own delta that is not sealed."""

    round: int
    payload: bytes
    wins: int


@dataclass(frozen=True, slots=True)
class Author:
    """Who signs.

    Attributes:
        key: Its Ed25519 key.
        node: Its id.
        certificate: Id of its certificate.
    """

    key: Ed25519PrivateKey
    node: bytes
    certificate: bytes


class Outbox:
    """The pending learning and the unsealed deltas of one member. The caller commits.

    Args:
        genesis: The swarm's.
        storage: Where it is kept.

    Attributes:
        wins: What the pending learning was learned from.
    """

    def __init__(self, genesis: Genesis, storage: Storage) -> None:
        self._genesis = genesis
        self._hash = genesis.hash
        self._storage = storage
        self.wins = self.pending.wins

    @property
    def pending(self) -> Pending:
        """What was learned and is not signed. Read from the disk each time: it is larger than all else in memory."""
        return self._read(self._storage.get(_PENDING)) or Pending.empty(self._genesis)

    @property
    def last(self) -> Last:
        """The last delta that was ever signed."""
        raw = self._storage.get(_LAST)
        return decode(raw, Last, 1024) if raw else Last()

    @property
    def base(self) -> int:
        """The highest head round that anything of what was learned here was learned on."""
        raw = self._storage.get(_BASE)
        return decode(raw, int, 16) if raw else 0

    def add(self, id: str, increment: npt.NDArray[np.float32], wins: int, base: int = 0) -> bool:
        """Takes an increment, once; whether it was new.

        Args:
            id: Unique.
            increment: ``[parameters]``.
            wins: What it was learned from.
            base: The head round of the state that it was learned on.

        Raises:
            PayloadError: It is not finite, or beyond the grid.
        """
        key = _INCREMENT + id
        if self._storage.get(key) is not None:
            return False
        self._keep(self.pending.plus(to_fine(increment, self._genesis), wins))
        self._storage.put(key, str(wins).encode())
        if base > self.base:
            self._storage.put(_BASE, encode(base))
        return True

    def knows(self, id: str) -> bool:
        """Whether an increment was taken."""
        return self._storage.get(_INCREMENT + id) is not None

    def sign(self, author: Author, round: int, parents: tuple[bytes, ...], base_state: bytes, *, null: bool) -> Record:
        """Signs a delta with all that is pending, or a null delta."""
        payload, wins, raw = NONE, 0, b""
        if not null:
            values, wins, rest = self.pending.take(self._genesis, round)
            raw = encode_payload(values, self._genesis.travelling(round))
            payload = hashlib.sha256(raw).digest()
            self._storage.write_blob(payload, raw)
            self._keep(rest)
        header = Header(
            genesis=self._hash,
            author=author.node,
            round=round,
            prev=self.last.id,
            parents=parents,
            certificate=author.certificate,
            wins=wins,
            payload=payload,
            payload_bytes=len(raw),
            base_state=base_state,
        )
        record = sign_record(author.key, header)
        self._storage.add_record(record)
        self._storage.put(_LAST, encode(Last(round, record.id)))
        if not null:
            self._storage.put(_UNSEALED + record.id.hex(), encode(Own(round, payload, wins)))
        return record

    def adopt(self, record: Record, *, is_open: bool) -> bool:
        """Takes note of an own delta that this home does not know: it is a copy or an old backup.

        What was pending when this home was opened went into that delta, so it is not pending any more.

        Args:
            record: Its header.
            is_open: Whether it lies above the last seal, so that its fate is not decided.

        Returns:
            Whether it was new here.
        """
        header, last = record.body, self.last
        assert isinstance(header, Header)
        key = _UNSEALED + record.id.hex()
        is_newest = header.round > last.round
        is_learning = is_open and not header.is_null and self._storage.get(key) is None
        if is_newest:
            self._storage.put(_LAST, encode(Last(header.round, record.id)))
        if is_learning:
            self._storage.put(key, encode(Own(header.round, header.payload, header.wins)))
        # A null delta that does not follow the last one known has others before it, which may hold what was pending.
        if is_learning or (is_open and is_newest and header.prev != last.id):
            self._let_go_of_carried()
        return is_newest or is_learning

    def saw(self, round: int, id: bytes) -> None:
        """Takes note of an own delta that a seal names."""
        if round > self.last.round:
            self._storage.put(_LAST, encode(Last(round, id)))
            self._let_go_of_carried()

    def opened(self, *, is_suspect: bool) -> None:
        """Remembers what is pending in a home that may be a copy or an old backup, for ``adopt``.

        What it learns from now on is not part of that, however often it is opened again.
        """
        if not is_suspect:
            self.cleared()
        elif self._storage.get(_CARRIED) is None:
            self._storage.put(_CARRIED, self._storage.get(_PENDING) or NONE)

    def cleared(self) -> None:
        """Takes note that there is nothing left to adopt."""
        name = self._storage.get(_CARRIED)
        if name is not None:
            self._storage.delete(_CARRIED)
            if name and name != self._storage.get(_PENDING):
                self._storage.remove_blob(name)

    def blobs(self) -> set[bytes]:
        """Names of the blobs that it needs."""
        names = {self._storage.get(_PENDING), self._storage.get(_CARRIED)}
        return {name for name in names if name} | {own.payload for own in self.unsealed().values()}

    def unsealed(self) -> dict[bytes, Own]:
        """Own deltas that are not sealed, by id."""
        found = {}
        for key in self._storage.keys(_UNSEALED):
            raw = self._storage.get(key)
            assert raw is not None
            found[bytes.fromhex(key.removeprefix(_UNSEALED))] = decode(raw, Own, 1024)
        return found

    def sealed(self, id: bytes) -> None:
        """Takes note that a seal counts an own delta."""
        self._storage.delete(_UNSEALED + id.hex())

    def give_back(self, id: bytes) -> bool:
        """Makes an own delta pending again that a seal left out; False if its payload never came here.

        That is so only for one that an older copy of this home did not know.
        """
        own = self.unsealed().get(id)
        if own is None:
            return True
        self._storage.delete(_UNSEALED + id.hex())
        if not self._storage.has_blob(own.payload):
            return False
        tensors = self._genesis.travelling(own.round)
        values = decode_payload(self._storage.read_blob(own.payload), tensors, self._genesis.norm_bound)
        self._keep(self.pending.give_back(self._genesis, own.round, values, own.wins))
        return True

    def _let_go_of_carried(self) -> None:
        """Takes out of pending, once, what was pending when the home was opened."""
        name = self._storage.get(_CARRIED)
        if not name:
            return
        carried = self._read(name)
        assert carried is not None
        self._storage.put(_CARRIED, NONE)
        pending = self.pending
        self._keep(Pending(pending.values - carried.values, max(0, pending.wins - carried.wins)))
        if name != self._storage.get(_PENDING):
            self._storage.remove_blob(name)

    def _read(self, name: bytes | None) -> Pending | None:
        return Pending.from_bytes(self._storage.read_blob(name), self._genesis) if name else None

    def _keep(self, pending: Pending) -> None:
        raw = pending.to_bytes()
        name = hashlib.sha256(raw).digest()
        before = self._storage.get(_PENDING)
        self._storage.write_blob(name, raw)
        self._storage.put(_PENDING, name)
        if before is not None and before not in (name, self._storage.get(_CARRIED)):
            self._storage.remove_blob(before)
        self.wins = pending.wins
