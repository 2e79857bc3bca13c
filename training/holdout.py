"""A slice of the log that is kept from learning, and whether an update made the model worse on it.

Entries belong to the slice by the digest of their prompt, so that the same ones do after a restart, and for every line
that says something of the same prompt. Each gives one score from 0 to 1, before an update and after it:

    a check                1 if the greedy answer is right, else 0
    answers people judged  the mean, over them, of what the model makes of a token of a right one, and of what it
                           leaves of a token of a wrong one (1 less that), as geometric means of probabilities

Whether the scores fell by more than ``most_drop`` is asked by a paired randomisation test (Fisher 1935, The Design of
Experiments, section 21): if they did not, the signs of ``drop - most_drop`` are as likely to be turned round. An update
loses where fewer than 1 in 20 of all turnings come out as low. With fewer than five entries none does.

It does not see what the slice does not ask, and people's answers by likelihood only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.checks import Verdict
from training.evaluate import answers
from training.feedback import Entry, contradictions
from training.models import LanguageModel
from training.rollout import Notify
from training.score import log_probabilities
from training.told import told_attempts
from training.traces import fit

Scores = npt.NDArray[np.float64]

MOST_ENTRIES = 48
"""Of a longer slice, those with the lowest digests count: an update should not take long to judge."""
SIGNIFICANT = 0.05

_DIGITS = 13  # hex digits of a digest that a float holds exactly
_EXACT = 12  # with so many differences or fewer all sign patterns are tried
_PATTERNS = 10_000


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an update did to the scores of the slice.

    Attributes:
        entries: How many were scored.
        drop: By how much the mean score fell, negative where it rose.
        p: How likely such scores are if it fell by no more than allowed.
        reason: Why the update is to be discarded; None where it may be kept.
    """

    entries: int
    drop: float
    p: float
    reason: str | None


def is_held_out(entry: Entry, share: float) -> bool:
    """Whether an entry belongs to a slice of about ``share`` of all prompts."""
    return int(entry.prompt_key[:_DIGITS], 16) < share * 16**_DIGITS


@dataclass(frozen=True, slots=True)
class HoldOut:
    """The slice, and what is allowed to happen to it.

    Attributes:
        entries: Held out, that can be scored.
        most_drop: By how much the mean score may fall, 0 to 1.
        most_new_tokens: Caps what a check allows for an answer.
        batch: Sequences computed at once.
    """

    entries: tuple[Entry, ...]
    most_drop: float
    most_new_tokens: int
    batch: int

    @classmethod
    def of(
        cls, entries: Sequence[Entry], share: float, *, most_drop: float, most_new_tokens: int, batch: int
    ) -> HoldOut:
        """The slice of a log."""
        contradictory = contradictions(entries)
        usable = [
            entry
            for entry in entries
            if is_held_out(entry, share) and (entry.check is not None or told_attempts(entry, contradictory))
        ]
        chosen = sorted(usable, key=lambda entry: entry.prompt_key)[:MOST_ENTRIES]
        return cls(tuple(chosen), most_drop, most_new_tokens, batch)

    def scores(self, lm: LanguageModel, *, notify: Notify = lambda phase, done, total: None) -> Scores:
        """One score from 0 to 1 for each entry, ``[entries]``."""
        found = np.zeros(len(self.entries))
        asked = [i for i, entry in enumerate(self.entries) if entry.check is not None]
        judged = [i for i, entry in enumerate(self.entries) if entry.check is None]
        found[asked] = self._answered(lm, [self.entries[i] for i in asked], notify)
        found[judged] = self._believed(lm, [self.entries[i] for i in judged])
        return found

    def judge(self, before: Scores, after: Scores) -> Judgement:
        """Whether an update may be kept."""
        drops = before - after
        if not len(drops):
            return Judgement(0, 0.0, 1.0, None)
        drop, p = float(drops.mean()), randomisation(drops - self.most_drop)
        reason = None
        if p < SIGNIFICANT:
            reason = (
                f"scores on {len(drops)} held-out entries fell by {drop:.2f}, from {before.mean():.2f} to"
                f" {after.mean():.2f}; {self.most_drop:.2f} is allowed (p = {p:.3f})"
            )
        return Judgement(len(drops), drop, p, reason)

    def _answered(self, lm: LanguageModel, entries: Sequence[Entry], notify: Notify) -> list[float]:
        found = answers(
            lm, entries, batch=self.batch, most_new_tokens=self.most_new_tokens, phase="holding out", notify=notify
        )
        return [float(answered.judgement.verdict is Verdict.RIGHT) for answered in found]

    def _believed(self, lm: LanguageModel, entries: Sequence[Entry]) -> list[float]:
        contradictory = contradictions(entries)
        told = [told_attempts(entry, contradictory) for entry in entries]
        pairs = [
            fit(
                lm.encode_prompt(item.entry.conversation),
                (*lm.encode_text(item.attempt.completion), lm.eos_id),
                lm.max_sequence_tokens,
            )
            for items in told
            for item in items
        ]
        tokens = iter(
            [float(np.exp(scores.mean())) for scores in log_probabilities(lm, pairs, batch=min(self.batch, 4))]
        )
        believed = [
            [next(tokens) if item.attempt.verdict == "right" else 1 - next(tokens) for item in items] for items in told
        ]
        return [float(np.mean(scores)) for scores in believed]


def randomisation(differences: npt.NDArray[np.float64]) -> float:
    """How likely a mean as high as that of ``differences`` is if each was as likely to have the other sign."""
    count = len(differences)
    if count <= _EXACT:
        signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
    else:
        signs = np.random.default_rng(0).choice([-1, 1], size=(_PATTERNS, count))
        signs[0] = 1
    means = (signs * differences).mean(axis=1)
    return float((means >= differences.mean() - 1e-12).mean())
