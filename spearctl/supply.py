"""What a feedback log offers to learn from, and what a person should know about what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spearctl.text import count

if TYPE_CHECKING:
    from training.log import Log
    from training.pool import Pool
    from training.rounds import RoundReport


@dataclass(frozen=True, slots=True)
class Supply:
    """What a log offers to learn from.

    Attributes:
        entries: Readable entries.
        playable: Of them, with a check: they can be played again and again.
        waiting: Attempts that people judged and that were not trained on.
        already_trained: Attempts that were.
        contradictory: Attempts left out because people disagree on them.
        problems: Bad lines.
        held_out: Entries that are kept from learning, to judge updates by.
    """

    entries: int
    playable: int
    waiting: int
    already_trained: int
    contradictory: int
    problems: int
    held_out: int = 0

    @classmethod
    def of(cls, log: Log, pool: Pool, *, held_out: int = 0) -> Supply:
        """What a log offers by a pool made of it."""
        return cls(
            len(log.entries), pool.playable, pool.waiting, pool.already_trained, pool.contradictory,
            len(log.problems), held_out,
        )  # fmt: skip

    @property
    def is_empty(self) -> bool:
        return not self.playable and not self.waiting

    def rows(self) -> list[tuple[str, str]]:
        """Labels and values, for a person."""
        trained = f"{count(self.already_trained, 'attempt')} already" if self.already_trained else ""
        left_out = f"{count(self.contradictory, 'attempt')} people disagree on" if self.contradictory else ""
        return [
            ("entries", f"{self.entries:,}"),
            ("to play", f"{count(self.playable, 'prompt')} with a check"),
            ("judged", f"{count(self.waiting, 'attempt')} by people, not trained on yet"),
            ("trained", trained),
            ("left out", left_out),
            ("held out", f"{count(self.held_out, 'entry', 'entries')}, to judge updates by" if self.held_out else ""),
            ("bad lines", f"{self.problems:,}" if self.problems else ""),
        ]


def advice(supply: Supply, rounds: Sequence[RoundReport], dry_run: bool) -> list[str]:
    """Says why nothing was learned and what would help, and what the last round's health is."""
    if supply.is_empty:
        if supply.already_trained:
            return ["everything in this log was trained on already; add feedback, or train --again"]
        return ["nothing in this log can be learned from: give entries a `check`, or attempts a `verdict`"]
    if dry_run:
        return []
    lines = list(rounds[-1].health) if rounds else []
    if supply.contradictory:
        lines.append(f"{count(supply.contradictory, 'attempt')} left out, because people disagree on what was answered")
    cut = sum(report.prompts_cut for report in rounds), sum(report.completions_cut for report in rounds)
    if any(cut):
        lines.append(f"too long for the profile's sequence: {cut[0]} prompts cut in front, {cut[1]} answers at the end")
    lines += [f"round {report.round} was discarded: {report.discarded}" for report in rounds if report.discarded]
    skipped = sum(report.skipped_steps for report in rounds)
    if skipped:
        lines.append(f"{count(skipped, 'step')} skipped because the gradient was not finite; use a float32 profile")
    if rounds and not any(report.wins for report in rounds):
        lines.append(
            "no answer was right, so nothing was learned: SPEAR needs wins."
            " Add easier prompts, hints, or attempts judged right"
        )
    return lines
