"""The learner against the plain way that the benchmark keeps: PEFT's own layers, padding, logits at all positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks import baseline, limits
from tests.learner import ALPHA, RANK, load_tiny, stir, trace
from training import lora
from training.models import LanguageModel, LoraSettings
from training.rollout import GREEDY, sample
from training.score import log_probabilities
from training.traces import Trace
from training.update import UpdateConfig, update

ONE_STEP = UpdateConfig(steps=1, batch=3, clip=1e9, margin=0.0, lambda_lose=2.0)  # all three wins, once each


@pytest.fixture
def ours(tiny_folder: Path) -> LanguageModel:
    lm = load_tiny(tiny_folder)
    stir(lm, scale=0.1)
    return lm


@pytest.fixture
def plain(ours: LanguageModel) -> LanguageModel:
    """The same model and adapter with nothing of ours in it."""
    lm = baseline.load(ours.source, LoraSettings(rank=RANK, alpha=ALPHA, dropout=0.0), "cpu")
    lora.set_adapter(lm.network, lora.get_adapter(ours.network))
    assert lora.get_adapter(lm.network).keys() == lora.get_adapter(ours.network).keys()
    return lm


def traces() -> list[Trace]:
    """Wins and losses, some of one prompt, some of an equal beginning."""
    asked = trace(0, prompt_tokens=30).prompt
    shared = [
        Trace(prompt=asked, completion=(9, 8, 7), win=True),
        Trace(prompt=asked, completion=(9, 3), win=False, weight=1.0),
        Trace(prompt=asked[:20], completion=(70,), win=True),
    ]
    return [*shared, trace(4), trace(5, win=False, weight=0.5, completion_tokens=2)]


def gradients(
    lm: LanguageModel, learn: Callable[..., Any], items: Sequence[Trace], monkeypatch: pytest.MonkeyPatch
) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}

    def spy(optimiser: torch.optim.AdamW, *_: object) -> None:
        found.update({n: p.grad.clone() for n, p in lm.network.named_parameters() if p.grad is not None})

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        learn(lm, items, ONE_STEP)
    return found


@pytest.mark.parametrize("most_scores", [1 << 22, 1], ids=["together", "row by row"])
def test_a_step_has_the_plain_steps_gradient(
    ours: LanguageModel, plain: LanguageModel, monkeypatch: pytest.MonkeyPatch, most_scores: int
) -> None:
    monkeypatch.setattr("training.attention.MOST_SCORES", most_scores)
    found = gradients(ours, update, traces(), monkeypatch)
    plain.network.double()  # in single precision it is as far from these as ours is
    wanted = gradients(plain, baseline.update, traces(), monkeypatch)
    assert found.keys() == wanted.keys()
    assert len(found) == 2 * 7 * 2
    for name, gradient in wanted.items():
        largest = float(gradient.abs().max())
        assert largest > 0
        torch.testing.assert_close(found[name].double(), gradient, rtol=1e-5, atol=1e-5 * largest, msg=name)


@pytest.mark.parametrize("most_scores", [1 << 22, 1], ids=["together", "row by row"])
def test_greedy_answers_and_likelihoods_are_the_plain_ones(
    ours: LanguageModel, plain: LanguageModel, monkeypatch: pytest.MonkeyPatch, most_scores: int
) -> None:
    monkeypatch.setattr("training.attention.MOST_SCORES", most_scores)
    prompts = [item.prompt for item in traces()] + [trace(8, prompt_tokens=70).prompt]
    limits = [8] * len(prompts)
    assert sample(ours, prompts, limits, GREEDY, batch=4) == [
        baseline.sample(plain, [prompt], [8], GREEDY, batch=1)[0] for prompt in prompts
    ]
    scores = log_probabilities(ours, [(item.prompt, item.completion) for item in traces()], batch=8)
    for item, score in zip(traces(), scores, strict=True):
        with torch.inference_mode():
            logits = plain.network(input_ids=torch.tensor([item.sequence])).logits[0].log_softmax(-1)
        at = torch.arange(len(item.prompt) - 1, item.length - 1)
        torch.testing.assert_close(torch.from_numpy(score), logits[at, torch.tensor(item.completion)])


def test_a_gpu_that_was_given_nothing_is_not_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """This build of PyTorch has none, and would say so."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    limits.finish()
    assert not torch.cuda.is_initialized()
