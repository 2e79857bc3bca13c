"""Which sizes are measured, which is taken, and that measuring leaves a model as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import pytest
import torch

import profiles
from profiles import ProfileError
from tests.learner import entry
from training import lora, memory, tuning
from training.memory import Lengths
from training.models import LanguageModel
from training.tuning import Bench, Point, Tuning, fastest, sweep

LENGTHS = Lengths(prompt=40, completion=8)
PROFILE = dataclasses.replace(profiles.load("cpu"), micro_batch=2, rollout_batch=8, new_tokens=8, threads=1)


def point(
    size: int, rate: float | None = 100.0, *, fits: bool = True, phase: str = "playing", again: bool = False
) -> Point:
    return Point(phase, size, again, rate, 1000 * size, fits)  # type: ignore[arg-type]


def of(rates: Mapping[int, float]) -> Callable[[int], Point]:
    return lambda size: point(size, rates[size])


@pytest.mark.parametrize(
    ("rates", "measured"),
    [
        ({1: 10, 2: 20, 4: 40, 8: 80}, [1, 2, 4, 8]),
        ({1: 10, 2: 10, 4: 10, 8: 80}, [1, 2, 4]),
        ({1: 10, 2: 9, 4: 40, 8: 80}, [1, 2, 4, 8]),
        ({1: 10, 2: 20, 4: 15, 8: 15}, [1, 2, 4, 8]),
    ],
)
def test_a_sweep_ends_when_two_sizes_in_a_row_are_no_faster(rates: Mapping[int, float], measured: list[int]) -> None:
    assert [found.size for found in sweep(sorted(rates), of(rates))] == measured


def test_a_sweep_ends_at_what_does_not_fit() -> None:
    found = list(sweep([1, 2, 4], lambda size: point(size, float(size), fits=size < 2)))
    assert [one.size for one in found] == [1, 2]


def test_a_sweep_ends_at_a_size_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def slow(size: int) -> Point:
        clock[0] += 4.0 * size
        return point(size, float(size))

    monkeypatch.setattr(tuning.time, "monotonic", lambda: clock[0])
    assert [one.size for one in sweep([1, 2, 4, 8], slow)] == [1, 2, 4]


def test_of_about_equal_rates_the_smallest_size_is_taken() -> None:
    assert fastest([point(4, 50), point(8, 98), point(16, 100)]) == point(8, 98)
    assert fastest([point(4, 50), point(8, 90), point(16, 100)]) == point(16, 100)


def test_a_size_that_does_not_fit_is_never_taken() -> None:
    assert fastest([point(4, 50), point(8, 100, fits=False)]) == point(4, 50)
    assert fastest([point(4, None, fits=False)]) is None
    assert fastest([]) is None


def test_without_checkpointing_is_taken_when_both_are_as_fast() -> None:
    both = [point(4, 100, again=True), point(4, 99)]
    assert fastest(both) == point(4, 99)


def test_a_gain_is_a_ratio_of_rates_and_none_where_there_is_nothing_to_compare_with() -> None:
    after = dataclasses.replace(PROFILE, rollout_batch=32)
    found = Tuning(PROFILE, after, (point(8, 50), point(32, 150)))
    assert found.gain("playing") == 3.0
    assert found.gain("learning") is None
    assert Tuning(PROFILE, after, (point(8, None, fits=False), point(32, 150))).gain("playing") is None


# With a real model


def bench(lm: LanguageModel, budget: int, points: list[Point] | None = None) -> Bench:
    gauge = memory.gauge("cpu")
    return Bench(
        lm=lm,
        demand=memory.demand(lm, memory.settle(lm, gauge)),
        lengths=LENGTHS,
        gauge=gauge,
        budget=budget,
        prompts=tuning.bench_prompts(lm, [], LENGTHS),
        tell=(points if points is not None else []).append,
    )


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every size is run once, and there are few of them."""
    monkeypatch.setattr(tuning, "_ENOUGH_S", 0.0)
    monkeypatch.setattr(tuning, "ROLLOUT_SIZES", (4, 16))
    monkeypatch.setattr(tuning, "MICRO_SIZES", (1, 4, 8))


@pytest.mark.usefixtures("brief")
def test_tuning_measures_both_phases_and_changes_nothing_of_the_model(tiny: LanguageModel) -> None:
    before, told = lora.get_adapter(tiny.network), list[Point]()
    found = tuning.tune(bench(tiny, 10**12, told), PROFILE)
    after = lora.get_adapter(tiny.network)
    assert all((after[name] == before[name]).all() for name in before)
    assert tuple(told) == found.points
    assert {one.phase for one in found.points} == {"playing", "learning"}
    assert all(one.tokens_per_s and one.fits and one.peak_bytes > 0 for one in found.points)
    assert not any(one.checkpointing for one in found.points)
    for phase in ("playing", "learning"):
        assert found.point(found.before, phase) is not None  # type: ignore[arg-type]
        assert found.point(found.after, phase) is not None  # type: ignore[arg-type]
        assert found.gain(phase) is not None  # type: ignore[arg-type]
    sizes = {"rollout_batch": found.after.rollout_batch, "micro_batch": found.after.micro_batch}
    assert found.after == dataclasses.replace(PROFILE, **sizes)


@pytest.mark.usefixtures("brief")
def test_what_would_not_fit_is_not_run_and_checkpointing_is_tried(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "_MISSES", 100)  # memory alone ends it, however busy this machine is
    wide = bench(tiny, 0)
    budget = wide.demand.learning(4, LENGTHS, checkpointing=False)
    tight = dataclasses.replace(wide, budget=budget, gauge=Still())
    found = tuning.tune(tight, dataclasses.replace(PROFILE, rollout_batch=4))
    learning = [one for one in found.points if one.phase == "learning"]
    assert [(one.size, one.fits) for one in learning if not one.checkpointing][-2:] == [(4, True), (8, False)]
    assert any(one.checkpointing for one in learning)
    assert all(one.tokens_per_s is None for one in learning if not one.fits)
    chosen = found.point(found.after, "learning")
    assert chosen is not None
    assert chosen.fits


@pytest.mark.usefixtures("brief")
def test_smaller_sizes_than_usual_are_tried_where_none_of_those_fits(tiny: LanguageModel) -> None:
    wide = bench(tiny, 0)
    demand = dataclasses.replace(wide.demand, trained=0, in_a_layer=0, between=0, optimised=0, scores=0, cached=10**6)
    tight = dataclasses.replace(wide, demand=demand, budget=demand.playing(2, LENGTHS), gauge=Still())
    assert demand.learning(1, LENGTHS, checkpointing=True) <= tight.budget < demand.playing(4, LENGTHS)
    found = tuning.tune(tight, PROFILE)
    assert found.after.rollout_batch == 2
    assert [one.size for one in found.points if one.phase == "playing"] == [4, 2, PROFILE.rollout_batch]


@pytest.mark.usefixtures("brief")
def test_where_nothing_fits_nothing_is_chosen(tiny: LanguageModel) -> None:
    told: list[Point] = []
    with pytest.raises(ProfileError, match="not even one sequence at a time fits") as caught:
        tuning.tune(bench(tiny, 1, told), PROFILE)
    assert caught.value.hint is not None
    assert {one.size for one in told if one.phase == "playing"} >= {4, 2, 1}
    assert not any(one.fits for one in told)


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_a_size_that_runs_out_of_memory_ends_the_sweep(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    real = tuning.sample

    def greedy(lm: LanguageModel, prompts: list[list[int]], *rest: object, batch: int) -> object:
        if batch > 8:
            raise error
        return real(lm, prompts, *rest, batch=batch)  # type: ignore[arg-type]

    monkeypatch.setattr(tuning, "sample", greedy)
    found = tuning.tune(bench(tiny, 10**12), PROFILE)
    assert found.after.rollout_batch <= 8
    assert [one.size for one in found.points if one.tokens_per_s is None] in ([16], [])


class Still:
    """A gauge that measures nothing."""

    def used(self) -> int:
        return 0

    def peak(self) -> int:
        return 0

    def restart(self) -> None:
        pass


def test_a_log_is_what_is_played_with_and_then_sums_none_of_them_twice(tiny_chat: LanguageModel) -> None:
    own = tuning.bench_prompts(tiny_chat, [entry(prompt="Why? " * 100)], LENGTHS)
    sums = tuning.bench_prompts(tiny_chat, [], LENGTHS)
    assert len(own[0]) == LENGTHS.prompt
    assert own[1:] == sums[:-1]
    assert len(sums) == len({tuple(prompt) for prompt in sums}) == max(tuning.ROLLOUT_SIZES)
    assert len(tuning.bench_prompts(tiny_chat, [entry()] * 1000, LENGTHS)) == max(tuning.ROLLOUT_SIZES)
