"""A JSON document."""

from __future__ import annotations

import json
from typing import Any

import regex

from training.checks.base import CheckBase, Found

_NEW_TOKENS = 256
_MOST_STARTS = 64

_FENCE = regex.compile(r"```(?:json)?[^\S\r\n]*[\r\n]+(.*?)[\r\n][^\S\r\n]*```", regex.IGNORECASE | regex.DOTALL)
_ANSWER_LINE = regex.compile(r"[*]*answer[*]*\s*[:：][*]*\s*(\S.*)", regex.IGNORECASE)
_DECODER = json.JSONDecoder()
_OPENING = regex.compile(r"[\[{]")


class Json(CheckBase, frozen=True, tag="json"):
    """A JSON document (RFC 8259) with the expected value.

    A text *is* an answer if, white space at the ends aside, it is one JSON document, a number or a string included.
    ``NaN`` and ``Infinity`` are not JSON; of a key given twice the last counts.

    *Found* anywhere in a completion is, by the first rule that gives one:

    1. Where ``bare`` is asked for: the document that the completion begins with.
    2. The last code fence (three backticks, alone or with ``json``) that holds one document.
    3. The last object or array in the text that is in no other one; at most 64 opening brackets are tried.

    Under ``answer_line`` the whole document stands on that line.

    Compared are the values: the order of an object's keys and white space do not count, 1 equals 1.0, true does
    not equal 1, strings are equal character by character.

    Not covered: numbers with a point or an exponent are read as doubles, so beyond 17 digits they equal their
    neighbours, and one beyond a double's range makes its document none.

    Attributes:
        expect: The right value; a string that holds JSON stands for what it holds, another string for itself. A string
            that begins with a bracket or a brace has to hold JSON.
    """

    expect: Any

    def __post_init__(self) -> None:
        broken = isinstance(self.expect, str) and self.expect.lstrip().startswith(("{", "["))
        if broken and _read(str(self.expect)) is None:
            raise ValueError(f"`expect` begins as JSON and is none: {self.expect[:80]!r}")
        if self._expected is None:
            raise ValueError("`expect` is no JSON value")

    @property
    def _expected(self) -> str | None:
        held = _read(self.expect) if isinstance(self.expect, str) else None
        return held or _canonical(self.expect)

    @property
    def new_tokens(self) -> int:
        return _NEW_TOKENS

    @property
    def form(self) -> str:
        if self.format == "bare":
            return "Respond with only one JSON document: no code fence, no other text."
        if self.format == "answer_line":
            return 'End your response with exactly "Answer:" and then the JSON document, all on the final line.'
        return "Give the answer as JSON."

    def _read(self, answer: str) -> str | None:
        return _read(answer)

    def _read_answer_line(self, line: str) -> str | None:
        # Quotes at the ends belong to a JSON string, so the line is not trimmed first.
        declared = _ANSWER_LINE.fullmatch(line)
        return _read(declared[1]) if declared else None

    def _lead(self, completion: str) -> Found | None:
        start = len(completion) - len(completion.lstrip())
        return _document(completion, start)

    def _find(self, completion: str) -> str | None:
        fenced = [document for document in map(_read, _FENCE.findall(completion)) if document is not None]
        if fenced:
            return fenced[-1]
        last, position = _read(completion), 0
        for _ in range(_MOST_STARTS):
            opening = _OPENING.search(completion, position)
            if opening is None:
                break
            document = _document(completion, opening.start())
            last, position = (document.answer, document.end) if document else (last, opening.end())
        return last

    def _equals(self, answer: str) -> bool:
        return answer == self._expected

    def contains(self, completion: str) -> bool:
        """Whether the document that is read in the asked form or found is the right one."""
        return self._expected in (self.judge(completion).answer, self._find(completion))


def _document(content: str, start: int) -> Found | None:
    try:
        value, end = _DECODER.raw_decode(content, start)
    except (ValueError, RecursionError):
        return None
    answer = _canonical(value)
    return Found(answer, end) if answer is not None else None


def _read(content: str) -> str | None:
    stripped = content.strip()
    document = _document(stripped, 0)
    return document.answer if document and document.end == len(stripped) else None


def _canonical(value: object) -> str | None:
    """The one way to write a JSON value; None for what JSON cannot say."""
    try:
        return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None


def _plain(value: object) -> object:
    """The value with whole floats as integers."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
