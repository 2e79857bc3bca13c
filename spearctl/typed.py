"""What somebody typed into a chat: a question, a verdict on the last answer, or a command.

    + | + why it is right          the answer is right
    - | - what is wrong with it    the answer is wrong
    /name words                    a command of the chat
    nothing                        no verdict
    anything else                  a question

A line that ends in a backslash goes on in the next one. Between lines of three double quotes everything is a question,
and so is a text of several lines that was pasted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

QUOTES = '"""'

ReadLine = Callable[[bool], str | None]
"""Reads a line, told whether it goes on with the one before; None at the end of the input."""


@dataclass(frozen=True, slots=True)
class Question:
    """Something for the model."""

    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What somebody says of the last answer, in their own words if they gave any."""

    is_right: bool
    said: str | None


@dataclass(frozen=True, slots=True)
class Order:
    """A command of the chat, without its slash, and the words behind it."""

    name: str
    words: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """An empty line."""


Typed = Question | Verdict | Order | Nothing


def read_typed(read_line: ReadLine) -> Typed | None:
    """Reads lines until they make sense; None at the end of the input."""
    line = read_line(False)
    if line is None:
        return None
    if line.lstrip().startswith(QUOTES):
        return _as_question(_quoted(line.lstrip().removeprefix(QUOTES), read_line))
    if "\n" in line:
        return _as_question(line)
    while line.endswith("\\"):
        more = read_line(True)
        line = line[:-1] + ("" if more is None else f"\n{more}")
    return _of_line(line.strip())


def _quoted(text: str, read_line: ReadLine) -> str:
    """The text up to the quotes that close it, or to the end of the input."""
    while not text.rstrip().endswith(QUOTES):
        more = read_line(True)
        if more is None:
            return text
        text = f"{text}\n{more}"
    return text.rstrip().removesuffix(QUOTES)


def _of_line(line: str) -> Typed:
    if line.startswith("/"):
        name, _, words = line[1:].partition(" ")
        return Order(name, words.strip())
    # A sign that touches the next letter belongs to it: "-5 degrees" is a question.
    if line[:1] in {"+", "-"} and not line[1:2].strip():
        return Verdict(line[0] == "+", line[1:].strip() or None)
    return _as_question(line)


def _as_question(text: str) -> Question | Nothing:
    text = text.strip()
    return Question(text) if text else Nothing()
