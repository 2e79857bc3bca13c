"""A number, with or without a unit."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import ClassVar

import regex

from training.checks import text
from training.checks.base import CheckBase
from training.checks.numerals import Numeral, canonical, numerals

# Words behind a number that make it a part of something, not an amount of something.
_NO_UNIT = r"(?:and|by|divided|equals|is|minus|of|or|plus|times|to|was|x)\b"
_ANY_UNIT = regex.compile(
    rf"\s?(?:\\?[%‰]|\p{{Sc}}|(?!{_NO_UNIT})[\p{{L}}°][\p{{L}}\p{{M}}²³/^.0-9-]*(?:\s[\p{{L}}/][\p{{L}}\p{{M}}²³/^.0-9-]*){{0,2}})?"
)
_PERCENT = regex.compile(r"\\?%|per ?cent\b")
_SENTENCE_END = regex.compile(r"[.!?](?=\s)")
_OR = regex.compile(r"\s*(?:[\p{L}%]+\s+)?or\b", regex.IGNORECASE)
_UNIT_REACH = 40


class Number(CheckBase, frozen=True, tag="number"):
    """A number, compared within a tolerance.

    How numbers are written, with thousands separators, currency, fractions and exponents, says
    `training.checks.numerals`.

    A text *is* an answer if, normalised, it is one number with at most a unit behind it: a percent, per mille or
    currency sign, or up to three words, the first not one that goes on calculating (and, by, divided, equals, is,
    minus, of, or, plus, times, to, was, x). Where the check has a `unit`, only that unit may follow, in any case, with
    or without a plural s; ``percent`` and ``per cent`` are ``%``. ``Answer: $1,234.50.`` and ``Answer: 42 apples`` are
    answers, ``12 + 30 = 42`` is more than one. A unit is not converted: ``50%`` is 50.

    *Found* anywhere in a completion is, by the first rule that gives one:

    1. Where ``bare`` is asked for and more follows: the first line, if that is an answer.
    2. The last declaration (`training.checks.text`) with a number in its first sentence: the first number behind the
       last ``=`` of that sentence, or the first number if there is no such sign. A number before ``or`` is none.
    3. The last number outside of declarations.

    Where the check has a `unit`, rules 2 and 3 look only at numbers with that unit, or, where there are none, at
    numbers that no letter, percent or currency sign follows.

    Compared is the value: the difference is at most `tolerance`, computed exactly.

    Not covered: other units for the same amount (``1 km`` for ``1000 m``), and a currency sign other than the `unit`
    before a number, which is passed over.

    Attributes:
        expect: The right number, as a number or as a text that is an answer.
        tolerance: The largest difference that is still right, in the answer's own unit; 0 for none.
        unit: The unit the answer may carry; None for any.
    """

    expect: str | int | float
    tolerance: float = 0.0
    unit: str | None = None

    extensible: ClassVar[bool] = True
    answer_line_tokens: ClassVar[int] = 256

    def __post_init__(self) -> None:
        if self.unit is not None and not text.folded(self.unit):
            raise ValueError("`unit` is blank: leave it out or name a unit")
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise ValueError(f"`tolerance` is {self.tolerance}: it must be 0 or more")
        if self._whole(str(self.expect)) is None:
            wanted = 'it must be one number of no more than 64 digits, such as 42, "1,234.5" or "3/4"'
            raise ValueError(f"`expect` is {self.expect!r}: {wanted}")

    @property
    def form(self) -> str:
        unit = f" in {self.unit}" if self.unit else ""
        if self.format == "bare":
            return f"Respond with only the number{unit}."
        if self.format == "answer_line":
            return f'End your response with exactly "Answer: N" on the final line, where N is the number{unit}.'
        return f"Give the number{unit}."

    def _read(self, answer: str) -> str | None:
        value = self._whole(answer)
        return None if value is None else canonical(value)

    def _whole(self, answer: str) -> Fraction | None:
        content = text.normalised(answer)
        numeral = next(numerals(content), None)
        if numeral is None or numeral.start > 0:
            return None
        rest = content[numeral.end :]
        fits = self._is_unit(rest.strip()) or not rest if self.unit else _ANY_UNIT.fullmatch(rest)
        return numeral.value if fits else None

    def _find(self, completion: str) -> str | None:
        declared = [value for value in map(self._declared, text.declarations(completion)) if value is not None]
        if declared:
            return canonical(declared[-1])
        rest = text.outside(completion)
        found = self._with_unit(rest, list(numerals(rest)))
        return canonical(found[-1].value) if found else None

    def _declared(self, declaration: str) -> Fraction | None:
        end = _SENTENCE_END.search(declaration)
        sentence = declaration[: end.start()] if end else declaration
        result = sentence.rpartition("=")[2]
        found = self._with_unit(result, list(numerals(result)))
        return found[0].value if found and not _OR.match(result, found[0].end) else None

    def _with_unit(self, content: str, found: list[Numeral]) -> list[Numeral]:
        if self.unit is None:
            return found
        behind = [text.folded(content[numeral.end : numeral.end + _UNIT_REACH]) for numeral in found]
        with_unit = [numeral for numeral, rest in zip(found, behind, strict=True) if self._begins_with_unit(rest)]
        alone = [
            numeral for numeral, rest in zip(found, behind, strict=True) if not regex.match(r"[\p{L}%‰\p{Sc}°]", rest)
        ]
        return with_unit or alone

    def _begins_with_unit(self, rest: str) -> bool:
        unit = regex.escape(self._unit)
        plural = r"s?(?!\w)" if self._unit[-1].isalpha() else ""
        return regex.match(unit + plural, _PERCENT.sub("%", rest)) is not None

    def _is_unit(self, rest: str) -> bool:
        given = _PERCENT.sub("%", rest)
        return given.removesuffix("s") == self._unit.removesuffix("s")

    @property
    def _unit(self) -> str:
        return _PERCENT.sub("%", text.normalised(self.unit or ""))

    def _equals(self, answer: str) -> bool:
        return self._is_right(Fraction(answer))

    def _is_right(self, value: Fraction) -> bool:
        expected = self._whole(str(self.expect))
        return expected is not None and abs(value - expected) <= Fraction(str(self.tolerance))

    def contains(self, completion: str) -> bool:
        """Whether the right number stands anywhere in the completion, whatever its unit."""
        return any(self._is_right(numeral.value) for numeral in numerals(completion))
