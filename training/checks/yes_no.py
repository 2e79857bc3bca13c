"""Yes or no."""

from __future__ import annotations

import regex

from training.checks import text
from training.checks.base import CheckBase

# What may follow "no" where it is an answer and not a part of "no one knows"; anything may follow "yes".
_AFTER_NO = (
    r"(?=\s*[^\w\s]|\s*(?:[\r\n]|\Z)|\s+(?:as|because|but|he|i|it|not|since|she|that|there|they|this|we|you)\b)"
    r"(?!\.[^\S\r\n]*[0-9])"
)
_WORD = rf"(yes|no(?=\b){_AFTER_NO})(?!\w|[-'’]\w)"
_NO_ALTERNATIVE = rf"(?![\s*_{text.QUOTES}),]*(?:/|or\b|and\s+(?:yes|no)\b))"
_ANSWER = _WORD + _NO_ALTERNATIVE
_OPENING = rf"(?:[^\S\r\n]|[*_{text.QUOTES}(\[{{>-])*+"

_HEAD = regex.compile(_OPENING + _ANSWER, regex.IGNORECASE)
_STATED = regex.compile(
    rf"(?:\A|[\r\n]|[.!?:][*_{text.QUOTES})]*\s){_OPENING}"
    r"(?:(?:so|then|therefore|thus|hence|overall|ultimately|well|in\s(?:conclusion|short|summary))\s*,?\s+)?" + _ANSWER,
    regex.IGNORECASE,
)
_LAST_WORD = regex.compile(r"(?<!\w|[/'’-])(yes|no)[^\w/]*\Z", regex.IGNORECASE)
_OR_BEFORE = regex.compile(rf"(?<!\w)or[\s*_{text.QUOTES}(]*\Z", regex.IGNORECASE)
_REACH = 16


class YesNo(CheckBase, frozen=True, tag="yes_no"):
    """Yes or no; true and false are neither.

    A text *is* an answer if, normalised, it is ``yes`` or ``no``.

    *Found* anywhere in a completion is, by the first rule that gives one:

    1. Where ``bare`` is asked for and more follows: the first line, if that is an answer.
    2. The last declaration (`training.checks.text`) that begins with yes or no: behind opening brackets, quotes and
       Markdown; not as a part of a word (``no-one``, ``not``); ``no`` only before punctuation, a line's end, or as,
       because, but, he, I, it, not, since, she, that, there, they, this, we, you (``no one knows`` is no answer);
       not before a slash, or, and yes, and no (``yes or no``).
    3. What the completion states outside of declarations: yes or no, as above, at the start of a line or a sentence
       (behind ``. ! ? :`` and white space), also behind so, then, therefore, thus, hence, overall, ultimately, well, in
       conclusion, in short, in summary; and yes or no as the very last word, not behind or. Where it states both, none
       is found.

    So the last *declared* answer wins, and ``Yes, because ...`` is yes. Compared is the word.

    Not covered: a denial in other words (``It is not so``) and a taken back answer (``Yes. I was wrong.``).

    Attributes:
        expect: ``yes`` or ``no``, in any case.
    """

    expect: str

    def __post_init__(self) -> None:
        if self._expected not in ("yes", "no"):
            raise ValueError(f'`expect` is {self.expect!r}: it must be "yes" or "no"')

    @property
    def _expected(self) -> str:
        return self.expect.strip().lower()

    @property
    def candidates(self) -> tuple[str, ...] | None:
        return ("yes", "no")

    @property
    def form(self) -> str:
        if self.format == "bare":
            return 'Respond with only "yes" or "no".'
        if self.format == "answer_line":
            return 'End your response with exactly "Answer: yes" or "Answer: no" on the final line.'
        return "Say yes or no."

    def _read(self, answer: str) -> str | None:
        word = text.normalised(answer)
        return word if word in ("yes", "no") else None

    def _find(self, completion: str) -> str | None:
        heads = map(_HEAD.match, text.declarations(completion))
        declared = [head[1].lower() for head in heads if head]
        if declared:
            return declared[-1]
        rest = text.outside(completion)
        stated = {match[1].lower() for match in _STATED.finditer(rest)}
        last = _LAST_WORD.search(rest)
        if last and not _OR_BEFORE.search(rest[max(0, last.start() - _REACH) : last.start()]):
            stated.add(last[1].lower())
        return stated.pop() if len(stated) == 1 else None

    def _equals(self, answer: str) -> bool:
        return answer == self._expected

    def contains(self, completion: str) -> bool:
        """Whether the word stands anywhere in the completion."""
        return text.holds_words(text.folded(completion), self._expected)
