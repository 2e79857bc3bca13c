"""Which entries a round uses: new verdicts of people, for up to half of it, and the prompts that were played least."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from training.feedback import Entry, contradictions
from training.told import Told, told_attempts

_QUESTIONS_AN_ANSWER = 4
"""From so many on average on, a log with any number of answers is one with few."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What one round uses: ``plays`` are played, ``told`` holds judged attempts, ``replays`` right ones of before."""

    plays: tuple[Entry, ...]
    told: tuple[Told, ...]
    replays: tuple[Told, ...] = ()


class Pool:
    """All that a log offers, less what was used.

    Args:
        entries: Of the log.
        trained: Keys of attempts already trained on.
        played: How often each prompt was played, by prompt key.
        replay: Attempts judged right that were trained on before are used again, up to this share of a round's size:
            what is never repeated is forgotten. Prompts with a check are played again anyway.
    """

    def __init__(
        self, entries: Sequence[Entry], *, trained: Set[str], played: Mapping[str, int], replay: float = 0.0
    ) -> None:
        self._replay = replay
        self._playable = [(entry, entry.prompt_key) for entry in entries if entry.check is not None]
        contradictory = contradictions(entries)
        attempts = [told for entry in entries for told in told_attempts(entry, contradictory)]
        self._waiting = {told.key: told for told in attempts if told.key not in trained}
        self._learned = [told for told in attempts if told.key in trained and told.attempt.verdict == "right"]
        self._played = Counter(dict(played))
        self.contradictory = sum(
            (entry.prompt_key, attempt.completion) in contradictory
            for entry in entries
            if entry.check is None
            for attempt in entry.attempts
            if attempt.verdict is not None
        )
        self.already_trained = len({told.key for told in attempts}) - len(self._waiting)

    @property
    def playable(self) -> int:
        """Prompts that can be played; they never run out."""
        return len(self._playable)

    @property
    def waiting(self) -> int:
        """Judged attempts not yet trained on."""
        return len(self._waiting)

    @property
    def unseen(self) -> int:
        """What is new: judged attempts not yet trained on, and prompts with a check that were never played."""
        return self.waiting + len({key for _, key in self._playable if not self._played[key]})

    def answer_rates(self) -> dict[str, dict[str, float]]:
        """By kind of check, the share of its questions that each answer, in lower case, is right for.

        Only of kinds where few answers are possible, or as good as: of many, it is chance which is right twice.
        """
        by_kind: dict[str, Counter[str]] = {}
        closed: set[str] = set()
        for entry, _ in self._playable:
            assert entry.check is not None
            by_kind.setdefault(entry.check.kind, Counter())[str(entry.check.expect).casefold()] += 1
            if entry.check.candidates:
                closed.add(entry.check.kind)
        return {
            kind: {answer: count / counts.total() for answer, count in counts.items()}
            for kind, counts in by_kind.items()
            if kind in closed or counts.total() >= _QUESTIONS_AN_ANSWER * len(counts)
        }

    def draw(self, size: int, seed: int) -> Draw:
        """At most ``size`` judged attempts and prompts together, in an order that only the seed decides.

        Where both are at hand, half of the room is kept for prompts: a log full of answers judged wrong would otherwise
        fill every round, and without a win nothing is ever learned.
        """
        rng = np.random.default_rng(seed)
        waiting = list(self._waiting.values())
        room = max(size - len(self._playable), (size + 1) // 2)
        told = tuple(waiting[i] for i in rng.permutation(len(waiting))[:room])
        shuffled = [self._playable[i] for i in rng.permutation(len(self._playable))]
        fewest_first = sorted(shuffled, key=lambda row: self._played[row[1]])
        plays = tuple(entry for entry, _ in fewest_first[: size - len(told)])
        again = rng.permutation(len(self._learned))[: int(self._replay * size)]
        return Draw(plays, told, tuple(self._learned[i] for i in again))

    def use(self, draw: Draw) -> None:
        """Takes out what a round has learned from."""
        for told in draw.told:
            self._waiting.pop(told.key, None)
        self._played.update(entry.prompt_key for entry in draw.plays)
