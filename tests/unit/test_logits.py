"""Where a model computes in half precision, the logits that decide are not rounded to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.learner import load_tiny, trace
from training.cache import Prefixes
from training.models import LanguageModel
from training.rollout import GREEDY, _prefill, sample
from training.score import log_probabilities
from training.update import completion_states


@pytest.fixture
def coarse(tiny_folder: Path) -> LanguageModel:
    """In bfloat16, with logits so alike that the best of them are the same number there."""
    lm = load_tiny(tiny_folder, dtype="bfloat16")
    lm.causal.get_output_embeddings().weight.data[:, 0] = 64
    return lm


def exactly(lm: LanguageModel, states: torch.Tensor) -> torch.Tensor:
    return states.double() @ lm.causal.get_output_embeddings().weight.double().T


@torch.no_grad()
@pytest.mark.parametrize("has_bias", [False, True])
def test_logits_that_matter_are_not_rounded(coarse: LanguageModel, has_bias: bool) -> None:
    torch.manual_seed(0)
    head, states = coarse.causal.get_output_embeddings(), torch.randn(40, 32).bfloat16()
    wanted = exactly(coarse, states)
    if has_bias:
        head.bias = torch.nn.Parameter(torch.randn(len(head.weight)).bfloat16())
        wanted += head.bias
    named = torch.arange(40)
    rounded, found = coarse.head(states), coarse.logits(states, named)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.argmax(-1) != wanted.argmax(-1)).sum() >= 3
    assert found.dtype == torch.float32
    assert (found.argmax(-1) == wanted.argmax(-1)).all()
    assert found.gather(-1, named[:, None]).allclose(wanted.gather(-1, named[:, None]).float(), rtol=1e-5)
    assert ((found - wanted).abs() <= 1e-5 * wanted.abs()).sum(-1).min() >= 16
    assert found.allclose(rounded.float(), rtol=2**-8)


@torch.no_grad()
def test_decoding_and_scoring_do_not_round_logits(coarse: LanguageModel) -> None:
    coarse.network.eval()
    prompts = sorted(trace(seed, prompt_tokens=20).prompt for seed in range(40))
    states = _prefill(coarse, prompts, 1, Prefixes(is_open=False))[1]
    best = exactly(coarse, states).argmax(-1).tolist()
    assert sum(one != other for one, other in zip(coarse.head(states).argmax(-1).tolist(), best, strict=True)) >= 3
    said = [one.tokens for one in sample(coarse, prompts, [1] * 40, GREEDY, batch=40)]
    assert said == [() if token in coarse.eos_ids else (token,) for token in best]

    pairs = [(prompts[0], (token,)) for token in range(40)]
    states = completion_states(coarse, pairs)
    found = torch.tensor(np.concatenate(log_probabilities(coarse, pairs, batch=40))).diff()
    assert found.allclose(exactly(coarse, states).diagonal().diff().float(), atol=1e-2)
    assert not found.allclose(coarse.head(states).diagonal().diff().float(), atol=1e-1)


@torch.no_grad()
def test_a_wide_models_logits_are_the_heads(tiny_folder: Path) -> None:
    lm, states = load_tiny(tiny_folder), torch.randn(3, 32)
    assert lm.logits(states).equal(lm.head(states))
