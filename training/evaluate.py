"""How good an adapter is on a log it did not train on.

Questions with a check are answered greedily and judged. Choice questions are also scored by the likelihood of each
option, as lm-evaluation-harness does: ``acc`` takes the option with the highest log-likelihood, ``acc_norm`` the one
with the highest per byte. For answers that only people judged, the mean log-likelihood a token of the right ones is set
against that of the wrong ones.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from training.checks import Judgement, Verdict, contains
from training.feedback import Entry, contradictions
from training.models import LanguageModel
from training.parsing import encode_entry
from training.rollout import GREEDY, Notify, sample
from training.score import log_probabilities
from training.told import told_attempts
from training.traces import fit


@dataclass(frozen=True, slots=True)
class Share:
    """A share of ``n`` with its 95 % Wilson interval."""

    count: int
    n: int

    @property
    def value(self) -> float | None:
        return self.count / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        return wilson(self.count, self.n) if self.n else None


@dataclass(frozen=True, slots=True)
class Answered:
    """One question as the model answered it."""

    entry: Entry
    completion: str
    judgement: Judgement
    contains: bool


@dataclass(frozen=True, slots=True)
class ChoiceScores:
    """Choice questions scored by the options' likelihood: ``acc`` summed, ``acc_norm`` per byte."""

    acc: Share
    acc_norm: Share


@dataclass(frozen=True, slots=True)
class Preference:
    """Mean log-likelihood a token of answers that people judged right and wrong, and how many there were."""

    right: float
    wrong: float
    right_n: int
    wrong_n: int

    @property
    def margin(self) -> float:
        """Positive where the model prefers what people do."""
        return self.right - self.wrong


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a model did on a log.

    Attributes:
        answers: Every checkable question, as it was answered.
        accuracy: Right and in the asked form.
        format_rate: In the asked form, right or not.
        accuracy_formatted: Right, of those in the asked form.
        contains: The right answer is in there, in any form.
        best_constant: The answer that would be right most often if always given, and its share.
        common_answer: The answer given most often, and its share.
        choice: Likelihood scores, if there are choice questions.
        preference: For answers judged by people, if there are right and wrong ones.
        seconds: Wall time.
    """

    answers: tuple[Answered, ...]
    accuracy: Share
    format_rate: Share
    accuracy_formatted: Share
    contains: Share
    best_constant: tuple[str, float] | None
    common_answer: tuple[str, float] | None
    choice: ChoiceScores | None
    preference: Preference | None
    seconds: float


def evaluate(
    lm: LanguageModel,
    entries: Sequence[Entry],
    *,
    batch: int,
    most_new_tokens: int = 512,
    notify: Notify = lambda phase, done, total: None,
) -> Evaluation:
    """Evaluates the adapter that ``lm`` carries.

    Args:
        lm: The model.
        entries: With checks, or with attempts that people judged.
        batch: Sequences computed at once.
        most_new_tokens: Caps what a check allows for an answer.
        notify: Called with ("answering", done, total) at safe points.
    """
    started = time.monotonic()
    asked = [entry for entry in entries if entry.check is not None]
    answered = answers(lm, asked, batch=batch, most_new_tokens=most_new_tokens, notify=notify)
    right = sum(answer.judgement.verdict is Verdict.RIGHT for answer in answered)
    formatted = sum(answer.judgement.formatted for answer in answered)
    given = Counter(answer.judgement.answer for answer in answered if answer.judgement.answer is not None)
    return Evaluation(
        answers=tuple(answered),
        accuracy=Share(right, len(answered)),
        format_rate=Share(formatted, len(answered)),
        accuracy_formatted=Share(right, formatted),
        contains=Share(sum(answer.contains for answer in answered), len(answered)),
        best_constant=_most_common(best_constants(asked), len(asked)),
        common_answer=_most_common(given, len(answered)),
        choice=_choice_scores(lm, asked, batch),
        preference=_preference(lm, [entry for entry in entries if entry.check is None], batch),
        seconds=time.monotonic() - started,
    )


def questions_digest(entries: Iterable[Entry]) -> str:
    """SHA-256 over the entries with a check: only figures on the same questions can be compared.

    What people said of other answers does not count, nor when or by whom.
    """
    found = hashlib.sha256()
    for entry in entries:
        if entry.check is not None:
            found.update(encode_entry(msgspec.structs.replace(entry, attempts=(), ts=None, user=None, hint=None)))
    return found.hexdigest()


def best_constants(entries: Sequence[Entry]) -> Counter[str]:
    """How often each expected answer would be right if it were always given; a regex does not say which answer fits."""
    checks = [entry.check for entry in entries if entry.check is not None]
    return Counter(str(check.expect).strip().casefold() for check in checks if check.kind != "regex")


def wilson(count: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval for ``count`` of ``n`` (Wilson 1927, JASA 22:209), 95 % unless ``z`` says otherwise."""
    share, squared = count / n, z * z
    centre = (share + squared / (2 * n)) / (1 + squared / n)
    half = z / (1 + squared / n) * math.sqrt(share * (1 - share) / n + squared / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def answers(
    lm: LanguageModel,
    entries: Sequence[Entry],
    *,
    batch: int,
    most_new_tokens: int,
    phase: str = "answering",
    notify: Notify = lambda phase, done, total: None,
) -> list[Answered]:
    """Asks questions that have a check, greedily and with the room that self-play gives answers, and judges them."""
    most = min(most_new_tokens, lm.max_sequence_tokens // 2)
    limits = [min(entry.check.new_tokens, most) for entry in entries if entry.check is not None]
    prompts = []
    for entry, limit in zip(entries, limits, strict=True):
        whole = lm.encode_prompt(entry.conversation)
        prompts.append(whole[max(0, len(whole) + limit - lm.max_sequence_tokens) :])
    completions = sample(lm, prompts, limits, GREEDY, batch=batch, phase=phase, notify=notify)
    found = []
    for entry, completion in zip(entries, completions, strict=True):
        assert entry.check is not None
        text = lm.decode(completion.tokens)
        found.append(Answered(entry, text, entry.check.judge(text), contains(entry.check, text)))
    return found


def _most_common(counts: Counter[str], n: int) -> tuple[str, float] | None:
    if not counts:
        return None
    answer, count = counts.most_common(1)[0]
    return answer, count / n


def _choice_scores(lm: LanguageModel, entries: Sequence[Entry], batch: int) -> ChoiceScores | None:
    pairs, texts, expected = [], [], []
    for entry in entries:
        check = entry.check
        if check is None or check.kind != "choice" or not check.candidates:
            continue
        lead = "Answer: " if check.format == "answer_line" else ""
        # Raw prompts end without a blank; a chat template ends where the answer starts.
        gap = "" if lm.prompt_format == "chat" else " "
        options = [f"{gap}{lead}{candidate}" for candidate in check.candidates]
        prompt = lm.encode_prompt(entry.conversation)
        pairs += [fit(prompt, lm.encode_text(option), lm.max_sequence_tokens) for option in options]
        texts.append(options)
        expected.append([candidate.casefold() for candidate in check.candidates].index(str(check.expect).casefold()))
    if not pairs:
        return None
    sums = iter([float(scores.sum()) for scores in log_probabilities(lm, pairs, batch=batch)])
    plain = normalised = 0
    for options, target in zip(texts, expected, strict=True):
        scores = np.array([next(sums) for _ in options])
        lengths = np.array([len(option.encode()) for option in options])
        plain += int(scores.argmax()) == target
        normalised += int((scores / lengths).argmax()) == target
    return ChoiceScores(Share(plain, len(expected)), Share(normalised, len(expected)))


def _preference(lm: LanguageModel, entries: Sequence[Entry], batch: int) -> Preference | None:
    contradictory = contradictions(entries)
    told = [item for entry in entries for item in told_attempts(entry, contradictory)]
    verdicts = [item.attempt.verdict == "right" for item in told]
    if not (any(verdicts) and not all(verdicts)):
        return None
    pairs = [
        fit(lm.encode_prompt(item.entry.conversation), lm.encode_text(item.attempt.completion), lm.max_sequence_tokens)
        for item in told
    ]
    means = np.array([scores.mean() for scores in log_probabilities(lm, pairs, batch=min(batch, 4))])
    mask = np.array(verdicts)
    return Preference(float(means[mask].mean()), float(means[~mask].mean()), int(mask.sum()), int((~mask).sum()))
