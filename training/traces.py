"""What a round learns from: completions with their prompts, as token ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CORRECTED = 1.0
"""Weight of a wrong completion that was later put right: the model demonstrably could do better."""
UNCORRECTED = 0.5
"""Weight of a wrong completion that stayed wrong."""

_MOST_FACTOR = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One completion that was right (a win) or wrong (a loss).

    Attributes:
        prompt: Token ids of the *original* prompt, never of a revision.
        completion: Token ids, EOS included where the completion ended.
        win: Right or wrong.
        weight: Advantage of a loss; 1.0 for a win.
        kind: The check that judged it, or "person".
        answer: Its normalised answer, if the check found one.
        tail_tokens: A loss is pushed down on its last so many tokens; 0 for all.
        protected: Token ids that are never pushed down.
        end_counts: A loss's EOS is pushed down, too: the model ended there by itself, and may be wrong for it.
    """

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    win: bool
    weight: float = 1.0
    kind: str = "person"
    answer: str | None = None
    tail_tokens: int = 0
    protected: frozenset[int] = frozenset()
    end_counts: bool = False

    @property
    def sequence(self) -> tuple[int, ...]:
        """Prompt and completion."""
        return self.prompt + self.completion

    @property
    def length(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.prompt) + len(self.completion)


AnswerRates = Mapping[str, Mapping[str, float]]
"""By kind of check, how often each answer is the right one."""


def balance(wins: Sequence[Trace], rates: AnswerRates | None = None) -> list[float]:
    """Factors that give every answer of a kind of check the total weight it has among right answers, not among wins.

    A policy that always says "yes" is right half of the time and would be reinforced by exactly those wins. No factor
    is above 4, so that one lucky answer is not learned by heart; within a kind the mean is 1. Wins without an answer
    (judged by a person, or by a check that declares none) keep the factor 1.

    Args:
        wins: Of a round.
        rates: How often each answer is right; an answer that is not in there counts as the rarest of its kind. Wins of
            a kind that is not keep the factor 1. Without any rates, all answers of every kind count the same.
    """
    answers: dict[str, Counter[str]] = {}
    for win in wins:
        if win.answer is not None and (rates is None or win.kind in rates):
            answers.setdefault(win.kind, Counter())[win.answer] += 1
    factors = {kind: _evened(counts, (rates or {}).get(kind) or {}) for kind, counts in answers.items()}
    return [1.0 if win.answer is None or win.kind not in factors else factors[win.kind][win.answer] for win in wins]


def _evened(counts: Counter[str], rates: Mapping[str, float]) -> dict[str, float]:
    """A factor an answer: totals in proportion to the rates, less what is above the cap, which the others share."""
    rarest = min(rates.values(), default=1.0)
    wanted = {answer: rates.get(answer.casefold(), rarest) for answer in counts}
    capped: set[str] = set()
    while True:
        left = counts.total() - _MOST_FACTOR * sum(counts[answer] for answer in capped)
        unit = left / sum(rate for answer, rate in wanted.items() if answer not in capped)
        factors = {
            answer: _MOST_FACTOR if answer in capped else unit * wanted[answer] / count
            for answer, count in counts.items()
        }
        above = {answer for answer, factor in factors.items() if factor > _MOST_FACTOR}
        if not above:
            return factors
        capped |= above


def fit(prompt: Sequence[int], completion: Sequence[int], most_tokens: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Cuts a prompt at its front, so that it fits with its completion into ``most_tokens``.

    The end of the prompt is kept: at least a quarter of the sequence. A completion longer than the rest loses its end.
    """
    room = max(1, most_tokens - min(len(prompt), max(1, most_tokens // 4)))
    kept = tuple(completion[:room])
    return tuple(prompt[max(0, len(prompt) + len(kept) - most_tokens) :]), kept
