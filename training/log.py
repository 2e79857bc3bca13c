"""The feedback log: JSON Lines that are only ever appended to, read to the last whole line.

A line that cannot be used never stops a reader and is never lost: it becomes a `Problem` with its number and a reason.
Writers take turns under a lock of the kernel, which a kill releases. What `append` returned from is on the disk.

Not covered: programs that write to the log without the lock (a line of theirs stays whole if they write it at once
with O_APPEND, but may be lost if it comes in the instant in which `forget` puts the new file in place), network
file systems without locks, and disks that lie about fsync. `forget` cannot tell whose a line is that is cut,
too long or not UTF-8: such a line stays, and reading the log names it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from training.errors import FeedbackError
from training.feedback import Entry, merge
from training.lines import MAX_LINE_BYTES, Line, failure, open_regular, read_lines
from training.parsing import encode_entry, entry_id, line_text, parse_entry, plain, reason

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Problem:
    """A line that could not be used.

    Attributes:
        line: Its number in the file, 1 for the first; blank and bad lines count.
        reason: What is wrong with it and what to do, for a person.
    """

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Log:
    """What a log says.

    Attributes:
        path: The file.
        entries: Its entries, lines of one id merged, in the order in which the ids first appear.
        problems: The lines that could not be used, in the order of the file.
        lines: How many finished lines the file has, blank and bad ones included.
        unfinished: Whether text without a newline follows the last one. It was left unread: somebody may be
            writing it at this moment.
    """

    path: Path
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...]
    lines: int
    unfinished: bool


def read_log(path: str | os.PathLike[str], *, max_line_bytes: int = MAX_LINE_BYTES) -> Log:
    """Read a log to the last whole line that it has now.

    Args:
        path: The log.
        max_line_bytes: Longer lines are passed over and reported; memory beside the entries stays near this.

    Returns:
        Its entries and problems.

    Raises:
        FeedbackError: The file is missing, is not a regular file or cannot be read. Never because of what it holds.
    """
    path = Path(path)
    try:
        with open(open_regular(path, os.O_RDONLY), "rb") as file:
            return read_open_log(file, path, max_line_bytes=max_line_bytes)
    except OSError as error:
        raise failure(path, error) from error


def read_open_log(file: BinaryIO, path: Path, *, max_line_bytes: int = MAX_LINE_BYTES) -> Log:
    """The same for a file that is open already, whatever name it has by now.

    Args:
        file: The log, open for reading.
        path: What it is called in messages.
        max_line_bytes: As for `read_log`.

    Raises:
        FeedbackError: It cannot be read.
    """
    told: dict[str, list[Entry]] = {}
    first: dict[str, int] = {}
    problems: list[Problem] = []
    lines, unfinished = 0, False
    try:
        for line in read_lines(file, max_line_bytes=max_line_bytes):
            if not line.finished:
                unfinished = True
                break
            lines = line.number
            try:
                if text := line_text(line, max_line_bytes=max_line_bytes):
                    entry = parse_entry(text)
                    _require_same_prompt(entry, told.get(entry.id), first.setdefault(entry.id, line.number))
                    told.setdefault(entry.id, []).append(entry)
            except FeedbackError as error:
                problems.append(Problem(line.number, reason(error)))
    except OSError as error:
        raise failure(path, error) from error
    entries = tuple(merge(*group) for group in told.values())
    return Log(path, entries, tuple(problems), lines, unfinished)


def _require_same_prompt(entry: Entry, known: list[Entry] | None, first_line: int) -> None:
    if known and known[0].conversation != entry.conversation:
        what = f"the id {plain(repr(entry.id))} already has another prompt, in line {first_line}"
        raise FeedbackError(what, "give this entry an id of its own")


def append(path: str | os.PathLike[str], entries: Iterable[Entry], *, max_line_bytes: int = MAX_LINE_BYTES) -> int:
    """Add entries to the end of a log, all of them or none, and have them on the disk before returning.

    The log is created if it is missing, for its owner alone (0600). Where it ends in an unfinished line, that one is
    ended first, so that nothing is glued to it.

    Args:
        path: The log.
        entries: What to add, one line each.
        max_line_bytes: Longest line, its newline not counted.

    Returns:
        How many lines were added.

    Raises:
        FeedbackError: The log cannot be written, or an entry cannot be stored as a line that reads back. Then nothing
            was added.
    """
    lines = [encode_entry(entry, max_line_bytes=max_line_bytes) for entry in entries]
    if not lines:
        return 0
    path = Path(path)
    try:
        with _locked(path, os.O_RDWR | os.O_APPEND | os.O_CREAT) as handle:
            size_bytes = os.fstat(handle).st_size
            glued = size_bytes > 0 and os.pread(handle, 1, size_bytes - 1) != b"\n"
            _write_or_undo(handle, size_bytes, b"\n" * glued + b"\n".join(lines) + b"\n")
            if size_bytes == 0:
                _sync_folder(path)
    except OSError as error:
        raise failure(path, error) from error
    return len(lines)


def forget(path: str | os.PathLike[str], ids: Iterable[str]) -> int:
    """Rewrite a log without the lines of some ids, and have the new one on the disk before returning.

    Every line that names such an id goes, also one that cannot be used otherwise (an unknown version, another
    prompt). All other bytes stay as they are, those of bad lines and of an unfinished one included. The log keeps its
    permissions. A kill leaves the old log or the new one.

    Args:
        path: The log.
        ids: The entries to forget; ids that are not in it are no error.

    Returns:
        How many lines went.

    Raises:
        FeedbackError: The log is missing or cannot be rewritten. Then it is as it was.
    """
    unwanted = frozenset(ids)
    return _remove(Path(path), lambda lines: [line for line in lines if entry_id(line) in unwanted])


def retract(path: str | os.PathLike[str], entry: Entry) -> bool:
    """Rewrite a log without the last line that says just what an entry says, as `append` wrote it.

    Other lines of its id stay, so the entry is again what it was before that line. A kill leaves the old log or the
    new one.

    Args:
        path: The log.
        entry: As it was appended.

    Returns:
        Whether there was such a line.

    Raises:
        FeedbackError: The log is missing or cannot be rewritten. Then it is as it was.
    """
    said = encode_entry(entry)
    return _remove(Path(path), lambda lines: [line for line in lines if line.finished and line.data == said][-1:]) > 0


def _remove(path: Path, choose: Callable[[Iterator[Line]], list[Line]]) -> int:
    """Take the chosen lines out of a log, and say how many they were."""
    try:
        with _locked(path, os.O_RDWR) as handle:
            with open(handle, "rb", closefd=False) as file:
                going = [(line.start, line.end) for line in choose(read_lines(file))]
            if going:
                _replace_without(path, handle, going)
    except OSError as error:
        raise failure(path, error) from error
    return len(going)


@contextmanager
def _locked(path: Path, flags: int) -> Iterator[int]:
    """Open a log and hold its lock; waits for another writer."""
    while True:
        handle = open_regular(path, flags)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_at(path, handle):
                yield handle
                return
        finally:
            os.close(handle)


def _is_at(path: Path, handle: int) -> bool:
    """Whether the open file is still the one at the path: `forget` may have replaced it while the lock was awaited."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _write_or_undo(handle: int, size_bytes: int, data: bytes) -> None:
    """Have all of the data on the disk behind a file of the given size, or nothing of it in the file."""
    written = 0
    try:
        # One write as a rule, so that a reader hardly ever sees a part. It comes back early only on a full disk.
        while written < len(data):
            written += os.write(handle, memoryview(data)[written:])
        os.fsync(handle)
    except OSError:
        # Undone only where nobody without the lock has written behind it: their line is not ours to take.
        if os.fstat(handle).st_size == size_bytes + written:
            os.ftruncate(handle, size_bytes)
        raise


def _replace_without(path: Path, handle: int, going: list[tuple[int, int]]) -> None:
    """Put a copy without the given byte ranges, in ascending order, in the place of the file."""
    path = Path(os.path.realpath(path))  # a link to the log stays a link
    new = path.with_name(path.name + ".forget")  # always the same name: what a kill left behind is overwritten
    target = open_regular(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW)
    try:
        try:
            os.fchmod(target, os.fstat(handle).st_mode & 0o777)
            position = 0
            for start, end in going:
                _copy(handle, target, position, start)
                position = end
            _copy(handle, target, position, None)
            os.fsync(target)
        finally:
            os.close(target)
        os.replace(new, path)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise
    _sync_folder(path)


def _copy(source: int, target: int, start: int, end: int | None) -> None:
    """Copy the bytes from `start` to `end`, or to where the source ends by now."""
    while end is None or start < end:
        piece = os.pread(source, _CHUNK_BYTES if end is None else min(_CHUNK_BYTES, end - start), start)
        if not piece:
            return
        start += len(piece)
        while piece:
            piece = piece[os.write(target, piece) :]


def _sync_folder(path: Path) -> None:
    """Have the name of a new file on the disk, not only its contents."""
    folder = os.open(Path(os.path.realpath(path)).parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
