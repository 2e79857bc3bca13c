"""What a feedback log amounts to, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from training.feedback import contradictions
from training.log import Log


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counts over a log's entries.

    Attributes:
        entries: Entries.
        checks: Entries that a check can judge, by the check's kind, most frequent first.
        attempts_right: Attempts judged right.
        attempts_wrong: Attempts judged wrong.
        attempts_unjudged: Attempts that nobody has judged.
        with_feedback: Attempts with a text of feedback.
        with_hint: Entries with a hint.
        contradictory: Answers that were judged both right and wrong.
        users: Different people who said something.
    """

    entries: int
    checks: Mapping[str, int]
    attempts_right: int
    attempts_wrong: int
    attempts_unjudged: int
    with_feedback: int
    with_hint: int
    contradictory: int
    users: int


def stats(log: Log) -> Stats:
    """Count what a log holds; its problems are in the log itself."""
    attempts = [attempt for entry in log.entries for attempt in entry.attempts]
    verdicts = Counter(attempt.verdict for attempt in attempts)
    kinds = Counter(entry.check.kind for entry in log.entries if entry.check is not None)
    return Stats(
        entries=len(log.entries),
        checks=dict(kinds.most_common()),
        attempts_right=verdicts["right"],
        attempts_wrong=verdicts["wrong"],
        attempts_unjudged=verdicts[None],
        with_feedback=sum(1 for attempt in attempts if attempt.feedback),
        with_hint=sum(1 for entry in log.entries if entry.hint),
        contradictory=len(contradictions(log.entries)),
        users=len({entry.user for entry in log.entries if entry.user}),
    )
