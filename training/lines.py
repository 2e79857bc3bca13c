"""The physical lines of a file, one at a time, in bounded memory.

It does not cover who else writes to the file: a reader sees it as long as it was when the reading began.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from training.errors import FeedbackError

MAX_LINE_BYTES = 1 << 20
"""Longest line that is read or written, in bytes, its newline not counted."""

_CHUNK_BYTES = 1 << 16
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line as it lies in the file.

    Attributes:
        number: 1 for the first line; blank and bad lines count.
        start: Offset of its first byte, in bytes.
        end: Offset just behind its newline, in bytes.
        data: The bytes without the newline (and, in the first line, without a byte-order mark); None where the line
            is longer than the limit and was passed over.
        finished: Whether it ends in a newline. Only the last line may not.
    """

    number: int
    start: int
    end: int
    data: bytes | None
    finished: bool


def read_lines(file: BinaryIO, *, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Line]:
    """Go through a file from its start to the end it has now; what is appended meanwhile is left for another time.

    Memory stays near `max_line_bytes`, however long a line is. Only a line feed (0x0a) ends a line.
    """
    size_bytes = os.fstat(file.fileno()).st_size
    file.seek(0)
    number, start = 0, 0
    while start < size_bytes:
        number += 1
        data: bytes | None = file.readline(min(max_line_bytes + 1, size_bytes - start))
        if not data:  # somebody cut the file meanwhile
            return
        end, finished = start + len(data), data.endswith(b"\n")
        if not finished and len(data) > max_line_bytes:
            data = None
            end, finished = _pass_over(file, end, size_bytes)
        elif finished:
            data = data[:-1]
        if data is not None and number == 1:
            data = data.removeprefix(_BOM)
        yield Line(number=number, start=start, end=end, data=data, finished=finished)
        start = end


def _pass_over(file: BinaryIO, position: int, size_bytes: int) -> tuple[int, bool]:
    """Read on to the end of a line that is too long; returns the offset behind it and whether it had a newline."""
    while piece := file.readline(min(_CHUNK_BYTES, size_bytes - position)):
        position += len(piece)
        if piece.endswith(b"\n"):
            return position, True
    return position, False


def open_regular(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a regular file and nothing else; never waits, also not for the other end of a pipe.

    Args:
        path: The file.
        flags: As for `os.open`.
        mode: Permission bits of a file that this creates.

    Returns:
        A file descriptor, not inherited by child processes.

    Raises:
        FeedbackError: It cannot be opened, or is a folder, a pipe or a device.
    """
    try:
        handle = os.open(path, flags | os.O_NONBLOCK, mode)
    except (OSError, ValueError) as error:
        raise failure(path, error) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        os.close(handle)
        kind = "a folder" if is_folder else "a pipe or a device"
        raise FeedbackError(
            f"{path} is {kind}, not a file", "name a file in it" if is_folder else "write it to a file first"
        )
    return handle


def failure(path: Path, error: OSError | ValueError) -> FeedbackError:
    """What the operating system refused, for a person: the place, its words, and what to do where that is known."""
    if not isinstance(error, OSError):
        return FeedbackError(f"{str(path)!r} is no file name: {error}", "give the path of a file")
    name = shlex.quote(str(path))
    hints = {
        errno.ENOENT: "check the path",
        errno.EISDIR: "name a file in it",
        errno.ENXIO: "write it to a file first",
        errno.EACCES: f"let yourself read and write it: chmod u+rw {name}",
        errno.EPERM: f"let yourself read and write it: chmod u+rw {name}",
        errno.ENOSPC: f"free some space where {name} lies, then try again",
        errno.EDQUOT: f"free some space where {name} lies, then try again",
        errno.EROFS: "choose a path on a disk that can be written to",
    }
    why = os.strerror(error.errno) if error.errno else str(error)
    return FeedbackError(f"{path}: {why}", hints.get(error.errno or 0))
