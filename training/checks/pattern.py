"""A text that matches a regular expression."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import ClassVar

import regex

from training.checks.base import CheckBase, Found

_NEW_TOKENS = 128
_MOST_PATTERN_CHARACTERS = 512
_MOST_COPIES = 10_000
_MOST_TEXT_CHARACTERS = 4_096
_MATCH_TIMEOUT_S = 0.2

_ESCAPED = regex.compile(r"\\.", regex.DOTALL)
_COUNTED = regex.compile(r"\{\s*([0-9]+)")


class Regex(CheckBase, frozen=True, tag="regex"):
    """A text that matches a pattern in the syntax of the `regex` library, version 0, without flags.

    Nothing is normalised; only white space at both ends of a completion is taken off. The pattern says what case,
    quotes and line ends may be: ``(?i)``, ``(?s)`` and ``(?m)`` at its start work.

    A text *is* an answer if it is not empty and holds at most 4,096 characters. Nothing else can be told without the
    pattern. *Found* anywhere is the whole completion; of a longer one, the first 4,096 characters.

    * right under ``bare`` and ``answer_line``: the pattern matches the whole answer;
    * unformatted: it does not, but a search in the answer, or where the form is broken in the whole completion, finds
      it;
    * right under ``any``: a search in the completion finds it.

    A search that finds nothing but the empty text at its first place has found nothing.

    Guarded against patterns that take too long or too much: at most 512 characters; the numbers in ``{n}``
    and ``{n,m}`` (its smaller one) multiply to at most 10,000, since the library copies what they repeat; every match
    is given up after 0.2 s and is then none, so such a pattern's completion is wrong.

    Not covered: on a slow machine, a pattern that takes about 0.2 s may match once and not the next time.

    Attributes:
        expect: The pattern.
    """

    expect: str

    open_text: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.expect:
            raise ValueError("`expect` is empty: it must be a regular expression")
        if len(self.expect) > _MOST_PATTERN_CHARACTERS:
            size = len(self.expect)
            raise ValueError(f"`expect` has {size} characters: a pattern has at most {_MOST_PATTERN_CHARACTERS}")
        if _copies(self.expect) > _MOST_COPIES:
            raise ValueError(f"`expect` repeats too much: its counts, as in {{3}}, multiply to over {_MOST_COPIES}")
        try:
            _compiled(self.expect)
        except (regex.error, RecursionError, OverflowError, ValueError, IndexError, KeyError) as error:
            raise ValueError(f"`expect` is no regular expression: {error}") from None

    @property
    def new_tokens(self) -> int:
        return _NEW_TOKENS

    @property
    def form(self) -> str:
        if self.format == "bare":
            return "Respond with only the answer."
        if self.format == "answer_line":
            return 'End your response with exactly "Answer:" and then the answer on the final line.'
        return "Give the answer."

    def _read(self, answer: str) -> str | None:
        return answer if 0 < len(answer) <= _MOST_TEXT_CHARACTERS else None

    def _lead(self, completion: str) -> Found | None:
        answer = self._read(completion.strip())
        return Found(answer, len(completion.rstrip())) if answer else None

    def _find(self, completion: str) -> str | None:
        return completion.strip()[:_MOST_TEXT_CHARACTERS] or None

    def _equals(self, answer: str) -> bool:
        try:
            return _compiled(self.expect).fullmatch(answer, timeout=_MATCH_TIMEOUT_S) is not None
        except (TimeoutError, MemoryError):
            return False

    def _within(self, answer: str) -> bool:
        try:
            match = _compiled(self.expect).search(answer, timeout=_MATCH_TIMEOUT_S)
        except (TimeoutError, MemoryError):
            return False
        return match is not None and bool(match[0])

    def contains(self, completion: str) -> bool:
        """Whether a search in the first 4,096 characters finds the pattern."""
        found = self._find(completion)
        return found is not None and self._within(found)


def _copies(pattern: str) -> int:
    """The most copies of one part that the library can make of a pattern, as if all counts were nested."""
    copies = 1
    for count in _COUNTED.finditer(_ESCAPED.sub("", pattern)):
        digits = count[1].lstrip("0")
        copies *= max(1, int(digits[:9] or "0"))
    return copies


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> regex.Pattern[str]:
    with warnings.catch_warnings():
        # Syntax that a later version may read differently is read as it is now.
        warnings.simplefilter("ignore")
        return regex.compile(pattern)
