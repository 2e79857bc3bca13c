"""One SPEAR update: the loss it follows, what does not change it, and what it never does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.learner import load_tiny, log_probability, on_head, stir, trace
from tests.updating import ONE_STEP, assert_same, learn, mixed, passes, published
from training import lora
from training.adapters import adapter_digest
from training.errors import Interrupted
from training.models import LanguageModel
from training.traces import Trace
from training.update import UpdateConfig, update


@pytest.fixture
def lm(tiny: LanguageModel) -> LanguageModel:
    """With an adapter that is not the start: there, the gradient of A is 0."""
    stir(tiny, scale=0.05)
    return tiny


def believe_in(lm: LanguageModel, losses: Sequence[Trace]) -> None:
    """Makes the model say these, for unlikelihood acts only on what it believes in."""
    for _ in range(8):
        update(lm, [replace(item, win=True) for item in losses], UpdateConfig(steps=5, learning_rate=1e-2))


@pytest.mark.parametrize("margin", [0.0, 0.3])
@pytest.mark.parametrize("lambda_lose", [0.1, 2.0])
def test_a_step_follows_the_published_losses(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, margin: float, lambda_lose: float
) -> None:
    config = replace(ONE_STEP, batch=4, margin=margin, lambda_lose=lambda_lose, lambda_win=0.7)
    traces = mixed()
    for at, end_counts in ((4, False), (5, True)):
        traces[at] = replace(traces[at], completion=(*traces[at].completion, lm.eos_id), end_counts=end_counts)
    believe_in(lm, traces[4:])
    report, (gradient,) = learn(lm, traces, config, monkeypatch)
    win, lose, expected = published(lm, traces, config)
    assert lose > 0.01
    assert (report.wins, report.losses, report.steps, report.skipped_steps) == (4, 3, 1, 0)
    assert report.loss_win == pytest.approx(win, rel=1e-4)
    assert report.loss_lose == pytest.approx(lose, rel=1e-4)
    assert_same(gradient, expected)
    norm = math.sqrt(sum(float(part.double().square().sum()) for part in expected.values()))
    assert report.gradient_norm == pytest.approx(norm, rel=1e-3)


def test_an_end_that_counts_becomes_less_likely(lm: LanguageModel) -> None:
    win, wrong = trace(1), trace(2, win=False, completion_tokens=1)
    ended = replace(wrong, completion=(*wrong.completion, lm.eos_id))
    believe_in(lm, [ended])
    believed = lora.get_adapter(lm.network)

    def likely_end(loss: Trace) -> float:
        lora.set_adapter(lm.network, believed)
        update(lm, [win, loss], UpdateConfig(steps=5, learning_rate=1e-2, lambda_win=0.0, lambda_lose=1.0))
        return log_probability(lm, ended) - log_probability(lm, wrong)

    lora.set_adapter(lm.network, believed)
    before = log_probability(lm, ended) - log_probability(lm, wrong)
    assert likely_end(replace(ended, end_counts=True)) < before - 0.1
    assert likely_end(ended) > before - 0.05


def test_wins_without_losses_are_pure_likelihood(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    wins = mixed()[:4]
    report, (gradient,) = learn(lm, wins, replace(ONE_STEP, batch=4), monkeypatch)
    win, _, expected = published(lm, wins, ONE_STEP)
    assert (report.loss_win, report.loss_lose) == (pytest.approx(win, rel=1e-4), 0.0)
    assert_same(gradient, expected)


def test_unequal_multiplicities_weigh_as_repetitions_do(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    wins = [replace(item, answer=None) for item in mixed()[:2]]
    report, (gradient,) = learn(lm, wins, replace(ONE_STEP, batch=3), monkeypatch)
    candidates = [published(lm, [*wins, again], ONE_STEP) for again in wins]
    closest = min(candidates, key=lambda found: abs(found[0] - report.loss_win))
    assert report.loss_win == pytest.approx(closest[0], rel=1e-4)
    assert_same(gradient, closest[2])


def test_wins_are_balanced_by_answer(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ("yes", "yes", "yes", "no")
    wins = [trace(at, kind="yes_no", answer=answer) for at, answer in enumerate(answers)]
    balanced = learn(lm, wins, replace(ONE_STEP, batch=4), monkeypatch)[0].loss_win
    alone = [published(lm, [win], ONE_STEP)[0] for win in wins]
    assert balanced == pytest.approx((sum(alone[:3]) / 3 + alone[3]) / 2, rel=1e-4)


@pytest.mark.parametrize("traces", [[], mixed()[4:]])
def test_without_wins_nothing_is_changed(lm: LanguageModel, traces: list[Trace]) -> None:
    before = adapter_digest(lora.get_adapter(lm.network))
    report = update(lm, traces, UpdateConfig())
    assert adapter_digest(lora.get_adapter(lm.network)) == before
    assert (report.wins, report.steps, report.skipped_steps) == (0, 0, 0)
    assert math.isnan(report.loss_win)
    assert math.isnan(report.loss_lose)


def test_a_step_that_is_not_finite_is_skipped_and_counted(lm: LanguageModel) -> None:
    calls = 0

    def poison(logits: torch.Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            with torch.no_grad():
                logits[..., 0] = torch.nan

    handle = on_head(lm, poison)
    report = update(lm, mixed()[:5], UpdateConfig(steps=4, micro_batch=64))
    handle.remove()
    assert calls == 8  # of wins and of losses, four times
    assert (report.steps, report.skipped_steps) == (3, 1)
    assert math.isfinite(report.loss_win + report.loss_lose + report.gradient_norm)
    assert all(np.isfinite(array).all() for array in lora.get_adapter(lm.network).values())


def test_a_gradient_that_is_not_finite_is_skipped_too(lm: LanguageModel) -> None:
    before = adapter_digest(lora.get_adapter(lm.network))
    parameter = next(p for p in lm.network.parameters() if p.requires_grad)
    handle = parameter.register_hook(lambda gradient: gradient * torch.inf)
    report = update(lm, mixed(), UpdateConfig(steps=2))
    handle.remove()
    assert (report.steps, report.skipped_steps) == (0, 2)
    assert adapter_digest(lora.get_adapter(lm.network)) == before
    assert math.isnan(report.loss_win)


@pytest.fixture(scope="module")
def dropping(tiny_folder: Path) -> LanguageModel:
    return load_tiny(tiny_folder, dropout=0.1)


def test_the_seed_alone_decides(dropping: LanguageModel) -> None:
    stir(dropping, scale=0.05)
    before = lora.get_adapter(dropping.network)
    digests = []
    for seed in (1, 1, 2):
        lora.set_adapter(dropping.network, before)
        torch.rand(seed + 3)  # what others drew before must not matter
        update(dropping, mixed(), UpdateConfig(steps=3, batch=2, seed=seed))
        digests.append(adapter_digest(lora.get_adapter(dropping.network)))
    assert digests[0] == digests[1] != digests[2]


def test_dropout_is_on_and_leaves_the_callers_random_numbers_alone(
    dropping: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    stir(dropping, scale=0.3)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    report, _ = learn(dropping, mixed(), replace(ONE_STEP, batch=4), monkeypatch)
    assert torch.equal(torch.rand(3), expected)
    assert report.loss_win != pytest.approx(published(dropping, mixed(), ONE_STEP)[0], rel=1e-4)


def test_learning_makes_wins_likelier_and_losses_less_likely(lm: LanguageModel) -> None:
    wins = [trace(seed) for seed in range(3)]
    lose = trace(9, win=False)
    believe_in(lm, [lose])
    before = {item: log_probability(lm, item) for item in (*wins, lose)}
    first = update(lm, [*wins, lose], UpdateConfig(steps=1, learning_rate=3e-3))
    assert first.loss_lose > 0.1
    last = update(lm, [*wins, lose], UpdateConfig(steps=20, learning_rate=3e-3, lambda_lose=1.0))
    assert last.loss_win < first.loss_win
    assert last.loss_lose < first.loss_lose
    for win in wins:
        assert log_probability(lm, win) > before[win]
    assert log_probability(lm, lose) < before[lose]


def test_clipping_bounds_the_gradient_and_reports_what_it_was(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = learn(lm, mixed(), ONE_STEP, monkeypatch)
    clipped, (gradient,) = learn(lm, mixed(), replace(ONE_STEP, clip=0.01), monkeypatch)
    norm = math.sqrt(sum(float(part.double().square().sum()) for part in gradient.values()))
    assert whole.gradient_norm > 0.01
    assert clipped.gradient_norm == pytest.approx(whole.gradient_norm)
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_batches_draw_every_trace_before_any_is_drawn_again(lm: LanguageModel) -> None:
    wins = [trace(seed, prompt_tokens=10 + seed) for seed in range(6)]
    counts = passes(lm, lambda: update(lm, wins, UpdateConfig(steps=6, batch=2, micro_batch=1)))
    assert len(counts) == 6
    for half in (counts[:3], counts[3:]):
        assert sum(half) == sum(item.length for item in wins)


def test_progress_is_told_and_can_stop_it(lm: LanguageModel) -> None:
    told: list[tuple[str, int, int]] = []
    update(lm, mixed(), UpdateConfig(steps=3), notify=lambda *step: told.append(step))
    assert told == [("learning", 1, 3), ("learning", 2, 3), ("learning", 3, 3)]

    def stop(phase: str, done: int, total: int) -> None:
        raise Interrupted("enough")

    with pytest.raises(Interrupted):
        update(lm, mixed(), UpdateConfig(steps=3), notify=stop)


def test_half_precision_learns_too(tiny_folder: Path) -> None:
    half = load_tiny(tiny_folder, dtype="bfloat16")
    before = lora.get_adapter(half.network)
    report = update(half, mixed(), UpdateConfig(steps=3, learning_rate=1e-3))
    after = lora.get_adapter(half.network)
    assert report.steps == 3
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in after.values())
    moved = [name for name, array in after.items() if not np.array_equal(array, before[name])]
    assert len(moved) == len(after)
