"""A word or a phrase, letter by letter."""

from __future__ import annotations

from typing import ClassVar

from training.checks import text
from training.checks.base import CheckBase


class Exact(CheckBase, frozen=True, tag="exact"):
    """A word or a phrase of one line, the whole of it.

    A text *is* an answer if it is one line that is not blank, holds no words of a declaration
    (`training.checks.text`), does not end with a colon, and has at most `words` words. Nothing else can be told
    without the expected answer: without `words`, ``The capital is Paris.`` keeps the form too.

    *Found* anywhere in a completion is the last declaration, or, without one, the whole completion.

    Compared are the normalised texts (NFC, case, white space, quotes and Markdown at the ends, ``. , ; !`` at the right
    end do not count):

    * right under ``bare`` and ``answer_line``: the answer, in the asked form, equals the expected one;
    * unformatted: it does not, but the answer found holds the expected one as whole words;
    * right under ``any``: the answer found holds the expected one as whole words.

    Not covered: synonyms, spelling, word order, and an answer that denies what it holds (``not Paris``).

    Attributes:
        expect: The right answer; not blank.
        words: The most words, parted by white space, that an answer in the asked form has; None for any number.
    """

    expect: str
    words: int | None = None

    open_text: ClassVar[bool] = True
    extensible: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self._expected:
            raise ValueError("`expect` is blank: it must hold the right answer")
        if self.words is not None and self.words < 1:
            raise ValueError(f"`words` is {self.words}: it must be 1 or more")
        if self.words is not None and len(self._expected.split()) > self.words:
            raise ValueError(f"`expect` is {self.expect!r}, which has more words than `words` allows ({self.words})")

    @property
    def _expected(self) -> str:
        return text.normalised(self.expect)

    @property
    def form(self) -> str:
        limit = {None: "", 1: " as one word"}.get(self.words, f" in at most {self.words} words")
        if self.format == "bare":
            return f"Respond with only the answer{limit}."
        if self.format == "answer_line":
            return f'End your response with exactly "Answer:" and then the answer{limit} on the final line.'
        return f"Give the answer{limit}."

    def _read(self, answer: str) -> str | None:
        if answer.endswith((":", "：")) or text.declares(answer):
            return None
        content = text.normalised(answer)
        return content if content and len(content.split()) <= (self.words or len(content)) else None

    def _find(self, completion: str) -> str | None:
        declared = text.declarations(completion)
        return text.normalised(declared[-1] if declared else completion) or None

    def _equals(self, answer: str) -> bool:
        return answer == self._expected

    def _within(self, answer: str) -> bool:
        return text.holds_words(answer, self._expected)

    def contains(self, completion: str) -> bool:
        """Whether the answer stands anywhere in the completion as whole words, declared or not."""
        return text.holds_words(text.folded(completion), self._expected)
