"""What every check is: a question's known answer, the form it was asked for in, and how a completion is judged.

The order of things is the same for every kind. First the completion alone is looked at: which answer does it give, and
is it in the asked form? Only then is that answer compared with the expected one. So of a judgement only the verdict can
tell anything about what was expected.

Forms:

* ``bare``: the whole completion is the answer, on one line (JSON and what a regex reads may take more). What comes
  after such a first line breaks the form.
* ``answer_line``: the last line that is not blank is an answer line (`training.checks.text`) whose X is an answer.
  Whatever comes before it is free.
* ``any``: no form is asked for. The answer is looked for anywhere, and the form always counts as kept.

Verdicts: ``right`` if the form is kept and the answer is the expected one; ``unformatted`` if the form is not kept, or
the kept form holds more than the expected answer (exact and regex only), but the answer found by the rules of ``any``
is the expected one; else ``wrong``.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Literal, NamedTuple

import msgspec

from training.checks import text

Format = Literal["bare", "answer_line", "any"]
"""The form an answer is asked for in."""

_BARE_TOKENS = 16
_ANY_TOKENS = 128
_REASONING_TAIL_TOKENS = 32


class Verdict(StrEnum):
    """How a completion was judged."""

    RIGHT = "right"
    UNFORMATTED = "unformatted"
    """The right answer, but not in the asked form."""
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a check makes of a completion. All but the verdict depends on the completion alone, never on `expect`.

    Attributes:
        verdict: Right, right but unformatted, or wrong.
        formatted: The asked form was kept, whatever the answer.
        answer: The normalised answer that was found; None if there is none.
        end: Offset in the completion, in characters, just after the answer where the form tells it; None where it does
            not. In a completion that kept the form, cutting there keeps answer and verdict, and takes away repetitions
            of the same answer line. Else it is where the completion first had an answer in the asked form: cut there,
            it keeps the form, and has to be judged again.
    """

    verdict: Verdict
    formatted: bool
    answer: str | None
    end: int | None


class Found(NamedTuple):
    """An answer and the offset in the completion, in characters, just after it."""

    answer: str
    end: int


class _Reading(NamedTuple):
    answer: str | None
    formatted: bool
    end: int | None


class CheckBase(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    """What the kinds of check share; the field `expect` is each kind's own.

    Attributes:
        format: The asked form.
    """

    format: Format = "any"

    open_text: ClassVar[bool] = False
    """Any line could be an answer: then a first line followed by more is not taken for it."""

    extensible: ClassVar[bool] = False
    """More behind an answer may make another one of it: digits behind a number, a word behind a phrase."""

    answer_line_tokens: ClassVar[int] = 96
    """The most tokens that reasoning and its answer line may take."""

    @abstractmethod
    def _read(self, answer: str) -> str | None:
        """Reads a text that is nothing but an answer; None if it is more, less or something else."""

    @abstractmethod
    def _find(self, completion: str) -> str | None:
        """Finds the answer anywhere in a completion, in whatever form."""

    @abstractmethod
    def _equals(self, answer: str) -> bool:
        """Whether an answer that was read or found is the expected one."""

    def _within(self, answer: str) -> bool:
        """Whether an answer holds the expected one, and perhaps more."""
        return self._equals(answer)

    @abstractmethod
    def contains(self, completion: str) -> bool:
        """Whether the right answer is present in any form; for reports only."""

    @property
    @abstractmethod
    def form(self) -> str:
        """The asked form in a sentence or two, for the model. Says nothing about the expected answer."""

    @property
    def kind(self) -> str:
        """The check's `type` in a feedback log."""
        return str(self.__struct_config__.tag)

    @property
    def new_tokens(self) -> int:
        """The most tokens a completion may take."""
        return {"bare": _BARE_TOKENS, "answer_line": self.answer_line_tokens, "any": _ANY_TOKENS}[self.format]

    @property
    def tail_tokens(self) -> int:
        """How many tokens at a wrong completion's end are to blame; 0 means all."""
        return 0 if self.format == "bare" else _REASONING_TAIL_TOKENS

    @property
    def protected(self) -> tuple[str, ...]:
        """Markers of the asked form, which are not to blame for a wrong answer."""
        return () if self.format == "bare" else ("Answer:",)

    @property
    def end_counts(self) -> bool:
        """Whether a wrong completion may be wrong because it ended: a bare answer, where more makes another."""
        return self.format == "bare" and self.extensible

    @property
    def candidates(self) -> tuple[str, ...] | None:
        """All answers there can be; None where the answer is open."""
        return None

    def judge(self, completion: str) -> Judgement:
        """Judges a completion. Never raises.

        Args:
            completion: What the model said, without special tokens.
        """
        answer, formatted, end = self._look(completion)
        return Judgement(self._verdict(answer, formatted), formatted, answer, end)

    def _verdict(self, answer: str | None, formatted: bool) -> Verdict:
        if answer is None:
            return Verdict.WRONG
        if formatted and (self._within(answer) if self.format == "any" else self._equals(answer)):
            return Verdict.RIGHT
        return Verdict.UNFORMATTED if self._within(answer) else Verdict.WRONG

    def _look(self, completion: str) -> _Reading:
        if self.format == "bare":
            return self._look_bare(completion)
        if self.format == "answer_line":
            return self._look_for_answer_line(completion)
        return _Reading(self._find(completion), True, None)

    def _look_bare(self, completion: str) -> _Reading:
        lead = self._lead(completion)
        if lead is None:
            return _Reading(self._find(completion), False, None)
        formatted = not completion[lead.end :].strip()
        # A model that goes on behind a letter or a number invents the next question: the first line is its answer.
        answer = lead.answer if formatted or not self.open_text else self._find(completion)
        return _Reading(answer, formatted, lead.end)

    def _lead(self, completion: str) -> Found | None:
        """The bare answer a completion begins with: its first line, where that is one."""
        line = next(text.lines(completion), None)
        answer = self._read(line.text) if line else None
        return Found(answer, line.end) if line and answer is not None else None

    def _look_for_answer_line(self, completion: str) -> _Reading:
        lines = list(text.lines(completion))
        answers = [self._read_answer_line(line.text) for line in lines]
        if lines and answers[-1] is not None:
            start = len(lines) - 1
            while start > 0 and answers[start - 1] == answers[-1]:
                start -= 1
            return _Reading(answers[-1], True, lines[start].end)
        # A quoted line may be a copied instruction: only at the very end is it an answer.
        ends = (
            line.end
            for line, answer in zip(lines, answers, strict=True)
            if answer is not None and not text.is_quoted(line.text)
        )
        return _Reading(self._find(completion), False, next(ends, None))

    def _read_answer_line(self, line: str) -> str | None:
        declared = text.answer_line(line)
        return None if declared is None else self._read(declared)
