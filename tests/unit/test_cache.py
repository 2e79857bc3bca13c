"""Keys and values that were computed once: what is sampled with them is what is sampled without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.learner import load_tiny, make_loud_model, on_head, stir
from training import cache, memory, rollout
from training.attention import ROUNDED_TO
from training.cache import Prefixes
from training.models import LanguageModel
from training.rollout import GREEDY, Completion, Sampling, sample
from training.stepping import Steps

WARM = Sampling(temperature=0.8, top_p=0.95, seed=5)


@pytest.fixture
def lm(tiny: LanguageModel) -> LanguageModel:
    stir(tiny, scale=0.1)
    return tiny


def random_prompts(*lengths: int, begin: list[int] | None = None) -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [(begin or []) + rng.integers(4, 250, length).tolist() for length in lengths]


def counted(lm: LanguageModel, work: Callable[[], object]) -> int:
    """Tokens that went through the model."""
    counts: list[int] = []
    embed = lm.causal.get_input_embeddings()
    handle = embed.register_forward_hook(lambda _module, args, _out: counts.append(args[0].numel()))
    work()
    handle.remove()
    return sum(counts)


def test_a_beginning_that_prompts_share_is_computed_once_and_changes_nothing(lm: LanguageModel) -> None:
    prompts = random_prompts(3, 9, 1, 9, begin=random_prompts(40)[0])
    prompts += [prompts[1], prompts[2][:20]]
    alone = [sample(lm, [prompt], [6], GREEDY, batch=1)[0] for prompt in prompts]
    assert sample(lm, prompts, [6] * 6, GREEDY, batch=6) == alone
    steps = max(len(found.tokens) for found in alone) * 6
    assert counted(lm, lambda: sample(lm, prompts, [6] * 6, GREEDY, batch=6)) <= 40 + 3 + 9 + 1 + 9 + steps


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_tries_that_go_on_from_a_kept_prompt_are_what_they_are_without(lm: LanguageModel, sampling: Sampling) -> None:
    prefixes = Prefixes()
    first = random_prompts(30, 12, 25)
    answers = sample(lm, first, [5] * 3, sampling, batch=2, prefixes=prefixes)
    assert answers == sample(lm, first, [5] * 3, sampling, batch=3)
    longer = [[*first[at], *more] for at, more in zip((2, 0, 1, 0), random_prompts(4, 1, 8, 6), strict=True)]
    longer += [random_prompts(7)[0], first[1], first[0][:9]]

    def again() -> list[Completion]:
        return sample(lm, longer, [5] * 7, sampling, batch=7, prefixes=prefixes)

    found: list[list[Completion]] = []
    tokens = counted(lm, lambda: found.append(again()))
    plainly = counted(lm, lambda: found.append(sample(lm, longer, [5] * 7, sampling, batch=7)))
    assert found[0] == found[1]
    assert plainly - tokens >= 25 + 12 + 11  # what a batch shares, it shares without being told


@pytest.mark.parametrize("most", [1, 50, 77])
def test_prompts_are_read_a_few_at_a_time_and_say_the_same(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    prompts = random_prompts(40, 3, 33, 20, 9, begin=[7, 8])
    longer = [[*prompt, 5, 6] for prompt in prompts]
    together = [sample(lm, asked, [6] * 5, GREEDY, batch=5) for asked in (prompts, longer)]
    passes: list[int] = []
    handle = lm.causal.get_input_embeddings().register_forward_hook(
        lambda _module, args, _out: passes.append(args[0].numel())
    )
    monkeypatch.setattr(rollout, "READ_TOKENS", most)
    prefixes = Prefixes()
    read = {1: [5, 9, 33, 40, 20], 50: [47, 40, 20], 77: [47, 60]}[most]  # what they begin with once
    went_on = {1: [2] * 5}.get(most, [10])  # of longer ones, what they are longer by
    for asked, expected, counts in zip((prompts, longer), together, (read, went_on), strict=True):
        passes.clear()
        assert sample(lm, asked, [6] * 5, GREEDY, batch=5, prefixes=prefixes) == expected
        filled_up = [count + (-count % ROUNDED_TO if count > ROUNDED_TO else 0) for count in counts]
        assert passes[: len(counts)] == filled_up
    handle.remove()


@pytest.mark.parametrize("seed", range(12))
def test_prompts_that_branch_anywhere_say_what_each_says_alone(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whatever passes, batches and kept prompts they begin in."""
    rng = np.random.default_rng(seed)

    def grown(prompts: list[list[int]], count: int) -> list[list[int]]:
        for _ in range(count):
            stem = prompts[rng.integers(len(prompts))]
            more = rng.integers(4, 250, rng.integers(1, 20)).tolist()
            prompts = [*prompts, stem[: rng.integers(len(stem) + 1)] + more]
        return prompts

    first = grown(random_prompts(20), 6)
    asked = first, grown(first, 6)[3:]
    alone = [[sample(lm, [prompt], [4], GREEDY, batch=1)[0] for prompt in prompts] for prompts in asked]
    monkeypatch.setattr(rollout, "READ_TOKENS", int(rng.integers(1, 80)))
    prefixes, batch = Prefixes(), int(rng.integers(2, 8))
    found = [sample(lm, prompts, [4] * len(prompts), GREEDY, batch=batch, prefixes=prefixes) for prompts in asked]
    assert found == alone


def test_a_long_answer_outgrows_its_first_columns_and_goes_on(lm: LanguageModel) -> None:
    prompts, limit = random_prompts(9, 4), 3 * cache.AHEAD
    alone = [sample(lm, [prompt], [limit], GREEDY, batch=1)[0] for prompt in prompts]
    lm.network.eval()
    for prompt, found in zip(prompts, alone, strict=True):
        ids = torch.tensor([[*prompt, *found.tokens]])
        with torch.inference_mode():
            said = lm.causal(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :].argmax(-1).tolist()
        assert said[: len(found.tokens)] == [*found.tokens]
    assert max(len(found.tokens) for found in alone) > 2 * cache.AHEAD
    assert sample(lm, prompts, [limit] * 2, GREEDY, batch=2) == alone


def test_whole_caches_are_kept_however_the_batch_shrinks(lm: LanguageModel) -> None:
    prompts = random_prompts(5, 8, 3, 12)
    limits = [1, 9, 2, 4]
    alone = [sample(lm, [prompt], [limit], GREEDY, batch=1)[0] for prompt, limit in zip(prompts, limits, strict=True)]
    prefixes = Prefixes()
    assert sample(lm, prompts, limits, GREEDY, batch=4, prefixes=prefixes) == alone
    found = prefixes.find([*prompts[1], 7])
    assert found is not None
    assert found.length == 8
    assert prefixes.find(prompts[1]).length == 7  # type: ignore[union-attr]  # the last token's state is wanted
    assert prefixes.find([251, 3]) is None
    longer = [[*prompt, 7, 8] for prompt in prompts]
    again = sample(lm, longer, limits, GREEDY, batch=4)
    assert sample(lm, longer, limits, GREEDY, batch=4, prefixes=prefixes) == again


def test_sampling_has_the_distribution_that_generate_has(lm: LanguageModel) -> None:
    """Two tokens deep, by a chi-squared test against `generate`'s own counts."""
    prompt, count = random_prompts(10)[0], 3000
    ours = sample(lm, [prompt] * count, [2] * count, Sampling(0.9, 0.9, seed=3), batch=count)
    said = [(*found.tokens, *[lm.eos_id] * (2 - len(found.tokens))) for found in ours]
    torch.manual_seed(11)
    ids = torch.tensor([prompt] * count)
    theirs = lm.causal.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=0.9, top_p=0.9, top_k=0,
        max_new_tokens=2, pad_token_id=lm.pad_id,
    )[:, len(prompt) :].tolist()  # fmt: skip
    for depth in (0, 1):
        counts = np.zeros((2, len(lm.tokenizer)))
        for way, texts in enumerate((said, theirs)):
            for text in texts:
                counts[way, text[depth] if len(text) > depth else lm.eos_id] += 1
        common = counts[:, counts.sum(0) >= 20]
        assert common.shape[1] > 5
        assert common.sum() > 0.8 * counts.sum()
        statistic = ((common[0] - common[1]) ** 2 / common.sum(0)).sum()
        freedom = common.shape[1] - 1
        assert statistic < freedom + 5 * np.sqrt(2 * freedom)


def test_greedy_is_what_generate_says(lm: LanguageModel) -> None:
    prompt = random_prompts(10)[0]
    ids = torch.tensor([prompt])
    found = lm.causal.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, pad_token_id=lm.pad_id
    )[0, len(prompt) :].tolist()
    ours = sample(lm, [prompt], [12], GREEDY, batch=1)[0]
    assert [*ours.tokens, *[lm.eos_id] * ours.ended][: len(found)] == found


@pytest.mark.parametrize("recomputes", [False, True])
def test_half_precision_says_nearly_what_full_precision_says_of_every_prompt(tmp_path: Path, recomputes: bool) -> None:
    def first_scores(model: LanguageModel, prompts: list[list[int]]) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        handle = on_head(model, seen.append)
        sample(model, prompts, [1] * len(prompts), GREEDY, batch=len(prompts))
        handle.remove()
        return torch.cat(seen).float()

    half, whole = (load_tiny(make_loud_model(tmp_path / dtype), dtype=dtype) for dtype in ("bfloat16", "float32"))
    memory.recompute(half, recomputes)  # such a model attends in another way
    prompts = random_prompts(90, 33, 20, 3)
    prompts.append([*prompts[0][:60], *prompts[2]])
    prompts.sort()  # as they are decoded
    exact = torch.cat([first_scores(whole, [prompt]) for prompt in prompts])
    off = (first_scores(half, prompts) - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert off.max() < 0.05  # without a mask, 0.2 and more


def test_a_completion_stops_when_a_complete_line_is_all_that_was_asked_for(lm: LanguageModel) -> None:
    prompt = random_prompts(6)[0]
    newline = lm.encode_text("\n")[0]
    seen: list[str] = []

    def stop(text: str) -> bool:
        seen.append(text)
        return len(seen) == 2

    head = lm.causal.get_output_embeddings()
    handle = head.register_forward_hook(lambda _m, _a, logits: logits.index_fill(-1, torch.tensor([newline]), 1e4))
    found, free = sample(lm, [prompt, prompt], [9, 4], GREEDY, batch=2, stops=[stop, None])
    handle.remove()
    assert (found.tokens, found.ended, found.stopped) == ((newline, newline), False, True)
    assert (len(free.tokens), free.stopped) == (4, False)
    assert seen == ["\n", "\n\n"]


def test_where_memory_runs_out_fewer_are_decoded_at_once(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prompts, tried = random_prompts(5, 8, 3, 12, 7), []
    expected = sample(lm, prompts, [4] * 5, WARM, batch=5)
    decode = rollout._decode

    def refuse(lm: LanguageModel, asked: rollout._Asked, *rest: object) -> list[Completion]:
        tried.append(len(asked.prompts))
        if len(asked.prompts) > 2:
            raise torch.OutOfMemoryError("no room")
        return decode(lm, asked, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(rollout, "_decode", refuse)
    assert sample(lm, prompts, [4] * 5, WARM, batch=5) == expected
    assert tried == [5, 2, 2, 1]
    assert "2 sequences at once" in caplog.text


def test_the_caches_of_a_batch_that_ran_out_of_memory_are_not_kept(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, prefixes = random_prompts(5, 8, 3, 12, 7), Prefixes()
    step = Steps.__call__

    def refuse(steps: Steps, tokens: torch.Tensor) -> torch.Tensor:
        if len(tokens) > 2:
            raise torch.OutOfMemoryError("no room")
        return step(steps, tokens)

    monkeypatch.setattr(Steps, "__call__", refuse)
    sample(lm, prompts, [4] * 5, WARM, batch=5, prefixes=prefixes)
    assert sorted(tokens for tokens, _, _ in prefixes._kept) == sorted(map(tuple, prompts))
