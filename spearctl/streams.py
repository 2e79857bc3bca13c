"""Standard streams that are always there, and an stderr whose failures end nothing.

What is told on the way goes to stderr. Where that is a file on a full disk, or a pipe that nobody reads, the work and
its exit code count more than the telling.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, TextIO, cast


class Lenient:
    """A stream that is written to as far as that goes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes; says that it did in any case."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Writes what is waiting, as far as that goes."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def settle() -> None:
    """Replaces the streams of this process: those that were closed, and an stderr that might raise.

    A character that a terminal lacks gets its code. What is written to a closed stdout fails as on a full disk.
    """
    # In this order, each takes the lowest number that is free: its own, which no file may take that is opened later.
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY))
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # both are text files here
    sys.stderr = cast("TextIO", Lenient(sys.stderr))
