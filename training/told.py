"""Traces from what people said: attempts judged right are wins, attempts judged wrong are losses."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from training.feedback import Attempt, Entry, attempt_key
from training.models import LanguageModel
from training.tally import Tally
from training.traces import CORRECTED, UNCORRECTED, Trace, fit

_TAIL_TOKENS = 32
"""Of a wrong answer, only the end is pushed down: nobody said which of its words were wrong."""


@dataclass(frozen=True, slots=True)
class Told:
    """A judged attempt, and the key under which it is remembered once it was trained on."""

    entry: Entry
    attempt: Attempt
    key: str
    weight: float


def told_attempts(entry: Entry, contradictory: Collection[tuple[str, str]]) -> list[Told]:
    """The attempts of an entry that a person judged, without those that people disagree on.

    Args:
        entry: Without a check: where there is one, the entry is played instead.
        contradictory: Pairs of prompt key and completion with both verdicts in the log.
    """
    if entry.check is not None or not entry.attempts:
        return []
    prompt_key = entry.prompt_key
    found = []
    for place, attempt in enumerate(entry.attempts):
        if attempt.verdict is None or (prompt_key, attempt.completion) in contradictory or not attempt.completion:
            continue
        later_right = any(other.verdict == "right" for other in entry.attempts[place + 1 :])
        weight = CORRECTED if attempt.verdict == "right" or later_right else UNCORRECTED
        found.append(Told(entry, attempt, attempt_key(entry.id, attempt), weight))
    return found


def told_traces(lm: LanguageModel, told: Iterable[Told], tally: Tally) -> list[Trace]:
    """Encodes judged attempts; prompts that do not fit are cut at their front and counted."""
    traces = []
    for item in told:
        whole = lm.encode_prompt(item.entry.conversation)
        answer = (*lm.encode_text(item.attempt.completion), lm.eos_id)
        prompt, completion = fit(whole, answer, lm.max_sequence_tokens)
        tally.prompts_cut += len(prompt) < len(whole)
        tally.completions_cut += len(completion) < len(answer)
        win = item.attempt.verdict == "right"
        traces.append(
            Trace(prompt=prompt, completion=completion, win=win, weight=item.weight, tail_tokens=_TAIL_TOKENS)
        )
    return traces
