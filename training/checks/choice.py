"""One of a few lettered options."""

from __future__ import annotations

from string import ascii_uppercase

import regex

from training.checks import text
from training.checks.base import CheckBase

_FEWEST, _MOST = 2, len(ascii_uppercase)

_BARE = regex.compile(r"[(\[]?([a-z])[)\]]?")
# A letter is no label in don't, e.g., B-cell; closing brackets and Markdown belong to it.
_LABEL = r"([A-Za-z])(?!\w|[.'’-]\w)"
_CAPITAL = r"([A-Z])(?!\w|[.'’-]\w)"
_HEAD = regex.compile(rf"[\s*_`\"“‘'(\[{{$]*(?:(?:option|choice|letter)\s+)?[*_`\"“‘'(\[]*{_LABEL}", regex.IGNORECASE)
_CLOSED = regex.compile(r"[)\]}*_`\"”’'.$]*\s*")
_OR_ANOTHER = regex.compile(r"(?i:or\b|and/or\b)|(?:[,/&]|(?i:and)\b)[\s(\[*\"“]*[A-HJ-Zb-hj-z](?!\w|[.'’-]\w)")
_SAYS_SOMETHING_OF_IT = regex.compile(r"(?:is|because|since)\b", regex.IGNORECASE)
_MARKS = (
    regex.compile(
        rf"^[^\S\r\n]*[*_`\"“]*\(?{_CAPITAL}(?:[).:]|[*_`\"”]*[^\S\r\n]+[-–—]\s)",
        regex.MULTILINE,
    ),
    regex.compile(r"^[^\S\r\n]*[*_`\"“]*\(?([A-Za-z])\)?[*_`\"”.]*[^\S\r\n]*$", regex.MULTILINE),
    regex.compile(r"^[^\S\r\n]*[*_`\"“]*\(?([a-z])\)", regex.MULTILINE),
    regex.compile(r"\(([A-Z])\)"),
    regex.compile(r"\*\*\(?([A-Z])(?:[).:]|\*\*)"),
    regex.compile(rf"(?<!\w)(?i:option|choice)\s+\(?{_CAPITAL}"),
)


class Choice(CheckBase, frozen=True, tag="choice"):
    """One of 2 to 26 options, each named by a letter from A on.

    A text *is* an answer if, normalised, it is one of the options' letters, in any case, bare or in round or square
    brackets (closing one alone allowed): ``B``, ``b.``, ``(B)``, ``B)``, ``**B**``. ``B. heat`` is more than an answer.

    *Found* anywhere in a completion is, by the first rule that gives one:

    1. Where ``bare`` is asked for and more follows: the first line, if that is an answer.
    2. The last declaration (`training.checks.text`) that begins with a letter of an option: behind opening brackets,
       quotes, Markdown and the words option, choice or letter; not as a part of a word (``B-cell``, ``I'm``, ``e.g.``).
       White space and more words may follow a capital; but A and I and small letters can be words themselves, so behind
       these only a closing bracket, punctuation, the end, or one of is, because, since may follow: ``Answer: A dog``
       declares nothing. Neither does a letter with or behind it, or with another letter behind a comma, a slash, & or
       and: ``Answer: A, B, C or D``.
    3. Outside of declarations, the only letter that is marked as one: at a line's start before ``) . :`` or a dash;
       alone on a line; small at a line's start before ``)``; a capital in round brackets, in bold, or behind the word
       option or choice. Where different letters are marked (a model that copies the options), none is found.

    So the last *declared* answer wins: ``Answer: B ... wait, Answer: C`` is C. A letter that is no option is no answer.
    Compared is the letter.

    Not covered: the option's text without its letter, and an unmarked letter in a sentence (``I choose B``).

    Attributes:
        expect: The right option's letter, in any case.
        options: How many options there are.
    """

    expect: str
    options: int = 4

    def __post_init__(self) -> None:
        if not _FEWEST <= self.options <= _MOST:
            raise ValueError(f"`options` is {self.options}: a choice has {_FEWEST} to {_MOST} options")
        if self.expect.strip().upper() not in self._letters:
            raise ValueError(f"`expect` is {self.expect!r}: it must be a letter from A to {self._letters[-1]}")

    @property
    def _letters(self) -> tuple[str, ...]:
        return tuple(ascii_uppercase[: self.options])

    @property
    def candidates(self) -> tuple[str, ...] | None:
        return self._letters

    @property
    def form(self) -> str:
        letters = f"one letter from A to {self._letters[-1]}"
        if self.format == "bare":
            return "Respond with only the letter."
        if self.format == "answer_line":
            return f'End your response with exactly "Answer:" and {letters} on the final line.'
        return f"Name {letters}."

    def _read(self, answer: str) -> str | None:
        match = _BARE.fullmatch(text.normalised(answer))
        return self._option(match[1]) if match else None

    def _find(self, completion: str) -> str | None:
        declared = [letter for letter in map(self._declared, text.declarations(completion)) if letter]
        if declared:
            return declared[-1]
        rest = text.outside(completion)
        marked = {self._option(match[1]) for mark in _MARKS for match in mark.finditer(rest)} - {None}
        return marked.pop() if len(marked) == 1 else None

    def _declared(self, declaration: str) -> str | None:
        head = _HEAD.match(declaration)
        if head is None:
            return None
        closing = _CLOSED.match(declaration, head.end())
        following = declaration[closing.end() if closing else head.end() :]
        if _OR_ANOTHER.match(following):
            return None
        apart = declaration[head.end() : head.end() + 1].isspace()
        may_be_a_word = head[1] in "AI" or head[1].islower()
        runs_on = following[:1].isalnum() and not _SAYS_SOMETHING_OF_IT.match(following)
        return None if apart and may_be_a_word and runs_on else self._option(head[1])

    def _option(self, letter: str) -> str | None:
        return letter.upper() if letter.upper() in self._letters else None

    def _equals(self, answer: str) -> bool:
        return answer == self.expect.strip().upper()

    def contains(self, completion: str) -> bool:
        """Whether the letter is found, or is a capital word anywhere (A and I only before punctuation or the end)."""
        letter = self.expect.strip().upper()
        word = regex.compile(rf"(?<!\w){letter}(?!\w|['’-]\w)" + (r"(?!\s+\w)" if letter in "AI" else ""))
        return self.judge(completion).answer == letter or word.search(completion) is not None
