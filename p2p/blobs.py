"""Blobs as files: ``HEX`` once whole, ``HEX.part`` while it comes in, ``HEX.new`` for the moment of writing it.

A whole blob is flushed before it gets its name, and its name is flushed before ``write`` returns. Pieces of an
unfinished one are flushed now and then only: a power cut may cost a few of them, or leave zeros in their place, and the
hash of the whole tells. An empty file is no blob.

Not covered: names that are other hashes than the SHA-256 of the bytes, which is for those to check who know them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from p2p.errors import LedgerError
from p2p.faults import reach
from p2p.limits import MIB

FLUSH_BYTES = 4 * MIB
"""An unfinished blob is flushed whenever it has grown past another so many bytes."""

_NAME = re.compile(r"([0-9a-f]{64})(\.part|\.new)?")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


class Blobs:
    """The blobs in one folder.

    Args:
        folder: Holds nothing else. Need not be there until something is written.

    Raises:
        LedgerError: From any method: the disk is full, read-only or broken.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> tuple[bytes, ...]:
        """All whole blobs, sorted."""
        return tuple(name for name in self._named(None) if self.size(name))

    def partials(self) -> tuple[bytes, ...]:
        """All unfinished blobs, sorted."""
        return self._named(".part")

    def size(self, name: bytes) -> int:
        """Bytes of a whole blob; 0 if it is not there."""
        return _size(self._path(name))

    def written_s(self, name: bytes) -> float | None:
        """When a whole blob was written, in Unix time, by this device's clock; None if it is not there."""
        path = self._path(name)
        with disk_errors(path), suppress(FileNotFoundError):
            return path.stat().st_mtime
        return None

    def read(self, name: bytes) -> bytes:
        """A whole blob.

        Raises:
            LedgerError: It is not there, or damaged.
        """
        path = self._path(name)
        with disk_errors(path):
            raw = path.read_bytes()
        if not raw:
            raise LedgerError(f"{path}: empty", "restore it from a backup")
        return raw

    def read_chunk(self, name: bytes, offset: int, size: int) -> bytes:
        """A piece of a whole blob; empty if it is not there."""
        path = self._path(name)
        with disk_errors(path), suppress(FileNotFoundError), open(path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), size, offset)
        return b""

    def write(self, name: bytes, raw: bytes) -> None:
        """Keeps a whole blob, durably; what there was of it is replaced.

        Raises:
            ValueError: It is empty.
        """
        if not raw:
            raise ValueError("an empty blob")
        path, new = self._path(name), self._path(name, ".new")
        with disk_errors(path):
            try:
                with _open(new, "wb") as file:
                    file.write(raw)
                    file.flush()
                    os.fsync(file.fileno())
                reach("blob.after-write")
                os.rename(new, path)
            except OSError:
                _remove(new)  # it may be what fills the disk
                raise
            flush_folder(self._folder)
        reach("blob.after-rename")
        self.remove_partial(name)

    def remove(self, name: bytes) -> None:
        """Removes a whole blob, if it is there and can be removed."""
        _remove(self._path(name))

    def partial_size(self, name: bytes) -> int:
        """Bytes of an unfinished blob; 0 if there is nothing of it."""
        return _size(self._path(name, ".part"))

    def read_partial(self, name: bytes) -> bytes:
        """What there is of an unfinished blob."""
        path = self._path(name, ".part")
        with disk_errors(path), suppress(FileNotFoundError):
            return path.read_bytes()
        return b""

    def write_partial(self, name: bytes, offset: int, data: bytes) -> None:
        """Adds to an unfinished blob at an offset; what was behind it is gone.

        Raises:
            LedgerError: There is less of it than ``offset``.
        """
        path = self._path(name, ".part")
        with disk_errors(path), _open(path, "ab") as file:
            have = file.tell()
            if offset > have:
                raise LedgerError(f"{path}: a piece at {offset:,} where only {have:,} bytes are", "fetch it again")
            file.truncate(offset)
            file.write(data)
            file.flush()
            if (offset + len(data)) // FLUSH_BYTES != offset // FLUSH_BYTES:
                os.fsync(file.fileno())
        reach("partial.after-write")

    def remove_partial(self, name: bytes) -> None:
        """Removes an unfinished blob, if it is there and can be removed."""
        _remove(self._path(name, ".part"))

    def check(self, is_sha256: Callable[[bytes], bool]) -> list[str]:
        """Reads all whole blobs, and says in words what is wrong here.

        Args:
            is_sha256: Whether a blob is named by the plain SHA-256 of its bytes.
        """
        problems = []
        for path, match in self._files():
            if match is None or match[2] == ".new":
                problems.append(f"{path}: of an interrupted write, or somebody else's")
            elif match[2] is None:
                name = bytes.fromhex(match[1])
                try:
                    raw = self.read(name)
                except LedgerError as error:
                    problems.append(error.message)
                else:
                    if is_sha256(name) and hashlib.sha256(raw).digest() != name:
                        problems.append(f"{path}: not what its name says")
        return problems

    def remove_interrupted(self) -> None:
        """Removes what interrupted writes left. Only for the one process that writes."""
        for name in self._named(".new"):
            _remove(self._path(name, ".new"))

    def _named(self, suffix: str | None) -> tuple[bytes, ...]:
        return tuple(bytes.fromhex(match[1]) for _, match in self._files() if match and match[2] == suffix)

    def _files(self) -> list[tuple[Path, re.Match[str] | None]]:
        with disk_errors(self._folder):
            names = sorted(os.listdir(self._folder)) if self._folder.exists() else []
        return [(self._folder / name, _NAME.fullmatch(name)) for name in names]

    def _path(self, name: bytes, suffix: str = "") -> Path:
        return self._folder / (name.hex() + suffix)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns what the system raises into a LedgerError.

    Args:
        path: What it is about.
    """
    try:
        yield
    except OSError as error:
        hint = "look at the disk and at what the system says about it"
        if isinstance(error, FileNotFoundError):
            hint = "restore it from a backup"
        elif error.errno in _FULL:
            hint = "free some disk space, then try again"
        elif error.errno in _FORBIDDEN:
            hint = "make it writable for you, or choose another place: spearctl --home DIR"
        raise LedgerError(f"{path}: {error.strerror or error}", hint) from error


def flush_folder(path: Path) -> None:
    """Makes the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _open(path: Path, mode: str) -> IO[bytes]:
    return open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))


def _size(path: Path) -> int:
    with disk_errors(path), suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _remove(path: Path) -> None:
    """Nothing depends on a removal, so one that fails is left to the next tidying up."""
    with suppress(OSError):
        path.unlink()
