"""Sampling against the slow and obvious way of doing the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.learner import mlp_rows, stir, trace
from training import rollout
from training.attention import ROUNDED_TO
from training.errors import Interrupted, ModelError
from training.models import LanguageModel
from training.rollout import GREEDY, Completion, Sampling, sample

WARM = Sampling(temperature=0.8, top_p=0.95, seed=5)


@pytest.fixture
def lm(tiny: LanguageModel) -> LanguageModel:
    """With an adapter that changes what it says, so that rollouts without it would differ."""
    stir(tiny, scale=0.1)
    return tiny


def prompts(count: int = 9) -> list[list[int]]:
    """Of different lengths, from 1 token on."""
    rng = np.random.default_rng(0)
    return [rng.integers(4, 250, 1 + 5 * at % 23).tolist() for at in range(count)]


def plain_greedy(lm: LanguageModel, prompt: list[int], limit: int) -> Completion:
    """Token by token, the whole sequence through the model each time."""
    ids = list(prompt)
    while len(ids) - len(prompt) < limit:
        with torch.inference_mode():
            token = int(lm.causal(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token in lm.eos_ids:
            return Completion(tuple(ids[len(prompt) :]), True)
        ids.append(token)
    return Completion(tuple(ids[len(prompt) :]), False)


@pytest.fixture
def wordy(lm: LanguageModel) -> Iterator[LanguageModel]:
    """Made to end: what it says to the prompts most often in third place becomes an end of the answer."""
    said = [plain_greedy(lm, prompt, 6).tokens for prompt in prompts()]
    common = max({token for tokens in said for token in tokens[2:]}, key=lambda t: sum(t in tokens for tokens in said))
    configured = lm.causal.generation_config.eos_token_id
    lm.causal.generation_config.eos_token_id = [lm.eos_id, common]
    yield lm
    lm.causal.generation_config.eos_token_id = configured


@pytest.mark.parametrize("batch", [1, 4, 32])
def test_greedy_is_the_plain_argmax_whatever_shares_the_batch(wordy: LanguageModel, batch: int) -> None:
    limits = [12, 3, 7, 12, 1, 12, 9, 12, 5]
    expected = [plain_greedy(wordy, prompt, limit) for prompt, limit in zip(prompts(), limits, strict=True)]
    assert {completion.ended for completion in expected} == {True, False}
    assert len({len(completion.tokens) for completion in expected}) > 3
    assert sample(wordy, prompts(), limits, GREEDY, batch=batch) == expected


def test_what_is_sampled_depends_on_the_seed_and_on_no_neighbour(wordy: LanguageModel) -> None:
    limits = [12, 3, 7, 12, 1, 12, 9, 12, 5]
    together = sample(wordy, prompts(), limits, WARM, batch=32)
    assert {completion.ended for completion in together} == {True, False}
    for batch in (1, 2, 5):
        assert sample(wordy, prompts(), limits, WARM, batch=batch) == together
    assert sample(wordy, prompts(4), limits[:4], WARM, batch=4) == together[:4]
    other = sample(wordy, prompts(), limits, Sampling(WARM.temperature, WARM.top_p, seed=6), batch=32)
    assert [completion.tokens for completion in other] != [completion.tokens for completion in together]


def test_equal_prompts_are_answered_differently(lm: LanguageModel) -> None:
    answers = sample(lm, [[70, 71]] * 16, [12] * 16, Sampling(temperature=2.0, top_p=1.0), batch=16)
    assert len({completion.tokens for completion in answers}) > 8


def test_limits_hold_and_nothing_follows_an_end(wordy: LanguageModel) -> None:
    limits = [0, 1, 2, 3, 5, 8, 13, 2, 1]
    answers = sample(wordy, prompts(), limits, WARM, batch=4)
    for completion, limit in zip(answers, limits, strict=True):
        assert len(completion.tokens) <= limit
        assert completion.ended or len(completion.tokens) == limit
        assert wordy.eos_ids.isdisjoint(completion.tokens)


def test_no_prompts_give_no_completions(lm: LanguageModel) -> None:
    assert sample(lm, [], [], WARM, batch=4) == []


def test_dropout_is_off_while_sampling(lm: LanguageModel) -> None:
    lm.network.train()
    sample(lm, prompts(2), [3, 3], WARM, batch=2)
    assert not lm.network.training


def test_progress_is_told_after_every_batch_and_can_stop_it(lm: LanguageModel) -> None:
    told: list[tuple[str, int, int]] = []
    sample(lm, prompts(5), [2] * 5, WARM, batch=2, phase="revising", notify=lambda *step: told.append(step))
    assert told == [("revising", 2, 5), ("revising", 4, 5), ("revising", 5, 5)]

    def stop(phase: str, done: int, total: int) -> None:
        raise Interrupted("enough")

    with pytest.raises(Interrupted):
        sample(lm, prompts(5), [2] * 5, WARM, batch=2, notify=stop)


def nucleus(logits: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    """The exact distribution: the fewest likeliest tokens that reach ``top_p`` together, renormalised."""
    scores = logits.astype(np.float64) / temperature
    believed = np.exp(scores - scores.max())
    believed /= believed.sum()
    kept = np.zeros_like(believed)
    total = 0.0
    for token in np.argsort(-believed, kind="stable"):
        kept[token] = believed[token]
        total += believed[token]
        if total >= top_p:
            break
    return kept / kept.sum()


def draw(logits: np.ndarray, sampling: Sampling, count: int) -> np.ndarray:
    """Counts by token of ``count`` picks with evenly spread draws."""
    uniform = torch.from_numpy(np.random.default_rng(1).random(count)).float()
    rows = torch.from_numpy(logits).float().expand(count, -1)
    return np.bincount(rollout._pick(rows, sampling, uniform)[1], minlength=len(logits))


@pytest.mark.parametrize("temperature", [0.5, 0.8, 1.5])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.95, 1.0])
def test_tokens_come_as_often_as_the_nucleus_says(temperature: float, top_p: float) -> None:
    logits = np.random.default_rng(0).normal(0, 2, 40)
    expected = nucleus(logits, temperature, top_p)
    count = 20_000
    found = draw(logits, Sampling(temperature, top_p), count)
    assert found[expected == 0].sum() == 0
    inside = expected > 0
    chi_square = (((found - count * expected) ** 2)[inside] / (count * expected[inside])).sum()
    degrees = inside.sum() - 1
    assert chi_square < degrees + 5 * (2 * degrees) ** 0.5 + 5


@pytest.mark.parametrize(("spread", "wide"), [(0.01, True), (3.0, False)])
def test_a_nucleus_wider_than_the_first_look_is_whole(spread: float, wide: bool) -> None:
    """Where the likeliest 512 do not reach top-p, the rest is looked at too."""
    logits = np.random.default_rng(0).normal(0, spread, 1500)
    expected = nucleus(logits, 1.0, 0.95)
    assert bool((expected > 0).sum() > 512) is wide
    count = 4000
    found = draw(logits, Sampling(1.0, 0.95), count)
    assert found[expected == 0].sum() <= 2  # single precision may see the edge a token further on
    ranked = np.argsort(-expected)[: (expected > 0).sum()]
    for part in np.array_split(ranked, 4):
        assert found[part].sum() / count == pytest.approx(expected[part].sum(), abs=0.03)


def test_rows_of_one_batch_are_picked_each_by_its_own() -> None:
    rng = np.random.default_rng(2)
    logits = torch.from_numpy(np.stack([rng.normal(0, spread, 3000) for spread in (0.01, 2.0, 8.0)])).float()
    draws = torch.tensor([0.3, 0.6, 0.9])
    together, told = rollout._pick(logits, WARM, draws)
    apart = [rollout._pick(logits[row : row + 1], WARM, draws[row : row + 1])[1][0] for row in range(3)]
    assert together.tolist() == told == apart


def test_a_large_nucleus_is_looked_for_in_its_own_row(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[tuple[int, ...]] = []
    among = rollout._among
    monkeypatch.setattr(
        rollout, "_among", lambda top, *rest, **how: looked.append(top.shape) or among(top, *rest, **how)
    )
    rng = np.random.default_rng(2)
    logits = torch.from_numpy(np.stack([rng.normal(0, spread, 3000) for spread in (8.0, 0.01, 8.0, 2.0)])).float()
    rollout._pick(logits, WARM, torch.tensor([0.3, 0.6, 0.9, 0.5]))
    assert looked == [(4, 64), (2, 1024), (1, 3000)]


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
@pytest.mark.parametrize("top_p", [0.0, 1e-9, 0.4, 1.0])
def test_the_edges_of_the_draw_stay_in_the_nucleus(top_p: float, uniform: float) -> None:
    believed = np.array([0.1, 0.5, 0.4, 0.0])
    logits = np.log(believed + 1e-30)
    inside = {1} if top_p <= 0.5 else {0, 1, 2}
    rows = torch.from_numpy(logits).float()[None]
    token = rollout._pick(rows, Sampling(1.0, top_p), torch.tensor([uniform]))[1][0]
    assert token in inside
    assert token == 1 or uniform > 0


@pytest.mark.parametrize("temperature", [0.0, 1e-320, 1e-39, 1e-7])
def test_a_temperature_of_nearly_zero_is_greedy(temperature: float) -> None:
    logits = torch.tensor([[0.0, 3.0, 2.9], [5.0, -1.0, 4.9]])
    assert rollout._pick(logits, Sampling(temperature), torch.tensor([0.99, 0.99]))[1] == [1, 0]


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("vocabulary", [20, 3000])
def test_logits_that_are_no_numbers_are_told(sampling: Sampling, broken: float, vocabulary: int) -> None:
    logits = torch.zeros(2, vocabulary)
    logits[1, 7] = broken
    if sampling is GREEDY and broken == torch.inf:
        assert rollout._pick(logits, sampling, torch.tensor([0.1, 0.1]))[1][1] == 7
        return
    with pytest.raises(ModelError, match="no number"):
        rollout._pick(logits, sampling, torch.tensor([0.1, 0.1]))


def test_of_a_prompt_the_last_layer_computes_its_last_token_alone(tiny: LanguageModel) -> None:
    rows = mlp_rows(tiny)
    prompts = [list(trace(seed, prompt_tokens=150).prompt) for seed in (1, 2)]
    sample(tiny, prompts, [1, 1], GREEDY, batch=2)
    assert rows == [[320], [ROUNDED_TO]]  # 300 and 2, filled up
