"""What a member keeps, as its logic sees it: small values, records, blobs. ``p2p.ledger`` keeps them on a disk.

Writes of one step become durable together at ``commit``, and only after it may anything be sent that depends on them.
Blobs are named by what they must hash to; writing one again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from p2p.records import Record, Signed


class Storage(Protocol):
    """The disk of one member."""

    @property
    def is_suspect(self) -> bool:
        """Whether this may be a copy or an old backup of what was written last."""

    def commit(self) -> None:
        """Makes everything written since the last commit durable, all or nothing."""

    # Small values.

    def get(self, key: str) -> bytes | None:
        """The value under a key."""

    def put(self, key: str, value: bytes) -> None:
        """Sets a value."""

    def delete(self, key: str) -> None:
        """Removes a value, if it is there."""

    def keys(self, prefix: str) -> tuple[str, ...]:
        """All keys that begin so, sorted."""

    # Records.

    def add_record(self, record: Record) -> None:
        """Keeps a record."""

    def remove_record(self, id: bytes) -> None:
        """Removes a record, if it is there."""

    def records(self) -> Iterator[Signed]:
        """All records, in the order in which they came."""

    # Blobs.

    def has_blob(self, name: bytes) -> bool:
        """Whether a blob is whole."""

    def read_blob(self, name: bytes) -> bytes:
        """A whole blob.

        Raises:
            LedgerError: It is not there.
        """

    def write_blob(self, name: bytes, raw: bytes) -> None:
        """Keeps a whole blob."""

    def remove_blob(self, name: bytes) -> None:
        """Removes a blob, or what there is of it."""

    def blobs(self) -> tuple[bytes, ...]:
        """The names of all whole blobs."""

    def blob_bytes(self, name: bytes) -> int:
        """The size of a whole blob; 0 if it is not there."""

    def read_chunk(self, name: bytes, offset: int, size: int) -> bytes:
        """A piece of a whole blob; empty if it is not there."""

    def partial_bytes(self, name: bytes) -> int:
        """How much of an unfinished blob is there."""

    def write_partial(self, name: bytes, offset: int, data: bytes) -> None:
        """Adds to an unfinished blob at an offset; what was behind it is gone."""

    def read_partial(self, name: bytes) -> bytes:
        """What there is of an unfinished blob."""
