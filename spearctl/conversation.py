"""A conversation whose answers are judged: what the model is shown, and what the feedback log is told.

    asking -> answering -> judging -> asking            right, or no verdict
                            judging -> revising -> judging   wrong: the model tries again, told what was wrong

It neither reads, prints, writes nor asks a model: others do, and tell it what came of that. Every verdict is an entry
of its own line; those on one question share an id, so that a later right answer counts for the wrong ones before it.
An entry's prompt is what the model was shown for the first answer, so what is learned is what was seen.
"""

from __future__ import annotations

import enum
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from spearctl.entries import make_attempt, make_entry
from spearctl.errors import UsageError
from training.feedback import Entry, Message
from training.prompts import Retry, Task, revision

REVISIONS = 2
"""Tries after a wrong answer, as many as in self-play."""

Fits = Callable[[Sequence[Message]], bool]
"""Whether there is room for an answer behind a prompt."""


class Phase(enum.StrEnum):
    """What is awaited."""

    ASKING = "asking"
    ANSWERING = "answering"
    JUDGING = "judging"
    REVISING = "revising"


@dataclass(frozen=True, slots=True)
class Said:
    """An answer; `ended` is False where it was cut, so that nobody can tell how it would have ended."""

    text: str
    ended: bool


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and how far it has come.

    Attributes:
        prompt: As an entry without attempts.
        answer: The last one, once there is one.
        verdict: What was said of it.
        skipped: No verdict was wanted.
        revisions: How many answers were revisions.
        retry: The model is trying again: what it is told.
    """

    prompt: Entry
    answer: Said | None = None
    verdict: str | None = None
    skipped: bool = False
    revisions: int = 0
    retry: Retry | None = None


class Conversation:
    """Turns, and the exchange that is going on.

    Args:
        fits: Whether a prompt leaves room for an answer.
        spare: Whether it leaves room for some turns more. Where turns have to give way, so many do that this holds: a
            prompt that begins otherwise has to be computed anew, which takes long.
        system: A system message; None for the home's own.
    """

    def __init__(self, fits: Fits, spare: Fits, *, system: str | None = None) -> None:
        self.system = system
        self._fits = fits
        self._spare = spare
        self._turns: list[Message] = []
        self._exchange: Exchange | None = None
        self._noted: list[tuple[Entry, Exchange]] = []

    @property
    def phase(self) -> Phase:
        """What is awaited now."""
        exchange = self._exchange
        if exchange is None:
            return Phase.ASKING
        if exchange.retry is not None:
            return Phase.REVISING
        if exchange.answer is None:
            return Phase.ANSWERING
        return Phase.ASKING if exchange.verdict or exchange.skipped else Phase.JUDGING

    @property
    def id(self) -> str | None:
        """The id under which verdicts on the last answer are noted."""
        return self._exchange.prompt.id if self._exchange else None

    @property
    def revision(self) -> int:
        """How many tries came before the answer that is awaited or judged; 0 for a first answer."""
        return self._exchange.revisions if self._exchange else 0

    def ask(self, question: str) -> int:
        """Begins the next exchange.

        Args:
            question: Not empty.

        Returns:
            How many of the oldest turns no longer fit and were left out for good.

        Raises:
            UsageError: The question alone does not fit; nothing was changed.
        """
        turns = [*self._turns, *self._last_turn()]
        system = [Message("system", self.system)] if self.system else []
        asked = Message("user", question)
        kept = _cut(system, turns, [asked], self._fits)
        if kept is None or len(kept) < len(turns):
            kept = _cut(system, turns, [asked], self._spare) or kept
        if kept is None:
            raise UsageError(
                "that is longer than the model can read", "shorten it, or leave less for the answer: --max-new-tokens"
            )
        self._turns = kept
        messages = (*system, *kept, asked)
        alone = len(messages) == 1
        prompt = Entry(
            v=1,
            id=secrets.token_hex(6),
            prompt=question if alone else None,
            messages=None if alone else messages,
        )
        self._exchange = Exchange(prompt)
        return (len(turns) - len(kept)) // 2

    @property
    def shown(self) -> tuple[Message, ...]:
        """What the model is to answer now."""
        exchange = self._going_on()
        return exchange.retry.messages if exchange.retry else exchange.prompt.conversation

    def answered(self, answer: Said | None) -> None:
        """Takes the model's answer; None if nothing came, which leaves things as they were before it was awaited."""
        exchange = self._going_on()
        if answer is not None:
            revisions = exchange.revisions + (exchange.retry is not None)
            self._exchange = Exchange(exchange.prompt, answer, revisions=revisions)
        else:
            self._exchange = replace(exchange, retry=None) if exchange.answer else None

    def skip(self) -> None:
        """Goes on without a verdict; one may still be given until the next question."""
        if self._exchange is not None:
            self._exchange = replace(self._exchange, skipped=True)

    def judge(self, is_right: bool, said: str | None) -> Entry:
        """Makes the entry that notes a verdict. Nothing changes until it is :meth:`noted`.

        Raises:
            UsageError: There is nothing to judge, or it cannot be judged so.
        """
        exchange = self._exchange
        if exchange is None or exchange.answer is None:
            raise UsageError("no answer waits for a verdict", "ask first; a question that begins so goes in " + '"""')
        if exchange.verdict is not None:
            raise UsageError(f"that answer was judged {exchange.verdict} already", "take that back first: /undo")
        if is_right and not (exchange.answer.ended and exchange.answer.text.strip()):
            what = "an answer that was cut short" if exchange.answer.text.strip() else "an empty answer"
            raise UsageError(
                f"{what} cannot be learned as right: the model would learn to stop there",
                "judge it wrong (- too long), or let it say more: --max-new-tokens N",
            )
        attempt = make_attempt(exchange.answer.text, "right" if is_right else "wrong", said)
        return make_entry(exchange.prompt, exchange.prompt.id, None, attempt, None, hint=None, user=None)

    def noted(self, entry: Entry) -> bool:
        """Goes on from a verdict that is in the log now.

        Returns:
            Whether the model tries again.
        """
        exchange = self._exchange
        assert exchange is not None
        assert exchange.answer is not None
        (attempt,) = entry.attempts
        self._noted.append((entry, exchange))
        judged = replace(exchange, verdict=attempt.verdict)
        retry = None
        if attempt.verdict == "wrong" and exchange.revisions < REVISIONS:
            task = Task(exchange.prompt.conversation, kind="person", form="", answer_line=False)
            retry = self._fitted(revision(task, exchange.answer.text, attempt.feedback))
        self._exchange = replace(judged, retry=retry)
        return retry is not None

    @property
    def last_noted(self) -> Entry | None:
        """The last verdict of this chat that was not taken back."""
        return self._noted[-1][0] if self._noted else None

    def undone(self) -> bool:
        """Goes back to before the last verdict, which is no longer in the log.

        Returns:
            Whether the answer can be judged anew: it is one to the last question.
        """
        entry, before = self._noted.pop()
        if self._exchange is None or self._exchange.prompt.id != entry.id:
            return False
        self._exchange = before
        return True

    def renew(self) -> None:
        """Forgets the turns."""
        self._turns, self._exchange = [], None

    def _going_on(self) -> Exchange:
        exchange = self._exchange
        assert exchange is not None
        return exchange

    def _last_turn(self) -> tuple[Message, ...]:
        exchange = self._exchange
        if exchange is None or exchange.answer is None or not exchange.answer.text.strip():
            return ()
        return exchange.prompt.conversation[-1], Message("assistant", exchange.answer.text)

    def _fitted(self, retry: Retry) -> Retry | None:
        """The retry without as many old turns as it takes; None if it does not fit even so."""
        system = [message for message in retry.messages[:1] if message.role == "system"]
        # The question, the answer to it, and what was said of that.
        turns, last = list(retry.messages[len(system) : -3]), list(retry.messages[-3:])
        kept = _cut(system, turns, last, self._fits)
        return None if kept is None else replace(retry, messages=(*system, *kept, *last))


def _cut(
    system: Sequence[Message], turns: Sequence[Message], last: Sequence[Message], fits: Fits
) -> list[Message] | None:
    """The turns that fit between a system message and what comes last, the newest of them; None if not even that."""
    for start in range(0, len(turns) + 1, 2):
        if fits([*system, *turns[start:], *last]):
            return list(turns[start:])
    return None
