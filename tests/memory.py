"""``p2p.storage.Storage`` in memory, for the simulator: a crash costs what was changed, not what is there."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

from p2p.errors import LedgerError
from p2p.records import Record, Signed


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a storage held, as a backup of it has it."""

    values: dict[str, bytes]
    records: dict[bytes, tuple[int, Signed]]
    blobs: dict[bytes, bytes]
    partials: dict[bytes, bytes]


class MemoryStorage:
    """The disk of one member, without a disk.

    Attributes:
        is_suspect: Whether a snapshot was restored since it was last accepted as own.
    """

    def __init__(self) -> None:
        self.is_suspect = False
        self._values: dict[str, bytes] = {}
        self._records: dict[bytes, tuple[int, Signed]] = {}
        self._blobs: dict[bytes, bytes] = {}
        self._partials: dict[bytes, bytes] = {}
        self._journal: list[tuple[dict[Any, Any], Any, Any]] = []
        self._sorted: list[str] | None = None
        self._came = 0

    # What a disk can suffer.

    def crash(self, *, blobs_stay: bool = False) -> None:
        """Undoes everything since the last commit.

        Args:
            blobs_stay: As when the process is killed and the disk is not: blobs and pieces that were written stay.
        """
        for table, key, before in reversed(self._journal):
            if blobs_stay and (table is self._partials or (table is self._blobs and before is None)):
                continue
            _assign(table, key, before)
        self._journal.clear()
        self._sorted = None

    def rollback(self) -> None:
        """Undoes everything since the last commit; blobs that it wrote stay."""
        self.crash(blobs_stay=True)

    def snapshot(self) -> Snapshot:
        """A backup of what was committed; to be made between steps."""
        assert not self._journal, "a backup in the middle of a step"
        return Snapshot(dict(self._values), dict(self._records), dict(self._blobs), dict(self._partials))

    def restore(self, snapshot: Snapshot) -> None:
        """Makes this the copy that a snapshot is, of this storage or of another one."""
        self._values, self._records = dict(snapshot.values), dict(snapshot.records)
        self._blobs, self._partials = dict(snapshot.blobs), dict(snapshot.partials)
        self._came = max((place for place, _ in self._records.values()), default=0)
        self._journal.clear()
        self._sorted = None
        self.is_suspect = True

    def accept_as_own(self) -> None:
        """What was written last is known to be here."""
        self.commit()
        self.is_suspect = False

    # What ``p2p.storage.Storage`` says.

    def commit(self) -> None:
        self._journal.clear()

    def get(self, key: str) -> bytes | None:
        return self._values.get(key)

    def put(self, key: str, value: bytes) -> None:
        if key not in self._values:
            self._sorted = None
        self._set(self._values, key, value)

    def delete(self, key: str) -> None:
        if key in self._values:
            self._sorted = None
            self._set(self._values, key, None)

    def keys(self, prefix: str) -> tuple[str, ...]:
        if self._sorted is None:
            self._sorted = sorted(self._values)
        start = bisect.bisect_left(self._sorted, prefix)
        end = bisect.bisect_left(self._sorted, prefix + "\U0010ffff")
        return tuple(self._sorted[start:end])

    def add_record(self, record: Record) -> None:
        if record.id not in self._records:
            self._came += 1
            self._set(self._records, record.id, (self._came, record.signed))

    def remove_record(self, id: bytes) -> None:
        self._set(self._records, id, None)

    def records(self) -> Iterator[Signed]:
        return (signed for _, signed in sorted(self._records.values(), key=lambda row: row[0]))

    def has_blob(self, name: bytes) -> bool:
        return name in self._blobs

    def read_blob(self, name: bytes) -> bytes:
        if name not in self._blobs:
            raise LedgerError(f"blob {name.hex()}: not there")
        return self._blobs[name]

    def write_blob(self, name: bytes, raw: bytes) -> None:
        if not raw:
            raise ValueError("an empty blob")
        self._set(self._blobs, name, bytes(raw))
        self._set(self._partials, name, None)

    def remove_blob(self, name: bytes) -> None:
        self._set(self._blobs, name, None)
        self._set(self._partials, name, None)

    def blobs(self) -> tuple[bytes, ...]:
        return tuple(sorted(self._blobs))

    def blob_bytes(self, name: bytes) -> int:
        return len(self._blobs.get(name, b""))

    def read_chunk(self, name: bytes, offset: int, size: int) -> bytes:
        return self._blobs.get(name, b"")[offset : offset + size]

    def partial_bytes(self, name: bytes) -> int:
        return len(self._partials.get(name, b""))

    def write_partial(self, name: bytes, offset: int, data: bytes) -> None:
        have = self._partials.get(name, b"")
        if offset > len(have):
            self.rollback()
            raise LedgerError(f"blob {name.hex()}: a piece at {offset:,} where only {len(have):,} bytes are")
        self._set(self._partials, name, have[:offset] + data)

    def read_partial(self, name: bytes) -> bytes:
        return self._partials.get(name, b"")

    # What only a ledger has otherwise.

    def tidy(self, referenced: Set[bytes]) -> None:
        """Removes blobs that nothing refers to."""
        for name in {*self._blobs, *self._partials} - referenced:
            self.remove_blob(name)

    def _set(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        self._journal.append((table, key, table.get(key)))
        _assign(table, key, value)


def _assign(table: dict[Any, Any], key: Any, value: Any) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value
