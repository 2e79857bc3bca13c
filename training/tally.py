"""Counts of a round of play, and what they say about the learner's health."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from training.checks import Judgement
from training.traces import AnswerRates

_ENOUGH = 16
"""Fewer answers or revisions than this say nothing."""
_SAME_SHARE = 0.9
_CHANGED_SHARE = 0.1


@dataclass(slots=True)
class Tally:
    """What happened while playing; filled in by ``selfplay``.

    Attributes:
        played: First answers given.
        right_first: Of them, right and in the asked form.
        reformatted: Wins by a rewrite alone.
        revised: Wins by a revision.
        dropped: Right but never in the asked form.
        echoes: Tries that copied what they were told.
        cut: Completions cut behind their answer.
        prompts_cut: Prompts cut at the front to fit the sequence.
        completions_cut: Completions of people too long for the sequence, cut at the end.
        revisions: Revisions tried.
        revisions_changed: Of them, with another answer than the first one.
        answers: First answers by kind of check.
    """

    played: int = 0
    right_first: int = 0
    reformatted: int = 0
    revised: int = 0
    dropped: int = 0
    echoes: int = 0
    cut: int = 0
    prompts_cut: int = 0
    completions_cut: int = 0
    revisions: int = 0
    revisions_changed: int = 0
    answers: dict[str, Counter[str]] = field(default_factory=dict)

    def first(self, kind: str, judgement: Judgement) -> None:
        """Counts a first answer."""
        self.played += 1
        if judgement.answer is not None:
            self.answers.setdefault(kind, Counter())[judgement.answer] += 1

    def revision(self, *, changed: bool) -> None:
        """Counts a revision."""
        self.revisions += 1
        self.revisions_changed += changed

    def won(self, *, first: bool, revised: bool) -> None:
        """Counts a win: by the first answer, by a revision, or else by a rewrite."""
        self.right_first += first
        self.revised += revised
        self.reformatted += not first and not revised

    @property
    def common_answer(self) -> tuple[str, str, float, int] | None:
        """Kind, answer, share and count of the most one-sided kind with at least 16 first answers."""
        found = []
        for kind, answers in self.answers.items():
            total = answers.total()
            if total >= _ENOUGH:
                answer, count = answers.most_common(1)[0]
                found.append((kind, answer, count / total, total))
        return max(found, key=lambda row: row[2]) if found else None

    @property
    def changed_share(self) -> float | None:
        """Share of revisions that changed the answer, None if there were too few to say."""
        return self.revisions_changed / self.revisions if self.revisions >= _ENOUGH else None

    def health(self, rates: AnswerRates) -> list[str]:
        """Lines for a person, one a problem.

        Args:
            rates: By kind, how often each answer is right in the log: a learner that says the most common one as
                often as that is not collapsed.
        """
        lines = []
        common = self.common_answer
        if common is not None:
            kind, answer, share, total = common
            if share >= _SAME_SHARE and share > max(rates.get(kind, {}).values(), default=0.0) + 0.1:
                lines.append(
                    f"collapse: {share:.0%} of {total} {kind} answers are {answer!r}; more rounds reinforce it."
                    " Add feedback with other right answers, or, outside of a swarm, go back: spearctl adapter rollback"
                )
        changed = self.changed_share
        if changed is not None and changed < _CHANGED_SHARE:
            lines.append(
                f"revisions change nothing: {changed:.0%} of {self.revisions} gave another answer."
                " Hints or comments in the log would help"
            )
        return lines
