"""Batch sizes measured on the machine they are for: how many tokens a second each gives, and what memory it takes.

Sizes double until the speed no longer grows, a size takes too long, or a budget is reached; of those within a few
percent of the fastest the smallest is taken, for it takes the least memory. Learning is tried with checkpointing too
where without it the budget, and not the machine, sets the end.

Does not cover: a machine that does other work meanwhile (measure again when it is quiet).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from profiles import Profile, ProfileError
from training.feedback import Entry, Message
from training.halving import is_out_of_memory
from training.memory import TRACE_TOKENS, Demand, Gauge, Lengths, halves, recompute
from training.models import LanguageModel
from training.rollout import SAMPLED, sample
from training.traces import Trace
from training.update import UpdateConfig, update

ROLLOUT_SIZES = (4, 8, 16, 32, 64, 128)
MICRO_SIZES = (1, 2, 4, 8, 16, 32)

_ENOUGH_S = 1.5  # of measuring one size
_LONG_S = 10.0  # for one run of a size: the next would take twice as long
_SAME = 0.95  # of the fastest is as good
_MISSES = 2  # sizes in a row that are no faster end a sweep
_NEW_TOKENS = 32
_STEP_TRACES = 8  # at least, so that an optimiser step weighs no more than it does in training

Phase = Literal["playing", "learning"]


@dataclass(frozen=True, slots=True)
class Point:
    """What one size gave.

    Attributes:
        phase: What was measured: "playing" (`rollout_batch`) or "learning" (`micro_batch`).
        size: The batch.
        checkpointing: Whether activations were computed again; False for playing.
        tokens_per_s: Prompts and completions together; None where it was not run or ran out of memory.
        peak_bytes: Most memory while it ran; where it was not run, what it was expected to take.
        fits: Whether that is within the budget.
    """

    phase: Phase
    size: int
    checkpointing: bool
    tokens_per_s: float | None
    peak_bytes: int
    fits: bool


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was measured, and what came of it.

    Attributes:
        before: The profile that was in use.
        after: The same with the sizes that were found best.
        points: All that was measured, in that order.
    """

    before: Profile
    after: Profile
    points: tuple[Point, ...]

    def point(self, profile: Profile, phase: Phase) -> Point | None:
        """What a profile's own size gave."""
        return next((point for point in self.points if _is_of(point, profile, phase)), None)

    def gain(self, phase: Phase) -> float | None:
        """How many times faster the new size is than the one before; None where that one could not be run."""
        before, after = self.point(self.before, phase), self.point(self.after, phase)
        if before is None or after is None or not before.tokens_per_s or not after.tokens_per_s:
            return None
        return after.tokens_per_s / before.tokens_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What sizes are measured with.

    Attributes:
        lm: The model; its adapter is the same afterwards.
        demand: What it takes, for sizes that are better not tried.
        lengths: The longest there is to work on.
        gauge: Measures memory.
        budget: Most memory, in bytes.
        prompts: Token ids to play with, at least one.
        tell: Called with each point.
    """

    lm: LanguageModel
    demand: Demand
    lengths: Lengths
    gauge: Gauge
    budget: int
    prompts: Sequence[Sequence[int]]
    tell: Callable[[Point], None] = lambda point: None

    def playing(self, size: int) -> Point:
        """Measures decoding ``size`` sequences at once."""
        lm, new = self.lm, min(_NEW_TOKENS, self.lengths.completion)
        rows = [self.prompts[i % len(self.prompts)] for i in range(size)]

        def run() -> int:
            found = sample(lm, rows, [new] * size, SAMPLED, batch=size)
            return sum(map(len, rows)) + sum(len(one.tokens) + one.ended for one in found)

        return self._measured("playing", size, False, self.demand.playing(size, self.lengths), run)

    def learning(self, size: int, checkpointing: bool) -> Point:
        """Measures a step whose passes hold ``size`` traces."""
        traces = _traces(self.lm, max(size, _STEP_TRACES), self.lengths.completion)
        config = UpdateConfig(steps=1, batch=len(traces), micro_batch=size, learning_rate=0.0)
        expected = self.demand.learning(size, self.lengths, checkpointing=checkpointing)
        recompute(self.lm, checkpointing)
        return self._measured("learning", size, checkpointing, expected, lambda: update(self.lm, traces, config).tokens)

    def _measured(self, phase: Phase, size: int, checkpointing: bool, expected: int, run: Callable[[], int]) -> Point:
        if expected > self.budget:
            point = Point(phase, size, checkpointing, None, expected, False)
        else:
            self.gauge.restart()
            rate = _rate(run)
            peak = self.gauge.peak()
            point = Point(phase, size, checkpointing, rate, peak, rate is not None and peak <= self.budget)
        self.tell(point)
        return point


def bench_prompts(lm: LanguageModel, entries: Sequence[Entry], lengths: Lengths) -> list[list[int]]:
    """Token ids to play with: those of a log, and sums where it has too few. What is asked twice is computed once."""
    asked = [entry.conversation for entry in entries]
    sums = ((Message("user", f"How much is {i} plus {3 * i + 1}?"),) for i in range(max(ROLLOUT_SIZES)))
    return [lm.encode_prompt(turns)[-lengths.prompt :] for turns in [*asked, *sums][: max(ROLLOUT_SIZES)]]


def tune(bench: Bench, profile: Profile) -> Tuning:
    """Measures the sizes that a profile could have and takes the best.

    Args:
        bench: What to measure with.
        profile: In use until now; its own sizes are measured too where they fit.

    Returns:
        What was measured.

    Raises:
        ProfileError: No size fits.
    """
    playing = list(sweep(_with(ROLLOUT_SIZES, profile.rollout_batch), bench.playing))
    for size in [*halves(min(point.size for point in playing))][1:]:
        if fastest(playing) is not None:
            break
        playing.append(bench.playing(size))
    learning: list[Point] = []
    for again in (False, True):
        sizes = _with(MICRO_SIZES, profile.micro_batch)
        learning += sweep(sizes, lambda size, again=again: bench.learning(size, again))  # type: ignore[misc]
        if all(point.fits for point in learning):
            break
    if not any(_is_of(point, profile, "playing") for point in playing):
        playing.append(bench.playing(profile.rollout_batch))
    if not any(_is_of(point, profile, "learning") for point in learning):
        learning.append(bench.learning(profile.micro_batch, profile.checkpointing))
    best, quickest = fastest(playing), fastest(learning)
    if best is None or quickest is None:
        raise ProfileError(
            f"not even one sequence at a time fits into the {bench.budget / 1e6:,.0f} MB that may be taken",
            "close other programs, allow more, or take a smaller model; the profile stays as it was",
        )
    after = dataclasses.replace(
        profile, rollout_batch=best.size, micro_batch=quickest.size, checkpointing=quickest.checkpointing
    )
    recompute(bench.lm, after.checkpointing)
    return Tuning(profile, after, (*playing, *learning))


def sweep(sizes: Sequence[int], measure: Callable[[int], Point]) -> Iterator[Point]:
    """Measures ascending sizes until one does not fit, takes too long, or several in a row are no faster."""
    best, misses = 0.0, 0
    for size in sizes:
        started = time.monotonic()
        point = measure(size)
        yield point
        if not point.fits or point.tokens_per_s is None or time.monotonic() - started > _LONG_S:
            return
        misses = 0 if point.tokens_per_s * _SAME > best else misses + 1
        best = max(best, point.tokens_per_s)
        if misses == _MISSES:
            return


def fastest(points: Sequence[Point]) -> Point | None:
    """Of the points that fit and are about as fast as any, the one that takes the least."""
    rates = [point.tokens_per_s for point in points if point.fits and point.tokens_per_s]
    good = [p for p in points if p.fits and p.tokens_per_s and p.tokens_per_s >= _SAME * max(rates)]
    return min(good, key=lambda point: (point.size, point.checkpointing), default=None)


def _rate(run: Callable[[], int]) -> float | None:
    """Tokens a second, of a run that returns its tokens and is repeated for a while; None if it ran out of memory."""
    tokens, started = 0, time.monotonic()
    try:
        while not tokens or time.monotonic() - started < _ENOUGH_S:
            tokens += run()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    return tokens / (time.monotonic() - started)


def _is_of(point: Point, profile: Profile, phase: Phase) -> bool:
    """Whether a point is what a profile says of a phase."""
    if point.phase != phase:
        return False
    if phase == "playing":
        return point.size == profile.rollout_batch
    return (point.size, point.checkpointing) == (profile.micro_batch, profile.checkpointing)


def _with(sizes: Sequence[int], own: int) -> list[int]:
    return sorted({*sizes, own})


def _traces(lm: LanguageModel, count: int, completion: int) -> list[Trace]:
    """Wins of 128 random tokens each, that have no beginning in common."""
    width = min(TRACE_TOKENS, lm.max_sequence_tokens)
    vocabulary = lm.causal.config.get_text_config().vocab_size
    rows = np.random.default_rng(0).integers(0, vocabulary, (count, width)).tolist()
    at = width - min(completion, width // 2)
    return [Trace(prompt=tuple(row[:at]), completion=tuple(row[at:]), win=True) for row in rows]
