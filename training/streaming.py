"""Answers that are told while they are decoded, one after another, for somebody who reads along.

What was computed of the last prompt and its answer is kept: in a conversation the next prompt begins with both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from training.cache import Prefixes
from training.errors import Interrupted
from training.models import LanguageModel
from training.rollout import Sampling, sample

OnText = Callable[[str], None]
"""Told every piece of an answer, "" where a token brings none yet. It may raise Interrupted, which ends the answer."""

_HALF = "\ufffd"
"""What stands for bytes that are no character, or none yet."""
_TURN_END = "\n\n"
"""What parts the turns of a prompt that has no chat template."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said.

    Attributes:
        text: As it was told.
        tokens: How many were decoded.
        ended: The model ended it by itself; False where the token limit or the reader cut it.
    """

    text: str
    tokens: int
    ended: bool


class TextStream:
    """Text of tokens that come one at a time. Bytes of a character that is not whole yet are held back.

    Args:
        lm: Whose tokens they are.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self._tokens: list[int] = []
        # A token may be spelled differently after others, so it is decoded together with those that were told last.
        self._before, self._told = 0, 0

    def push(self, token: int) -> str:
        """Takes a token; returns what is new of the text."""
        self._tokens.append(token)
        new = self._new()
        if not new or new.endswith(_HALF):
            return ""
        self._before, self._told = self._told, len(self._tokens)
        return new

    def end(self) -> str:
        """Returns what was held back."""
        new = self._new()
        self._before = self._told = len(self._tokens)
        return new

    def _new(self) -> str:
        told = self._lm.decode(self._tokens[self._before : self._told])
        return self._lm.decode(self._tokens[self._before :])[len(told) :]


class Voice:
    """A model that answers one prompt after another.

    Args:
        lm: Carries the adapter that answers; it must stay the same.
        sampling: Temperature, nucleus and seed; every answer draws from its own stream.
    """

    def __init__(self, lm: LanguageModel, sampling: Sampling) -> None:
        self._lm = lm
        self._sampling = sampling
        self._prefixes = Prefixes(newest_only=True)
        self._answers = 0

    def answer(self, prompt: Sequence[int], limit: int, on_text: OnText) -> Answer:
        """Answers a prompt.

        Args:
            prompt: Token ids, not empty.
            limit: Most new tokens.
            on_text: Told the text as it comes. Its pieces make up the answer's text.
        """
        is_raw = self._lm.prompt_format == "raw"
        stream, tokens = TextStream(self._lm), list[int]()
        whole = told = ""

        def tell(piece: str) -> None:
            nonlocal whole, told
            whole += piece
            now = _turn(whole) if is_raw else whole
            new, told = now[len(told) :], now
            on_text(new)

        def take(_: int, token: int) -> None:
            tokens.append(token)
            tell(stream.push(token))

        ended = False
        try:
            (found,) = sample(
                self._lm,
                [prompt],
                [limit],
                self._sampling,
                batch=1,
                stops=[_is_turn if is_raw else None],
                streams=[self._answers],
                prefixes=self._prefixes,
                on_token=take,
            )
            ended = found.ended or found.stopped
            tell(stream.end())
        except Interrupted:
            pass
        self._answers += 1
        self._prefixes.go_on(tokens)
        return Answer(told, len(tokens), ended)


def _turn(text: str) -> str:
    """The first turn of what a model without turns goes on with."""
    return text.strip("\n").partition(_TURN_END)[0]


def _is_turn(text: str) -> bool:
    return _TURN_END in text.lstrip("\n")
