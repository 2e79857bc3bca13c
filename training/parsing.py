"""One line of a feedback log to an entry and back, with reasons that a person understands when it cannot be."""

from __future__ import annotations

import json
import re
from typing import get_args

import msgspec

from training.checks import Check, Format
from training.errors import FeedbackError
from training.feedback import VERSION, Entry
from training.lines import MAX_LINE_BYTES, Line

_REASON_CHARACTERS = 300
_decoder = msgspec.json.Decoder(Entry)


class _Version(msgspec.Struct):
    v: int


class _Named(msgspec.Struct):
    id: str


def parse_entry(text: str) -> Entry:
    """Read one line of a log.

    Raises:
        FeedbackError: It is no entry of this version; message and hint are the reason.
    """
    try:
        return _decoder.decode(text)
    except msgspec.ValidationError as error:
        raise _version_error(text) or field_error(error) from error
    except Exception as error:
        # Broad on purpose: whatever a hostile line (or a check's own validation) raises, it must never end a run.
        raise json_error(text, error) from error


def encode_entry(entry: Entry, *, max_line_bytes: int = MAX_LINE_BYTES) -> bytes:
    """Write one entry as a line, without its newline, and make sure that it can be read back.

    Raises:
        FeedbackError: It holds what a log cannot hold, or is longer than a line may be.
    """
    try:
        data = msgspec.json.encode(entry)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        what, hint = "holds what JSON cannot hold", None
        if isinstance(error, UnicodeEncodeError):
            what, hint = "holds bytes that are not UTF-8 text", "give the text in UTF-8"
        raise FeedbackError(f"the entry {plain(repr(entry.id))} cannot be written: it {what}", hint) from error
    try:
        if len(data) > max_line_bytes:
            raise too_long(len(data), max_line_bytes)
        parse_entry(data.decode())
    except FeedbackError as error:
        what = f"the entry {plain(repr(entry.id))} cannot be written: {error.message}"
        raise FeedbackError(what, error.hint) from error
    return data


def line_text(line: Line, *, max_line_bytes: int = MAX_LINE_BYTES) -> str:
    """The text of a line; empty for a blank one.

    Raises:
        FeedbackError: The line is too long, holds NUL bytes or is not UTF-8.
    """
    if line.data is None:
        raise too_long(line.end - line.start - line.finished, max_line_bytes)
    if line.number == 1 and line.data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise FeedbackError("the file is UTF-16, not UTF-8", "save it as UTF-8")
    if b"\0" in line.data:
        raise FeedbackError("the line holds NUL bytes: it is damaged, or not UTF-8", "restore it, or delete it")
    try:
        return line.data.decode().strip()
    except UnicodeDecodeError as error:
        where = f"byte 0x{line.data[error.start]:02x} at position {error.start + 1}"
        raise FeedbackError(f"the line is not UTF-8 ({where})", "save the file as UTF-8") from error


def entry_id(line: Line) -> str | None:
    """The id that a line names, also where the line is no readable entry otherwise; None where none can be told."""
    try:
        return msgspec.json.decode(line_text(line), type=_Named).id
    except Exception:  # as in parse_entry: whatever a hostile line raises
        return None


def reason(error: FeedbackError) -> str:
    """An error on one line: what is wrong and what to do about it."""
    return f"{error.message}; {error.hint}" if error.hint else error.message


def too_long(size_bytes: int, max_line_bytes: int) -> FeedbackError:
    """The error for a line that is longer than a line may be."""
    return FeedbackError(f"the line has {size_bytes:,} bytes, more than the {max_line_bytes:,} allowed", "shorten it")


def json_error(text: str, error: Exception) -> FeedbackError:
    """Why a line is no JSON. `error` is what its decoder raised; Python's own decoder tells the place better."""
    if isinstance(error, RecursionError):
        return FeedbackError("the JSON is nested too deeply", "flatten it, or delete the line")
    if not isinstance(error, msgspec.DecodeError | json.JSONDecodeError):
        return FeedbackError(f"the line cannot be used ({type(error).__name__}: {plain(str(error))})", "correct it")
    constants: list[str] = []  # what Python reads and JSON does not have
    try:
        json.loads(text, parse_int=float, parse_constant=constants.append)
    except json.JSONDecodeError as place:
        return _syntax_error(text, place)
    except RecursionError:
        return FeedbackError("the JSON is nested too deeply", "flatten it, or delete the line")
    if constants:
        return FeedbackError(f"the line is not JSON: {constants[0]} is no JSON number", "write null, or leave it out")
    if re.search(r"\\u[dD][89a-fA-F]", text):
        return FeedbackError("the line holds half a character (a lone surrogate, \\ud800 to \\udfff)", "correct it")
    return FeedbackError(f"the line is not JSON ({plain(str(error))})", "correct it, or delete it")


def _syntax_error(text: str, error: json.JSONDecodeError) -> FeedbackError:
    if error.msg == "Extra data":
        return FeedbackError("more than one JSON value on the line", "write one entry a line, and nothing else")
    if text.startswith("{") and not text.endswith("}"):
        return FeedbackError("the JSON stops before its end: the line was cut off", "complete it, or delete it")
    return FeedbackError(f"the line is not JSON (column {error.colno}: {error.msg})", "correct it, or delete it")


def _version_error(text: str) -> FeedbackError | None:
    try:
        version = msgspec.json.decode(text, type=_Version).v
    except Exception:  # no whole number: the error of the fields says so
        return None
    if version == VERSION:
        return None
    return FeedbackError(
        f"the line has version {version}, and only version {VERSION} can be read", "update this program, or the line"
    )


_KINDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object {...}",
    "null": "null",
}
_CHOICES = {
    "verdict": ['"right"', '"wrong"', "null"],
    "role": ['"system"', '"user"', '"assistant"'],
    "type": [f'"{kind.__struct_config__.tag}"' for kind in get_args(Check)],
    "format": [f'"{form}"' for form in get_args(Format)],
}


def field_error(error: msgspec.ValidationError) -> FeedbackError:
    """Put msgspec's account of a field that is missing, unknown or of the wrong kind into plain words."""
    what, _, path = str(error).partition(" - at `$")
    path = path.strip("`").removeprefix(".")
    if isinstance(error.__cause__, FeedbackError):
        message = plain(error.__cause__.message)
        return FeedbackError(f"`{path}`: {message}" if path else message, error.__cause__.hint)
    if match := re.fullmatch(r"Object missing required field `(.*)`", what):
        inside = f" in `{path}`" if path else ""
        return FeedbackError(f"the field `{match[1]}` is missing{inside}", "add it")
    if match := re.fullmatch(r"Object contains unknown field `(.*)`", what, re.DOTALL):
        return FeedbackError(f"`{plain(path)}` has no field `{plain(match[1])}`", "correct its name, or leave it out")
    if match := re.fullmatch(r"Expected `(.*?)`, got `(.*?)`", what):
        if not path:
            return FeedbackError(f"the line is {_kinds(match[2])}, not one object {{...}}", "write one entry a line")
        return FeedbackError(f"`{path}` is {_kinds(match[2])}", f"it has to be {_kinds(match[1])}")
    choices = _CHOICES.get(path.rpartition(".")[2])
    if choices and (match := re.fullmatch(r"Invalid (?:enum )?value (.*)", what, re.DOTALL)):
        return FeedbackError(f"`{path}` is {plain(match[1])}", f"it has to be {_either(choices)}")
    if what.endswith("out of range"):
        return FeedbackError(f"the number at `{path}` is too large", "write a smaller one")
    return FeedbackError(f"`{path}`: {plain(what)}" if path else plain(what), "correct it")


def _kinds(names: str) -> str:
    """Msgspec's `str | int | null` as "text, a whole number or null"."""
    return _either([_KINDS.get(name, name) for name in names.split(" | ")])


def _either(words: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def plain(text: str) -> str:
    """A piece of a log for a terminal: what does not print is escaped, and a long text is cut."""
    shown = text[:_REASON_CHARACTERS] + ("..." if len(text) > _REASON_CHARACTERS else "")
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in shown)
