"""A disk that can fail in the middle of a step: ``tests.memory``, with a fuse and a witness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from p2p.records import Record
from tests.memory import MemoryStorage


class PowerCutError(BaseException):
    """The power goes now. No ``Exception``, so that nobody catches it on the way."""


class Disk(MemoryStorage):
    """The disk of a device.

    Attributes:
        fuse: After so many more writes the power goes; None for never.
        news: Records written since the last commit.
        blobs_written: Blobs written since the last commit.
        on_commit: Called after every commit that wrote anything.
    """

    def __init__(self, on_commit: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.fuse: int | None = None
        self.news: list[Record] = []
        self.blobs_written: list[tuple[bytes, bytes]] = []
        self.on_commit = on_commit

    def commit(self) -> None:
        if not self._journal:
            return
        self._burn()
        super().commit()
        self.on_commit()
        self.news, self.blobs_written = [], []

    def crash(self, *, blobs_stay: bool = False) -> None:
        super().crash(blobs_stay=blobs_stay)
        self.fuse = None
        self.news, self.blobs_written = [], []

    def add_record(self, record: Record) -> None:
        super().add_record(record)
        self.news.append(record)

    def write_blob(self, name: bytes, raw: bytes) -> None:
        super().write_blob(name, raw)
        self.blobs_written.append((name, raw))

    def blob_names(self) -> frozenset[bytes]:
        """Names of everything that takes up room: whole blobs, and pieces."""
        return frozenset((*self._blobs, *self._partials))

    def bytes_used(self) -> int:
        """By blobs and pieces."""
        return sum(map(len, self._blobs.values())) + sum(map(len, self._partials.values()))

    def _set(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        self._burn()
        super()._set(table, key, value)

    def _burn(self) -> None:
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                raise PowerCutError
