"""A chat: takes what is typed, has the model answer, and notes verdicts before anything else happens."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from spearctl import sharing, signals, swarm
from spearctl.conversation import REVISIONS, Conversation, Phase, Said
from spearctl.errors import UsageError
from spearctl.learner import Learner
from spearctl.run import Run
from spearctl.screens import ASK, JUDGE, MORE, Screen
from spearctl.text import clip, count, tilde
from spearctl.typed import Nothing, Order, Question, Typed, Verdict, read_typed
from training.errors import FeedbackError, Interrupted
from training.feedback import Entry, Message, attempt_key
from training.log import append, read_log, retract
from training.streaming import Answer, Voice

HELP = """\
+            the last answer is right; a comment may follow
- WHY        it is wrong; it tries again, told why (never what the answer is)
Enter        no verdict
/undo        takes the last verdict back
/new         forgets the conversation, and begins another
/system TEXT what the model is told first; "" for the home's own, no TEXT to see
/adapter     which adapter answers
/log         where verdicts go, and how many
/quit        leaves, as Ctrl-D does; Ctrl-C stops an answer
A line that ends in \\ goes on in the next; \"\"\" begins and ends a question
of any lines, and nothing is a verdict or a command between them."""
JUDGING = "Right? +   Wrong? - and what is wrong   Enter for no verdict, or just ask on"
_CLIP = 50
_FILLED = 0.75
"""Of the room for a prompt, what is filled at most after old turns were left out."""


@dataclass(slots=True)
class Tally:
    """What a chat came to."""

    answers: int = 0
    right: int = 0
    wrong: int = 0


class Talk:
    """A chat with a model.

    Args:
        run: Of the chat.
        ready: The model and its home.
        voice: Answers.
        screen: Where it is read from and shown.
        system: A system message; None for the home's own.
        limit: Most new tokens of an answer.
    """

    def __init__(
        self, run: Run, ready: Learner, voice: Voice, screen: Screen, *, system: str | None, limit: int
    ) -> None:
        self.tally = Tally()
        self._log: Path = run.home.feedback_path
        self._run = run
        self._ready = ready
        self._voice = voice
        self._screen = screen
        self._limit = limit
        self._began_with = self._in_use()
        self._conversation = Conversation(self._fits, self._has_spare, system=system)
        self._orders: Mapping[str, Callable[[str], None]] = {
            "help": lambda words: screen.show(HELP),
            "undo": self._undo,
            "new": self._new,
            "system": self._system,
            "adapter": self._adapter,
            "log": self._where,
        }

    def run(self) -> None:
        """Talks until the input ends or somebody leaves.

        Raises:
            FeedbackError: A verdict could not be noted, and nobody sits there to be told.
        """
        while (typed := read_typed(self._read_line)) is not None and typed != Order("quit", ""):
            try:
                self._take(typed)
            except UsageError as error:
                self._screen.wrong(error)
            except FeedbackError as error:
                if not self._screen.is_interactive:
                    raise
                self._screen.wrong(error)

    def _read_line(self, goes_on: bool) -> str | None:
        return self._screen.read(MORE if goes_on else JUDGE if self._conversation.phase is Phase.JUDGING else ASK)

    def _take(self, typed: Typed) -> None:
        match typed:
            case Question(text):
                self._ask(text)
            case Verdict(is_right, said):
                self._judge(is_right, said)
            case Order(name, words):
                if name not in self._orders:
                    raise UsageError(f"/{name} is no command", 'see /help; a question that begins with / goes in """')
                self._orders[name](words)
            case Nothing():
                self._conversation.skip()

    def _ask(self, question: str) -> None:
        dropped = self._conversation.ask(question)
        if dropped:
            what = count(dropped, "turn")
            self._screen.tell("cut", f"the oldest {what} no longer fit and were left out", turns=dropped)
        self._answer()

    def _judge(self, is_right: bool, said: str | None) -> None:
        conversation = self._conversation
        entry = conversation.judge(is_right, said)
        append(self._log, [entry])
        goes_on = conversation.noted(entry)
        self._count(entry, 1)
        (attempt,) = entry.attempts
        words = f"noted as {attempt.verdict}{f': {clip(said, _CLIP)}' if said else ''}"
        if goes_on:
            words += "; it tries again"
        elif not is_right:
            spent = conversation.revision >= REVISIONS
            words += "; it has tried often enough" if spent else "; there is no room for another try"
        self._screen.tell("verdict", words, id=entry.id, verdict=attempt.verdict, feedback=said, tries_again=goes_on)
        if goes_on:
            self._answer()

    def _answer(self) -> None:
        """Has the model answer, and shows that as it comes."""
        conversation, screen = self._conversation, self._screen
        prompt = self._ready.lm.encode_prompt(conversation.shown)
        started_s = time.monotonic()
        first_s: float | None = None
        screen.begin()
        # Where nobody sits, a signal ends the run; somebody who does may only want to stop the answer.
        with signals.deferred() if screen.is_interactive else nullcontext(signals.Stop()) as stop:

            def on_text(piece: str) -> None:
                nonlocal first_s
                if piece and first_s is None:
                    first_s = time.monotonic() - started_s
                screen.piece(piece)
                if stop:
                    raise Interrupted("stopped by the reader")

            answer = self._voice.answer(prompt, self._limit, on_text)
        if stop.number not in {None, signal.SIGINT}:
            stop.raise_if_asked()
        self.tally.answers += 1
        stopped_at_once = bool(stop) and not answer.text
        conversation.answered(None if stopped_at_once else Said(answer.text, answer.ended))
        screen.end(
            _how_it_ended(answer, stopped=bool(stop) and not answer.ended),
            id=conversation.id,
            revision=conversation.revision,
            text=answer.text,
            ended=answer.ended,
            prompt_tokens=len(prompt),
            tokens=answer.tokens,
            first_s=first_s,
            seconds=time.monotonic() - started_s,
        )
        if self.tally.answers == 1 and screen.is_interactive:
            screen.tell("note", JUDGING)

    def _fits(self, messages: Sequence[Message], part: float = 1.0) -> bool:
        lm = self._ready.lm
        # One more for the end of the answer, which is learned too.
        return len(lm.encode_prompt(messages)) <= part * (lm.max_sequence_tokens - self._limit - 1)

    def _has_spare(self, messages: Sequence[Message]) -> bool:
        return self._fits(messages, _FILLED)

    def _count(self, entry: Entry, by: int) -> None:
        if entry.attempts[0].verdict == "right":
            self.tally.right += by
        else:
            self.tally.wrong += by

    def _undo(self, words: str) -> None:
        entry = self._conversation.last_noted
        if entry is None:
            raise UsageError("no verdict of this chat is left to take back", "older ones: feedback forget ID")
        was_there = self._log.exists() and retract(self._log, entry)  # it may have been moved away meanwhile
        (attempt,) = entry.attempts
        is_trained = was_there and attempt_key(entry.id, attempt) in self._ready.history.trained()
        open_again = self._conversation.undone()
        self._count(entry, -1)
        text = f"took back: {attempt.verdict}, on “{clip(entry.conversation[-1].content, _CLIP)}”"
        self._screen.tell(
            "undo",
            text if was_there else "that verdict is not in the log any more",
            id=entry.id,
            verdict=attempt.verdict,
            removed=was_there,
            trained=is_trained,
            judge_anew=open_again,
        )
        if is_trained:
            back = swarm.way_back(self._run)
            self._screen.tell("note", f"what was learned from it stays{f'; to go back: {back}' if back else ''}")
        if open_again:
            self._screen.tell("note", f"judge it anew: “{clip(attempt.completion, _CLIP)}”")

    def _new(self, words: str) -> None:
        self._conversation.renew()
        self._screen.tell("new", "a new conversation")

    def _system(self, words: str) -> None:
        if words:
            self._conversation.system = words.strip('"').strip() or None
        told = self._conversation.system
        self._screen.show(f"told first: {told}" if told else "told first: what the home and the model say themselves")

    def _adapter(self, words: str) -> None:
        text, now = f"adapter {self._ready.adapter}", self._in_use()
        if now != self._began_with:
            name = now[0] if now[0] != self._began_with[0] else "more that was learned here"
            text += f"; {name} is in use by now: leave and start again to talk to it"
        self._screen.show(text)

    def _in_use(self) -> tuple[str, str]:
        """What the home uses, and the last version that it made of that: in a swarm there may be a newer one."""
        current = self._ready.history.current
        return sharing.in_use(self._run, self._run.config(), current), current

    def _where(self, words: str) -> None:
        entries = read_log(self._log).entries if self._log.exists() else ()
        tally = self.tally
        self._screen.show(
            f"{tilde(self._log)}: {count(len(entries), 'entry', 'entries')};"
            f" from this chat {tally.right} right, {tally.wrong} wrong"
        )


def _how_it_ended(answer: Answer, *, stopped: bool) -> str:
    """What there is to say of an answer's end, if anything."""
    if stopped:
        return "stopped"
    if not answer.text.strip():
        return "it said nothing"
    return "" if answer.ended else f"cut at {count(answer.tokens, 'token')}"
