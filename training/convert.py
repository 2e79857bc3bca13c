"""Preference data of other programs, in TRL's formats, as a feedback log.

Rows stand one a line (JSON Lines) or in one JSON array; `training.trl` tells what a row may be. Both kinds of rows may
stand in one file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from training.errors import FeedbackError
from training.feedback import Entry
from training.lines import MAX_LINE_BYTES, failure, open_regular, read_lines
from training.log import Log, Problem
from training.parsing import encode_entry, json_error, line_text, reason
from training.trl import entry_of

MAX_ARRAY_BYTES = 1 << 28
"""Largest file that is read as one JSON array: unlike lines, it has to be in memory at once."""

_FOREIGN = {b"PAR1": "a Parquet file", b"\x1f\x8b": "compressed with gzip", b"PK\x03\x04": "a zip archive"}
_SPACE = re.compile(r"\s*")
# Python refuses very long integers; as floats they pass, and no column that is used holds a number.
_decoder = json.JSONDecoder(parse_int=float)


def convert(path: str | os.PathLike[str], *, max_line_bytes: int = MAX_LINE_BYTES) -> Log:
    """Read rows of TRL's formats as entries of a feedback log.

    Rows with the same prompt and completions become one entry, contradictory labels side by side.

    Args:
        path: The rows, as JSON Lines or one JSON array.
        max_line_bytes: Longest line that is read, and longest line that an entry may become.

    Returns:
        The entries, and the rows that could not be used with the line on which they start; `lines` is the line on
        which the last row starts. A last line without a newline is read too.

    Raises:
        FeedbackError: The file is missing, is not a regular file, is no text or cannot be read. Never because of a
            bad row.
    """
    path = Path(path)
    entries: dict[str, Entry] = {}
    problems: list[Problem] = []
    lines = 0
    try:
        with open(open_regular(path, os.O_RDONLY), "rb") as file:
            for lines, text in _rows(file, path, max_line_bytes):
                try:
                    if isinstance(text, FeedbackError):
                        raise text
                    if text:
                        _add(entries, entry_of(_decode(text)), max_line_bytes)
                except FeedbackError as error:
                    problems.append(Problem(lines, reason(error)))
    except OSError as error:
        raise failure(path, error) from error
    return Log(path, tuple(entries.values()), tuple(problems), lines, unfinished=False)


def _add(entries: dict[str, Entry], entry: Entry, max_line_bytes: int) -> None:
    """Add an entry, or what it says of a known one. Not `merge`: of two labels for one answer none is a correction."""
    known = entries.get(entry.id, entry)
    attempts = tuple(dict.fromkeys(known.attempts + entry.attempts))
    united = Entry(v=1, id=known.id, prompt=known.prompt, messages=known.messages, attempts=attempts)
    encode_entry(united, max_line_bytes=max_line_bytes)
    entries[entry.id] = united


def _decode(text: str) -> object:
    try:
        return _decoder.decode(text)
    except (ValueError, RecursionError) as error:
        raise json_error(text, error) from error


def _rows(file: BinaryIO, path: Path, max_line_bytes: int) -> Iterator[tuple[int, str | FeedbackError]]:
    """The text of each row, or why there is none, with the line on which it starts. Blank lines are empty rows."""
    start = file.read(1 << 12)
    for magic, kind in _FOREIGN.items():
        if start.startswith(magic):
            hint = "export it as JSON Lines first, for example with datasets' Dataset.to_json"
            raise FeedbackError(f"{path} is {kind}, not JSON", hint)
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        yield from _array_rows(_read_array(file, path))
        return
    for line in read_lines(file, max_line_bytes=max_line_bytes):
        try:
            yield line.number, line_text(line, max_line_bytes=max_line_bytes)
        except FeedbackError as error:
            yield line.number, error


def _read_array(file: BinaryIO, path: Path) -> str:
    size_bytes = os.fstat(file.fileno()).st_size
    if size_bytes > MAX_ARRAY_BYTES:
        what = f"{path} is one JSON array of {size_bytes:,} bytes, more than the {MAX_ARRAY_BYTES:,} that are read"
        raise FeedbackError(what, "write it as JSON Lines, one row a line: jq -c '.[]'")
    file.seek(0)
    # Bytes that are not UTF-8 stay in their row and are found there.
    return file.read(MAX_ARRAY_BYTES).removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def _array_rows(text: str) -> Iterator[tuple[int, str | FeedbackError]]:
    """The rows of a JSON array, up to where it stops being one."""
    position, line, counted = text.index("[") + 1, 1, 0
    while True:
        start = _skip_space(text, position)
        line, counted = line + text.count("\n", counted, start), start
        if text.startswith("]", start):
            break
        try:
            _, end = _decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            deep = isinstance(error, RecursionError)
            what = "this row is nested too deeply" if deep else f"the array is not JSON from here on ({error})"
            yield line, FeedbackError(what, "correct it: the rows after it were not read")
            return
        yield line, text[start:end]
        position = _skip_space(text, end)
        if text.startswith(",", position):
            position += 1
        elif not text.startswith("]", position):
            yield line, FeedbackError("the array stops behind this row", "complete it: what follows was not read")
            return
    if text[start + 1 :].strip():
        yield line, FeedbackError("text follows the end of the array", "write everything in one array")


def _skip_space(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    return space.end() if space else position
