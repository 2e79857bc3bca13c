r"""Reading text the way all checks do: what is normalised, what a line is, and what declares an answer.

**Normalised** (`normalised`) means, in this order: Unicode canonical form (NFC) without case; every run of white space
made one space; white space, quotes (``" ' ‘ ’ “ ” „ « »``), Markdown's ``*`` and backticks taken off both ends, and
``. , ; !`` off the right end. Where nothing would be left (the text ``*``, say), these ends stay.

A **line** ends at a line feed or a carriage return. Lines of white space alone are passed over.

An **answer line** (`answer_line`) is a line that is ``Answer: X`` and nothing else, ends treated as above: in any case,
with white space around the colon or none, with Markdown around the word (``**Answer:** X``). X is not empty and holds
no other declaration, so ``"Answer: yes" or "Answer: no"``, copied from an instruction, is none.

A **declaration** (`declarations`) is ``Answer:`` or ``Answer =`` anywhere in a line, ``answer is``, ``option is`` or
``choice is`` (also was, would be, should be, must be; also ``answer to ... is``), or LaTeX's ``\boxed{``. What it
declares is the rest of its line, up to the next declaration; where that is blank or ends with a colon, with the next
line.
These declare nothing:

* one right behind a quote or a backtick, since it speaks about an answer: ``end with "Answer: yes"``;
* one behind if or whether, at most two words between: ``whether the answer is yes``;
* two with nothing but a declared answer and ``or`` between them: ``Answer: yes or Answer: no``.

What stands **outside** of declarations (`outside`) is the text without the words of any, even of those that declare
nothing, and without what follows them on their lines.

Not covered: other languages' words for answer, and a completion that plays several turns of a conversation, whose
declarations are read as if one speaker had made them all.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

import regex

QUOTES = "\"'‘’“”„«»`"
"""Characters that quote."""

_ENDS = f" *{QUOTES}"
_RIGHT_ENDS = f"{_ENDS}.,;!"

_LINE = regex.compile(r"[^\r\n]+")
_ANSWER_LINE = regex.compile(r"answer[*`]*\s*[:：]\s*(\S.*)", regex.IGNORECASE | regex.DOTALL)
_MARK = regex.compile(
    r"""
    (?<!\w) answer [*_`]* [^\S\r\n]* [:：=]
    | (?<!\w) (?:answer|option|choice) [*_`]* (?:[^\S\r\n]+ to [^\S\r\n]+ [^\r\n.:?!]{1,80}?)?
      [^\S\r\n]+ (?:is|was|would\ be|should\ be|must\ be) \b (?:[^\S\r\n]*[:：])?
    | \\boxed [^\S\r\n]* \{ (?:[^\S\r\n]*\\text[^\S\r\n]*\{)?
    """,
    regex.IGNORECASE | regex.VERBOSE,
)
_TO_LINE_END = regex.compile(rf"(?:{_MARK.pattern}) [^\r\n]*", regex.IGNORECASE | regex.VERBOSE)
_SUPPOSED = regex.compile(r"(?<!\w)(?:if|whether)\s+(?:\w+\s+){0,2}$", regex.IGNORECASE)
_SUPPOSED_REACH = 40
_ENDS_IN_OR = regex.compile(rf"(?<!\w)or[\s*{QUOTES}]*$", regex.IGNORECASE)


class Line(NamedTuple):
    """A line that is not blank.

    Attributes:
        text: The line without white space at its ends.
        end: Offset in the whole text, in characters, just after `text`.
    """

    text: str
    end: int


def lines(text: str) -> Iterator[Line]:
    """The lines of a text that are not blank, in order."""
    for match in _LINE.finditer(text):
        line = match[0].rstrip()
        if line:
            yield Line(line.lstrip(), match.start() + len(line))


def folded(text: str) -> str:
    """The text in NFC, without case, every run of white space made one space and none at the ends."""
    caseless = unicodedata.normalize("NFD", text).casefold()
    return " ".join(unicodedata.normalize("NFC", caseless).split())


def trimmed(text: str) -> str:
    """The text without what does not count at its ends; as it came where nothing would be left."""
    return text.rstrip(_RIGHT_ENDS).lstrip(_ENDS) or text


def normalised(text: str) -> str:
    """The text as the module's first paragraph says; empty only for white space."""
    return trimmed(folded(text))


def is_quoted(text: str) -> bool:
    """Whether a text begins with a quote, Markdown's stars before it aside."""
    return text.lstrip("* ").startswith(tuple(QUOTES))


def answer_line(line: str) -> str | None:
    """What an answer line answers, its ends trimmed; None where the line is no answer line.

    Args:
        line: One line of a completion.
    """
    match = _ANSWER_LINE.fullmatch(trimmed(" ".join(line.split())))
    if match is None or _MARK.search(match[1]):
        return None
    return trimmed(match[1].lstrip(_ENDS)) or None


def declares(text: str) -> bool:
    """Whether a text holds the words of a declaration, even quoted or supposed."""
    return _MARK.search(text) is not None


def declarations(text: str) -> list[str]:
    """What a text declares as its answer, in order; the last is the one that counts."""
    found = []
    marks = list(_MARK.finditer(text))
    after_or = False
    for number, mark in enumerate(marks):
        following = marks[number + 1].start() if number + 1 < len(marks) else len(text)
        declared = _first_statement(text[mark.end() : following])
        before_or = _ENDS_IN_OR.search(declared) is not None
        alternative = before_or or after_or
        after_or = before_or
        if not (alternative or _only_speaks_of(text, mark.start())):
            found.append(declared)
    return found


def outside(text: str) -> str:
    """The text without its declarations, even quoted or supposed ones, each to its line's end."""
    return _TO_LINE_END.sub("", text)


def holds_words(text: str, words: str) -> bool:
    """Whether `words` stand in `text` as they are, not as a part of a longer word at either end."""
    start = text.find(words)
    while start >= 0:
        end = start + len(words)
        joined_left = start > 0 and _joins(text[start - 1], words[0])
        joined_right = end < len(text) and _joins(words[-1], text[end])
        if not (joined_left or joined_right):
            return True
        start = text.find(words, start + 1)
    return False


def _joins(left: str, right: str) -> bool:
    return (left.isalnum() or left == "_") and (right.isalnum() or right == "_" or unicodedata.combining(right) > 0)


def _first_statement(text: str) -> str:
    said = []
    for line in lines(text):
        said.append(line.text)
        if line.text.strip(_ENDS) and not line.text.endswith((":", "：")):
            break
    return " ".join(said)


def _only_speaks_of(text: str, start: int) -> bool:
    before = text[max(0, start - _SUPPOSED_REACH) : start]
    return before.endswith(tuple(QUOTES)) or _SUPPOSED.search(before) is not None
