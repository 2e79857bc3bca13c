"""Work on an accelerator, which goes on by itself as long as nobody asks it for data.

The meta device stands for one: it has no data to give, and mixes with no tensors of the CPU.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.learner import ALPHA, RANK, load_tiny, trace
from tests.tiny import make_tiny_model
from training import attention, layers, lora, lowrank, rollout, update
from training.cache import Prefixes
from training.models import LanguageModel
from training.stepping import Steps


@pytest.fixture
def lm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    """On a device that tells nothing."""
    folder = make_tiny_model(tmp_path / "tiny")
    monkeypatch.setattr(layers, "_agrees", lambda module, form: True)  # nothing can be tried
    with torch.device("meta"):
        causal = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    assert layers.streamline(causal) > 0
    attention.use(causal)
    network = lora.attach(causal, rank=RANK, alpha=ALPHA, dropout=0.1)
    return dataclasses.replace(load_tiny(folder), network=network)


def test_a_pass_of_learning_asks_for_its_losses_alone_and_last(lm: LanguageModel) -> None:
    traces = [trace(1), trace(2, win=False), trace(3, prompt_tokens=90)]
    asked: list[torch.Size] = []

    class Asked(Exception):
        """Stands for what the device would have answered."""

    class Watched(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if function is torch.Tensor.tolist and args[0].is_meta:
                asked.append(args[0].shape)
                raise Asked
            return function(*args, **kwargs or {})

    lm.network.train()
    drawn = [update._Drawn(item, 1.0) for item in traces]
    masks = [update._push_mask(lm, item) for item in traces]
    with pytest.raises(Asked), Watched():
        update._pass(lm, drawn, masks, (1.0, 0.1), 0.3)
    assert asked == [(2,)]
    assert all(p.grad is not None and p.grad.is_meta for p in lm.network.parameters() if p.requires_grad)


@torch.no_grad()
def test_prompts_and_steps_of_decoding_ask_for_nothing(lm: LanguageModel) -> None:
    lm.network.eval()
    prompts, prefixes = [list(trace(seed, prompt_tokens=20 * seed).prompt) for seed in (1, 2, 3)], Prefixes()
    cache, states = rollout._prefill(lm, prompts, 4, prefixes)
    assert lm.head(states).shape == (3, len(lm.tokenizer))
    steps = Steps(lm, cache, torch.tensor([*map(len, prompts)], device=lm.device))
    for going in ([0, 1, 2], [0, 2]):
        steps = steps.select(going)
        for _ in range(2):
            states = steps(torch.tensor(going, device=lm.device))
            assert (states.device, len(states)) == (lm.device, len(going))
    longer = [[*prompt, 5, 6] for prompt in prompts]
    known = [prefixes.find(prompt) for prompt in longer]
    assert [found and found.length for found in known] == [20, 40, 60]
    assert rollout._prefill(lm, longer, 4, prefixes)[1].is_meta


@pytest.mark.parametrize("sampling", [rollout.GREEDY, rollout.SAMPLED], ids=["greedy", "sampled"])
def test_of_a_step_of_decoding_the_chosen_tokens_are_asked_alone(lm: LanguageModel, sampling: rollout.Sampling) -> None:
    asked: list[int] = []

    class Told(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if function is torch.Tensor.tolist and args[0].is_meta:
                asked.append(len(args[0]))
                return [7] * len(args[0])
            return function(*args, **kwargs or {})

    prompts = [list(trace(seed, prompt_tokens=20 * seed).prompt) for seed in (1, 2, 3, 4)]
    with Told():
        found = rollout.sample(lm, prompts, [2, 6, 2, 2], sampling, batch=4)
    assert [len(one.tokens) for one in found] == [2, 6, 2, 2]
    assert asked == [4, 4, 1, 1, 1, 1]


def test_a_gpu_makes_no_plan_a_shape_and_rounds_a_sum_once(lm: LanguageModel) -> None:
    products = torch.backends.cuda.matmul
    torch.backends.cuda.enable_cudnn_sdp(True)
    products.allow_bf16_reduced_precision_reduction = products.allow_fp16_reduced_precision_reduction = True
    attention.use(lm.causal)
    lowrank.join(lm.network)
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.mem_efficient_sdp_enabled()  # which takes our masks
    assert not products.allow_bf16_reduced_precision_reduction
    assert not products.allow_fp16_reduced_precision_reduction
