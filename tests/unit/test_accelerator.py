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
from tests.quantized import INSTALLED, Kind
from tests.tiny import make_tiny_model
from training import attention, layers, lora, lowrank, quantization, rollout, stepping, update
from training.cache import Prefixes
from training.models import LanguageModel
from training.score import log_probabilities
from training.stepping import Steps


@pytest.fixture
def lm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    """On a device that tells nothing."""
    folder = make_tiny_model(tmp_path / "tiny")
    for trial in ("_agrees", "_adds_the_same"):  # nothing can be tried
        monkeypatch.setattr(layers, trial, lambda *_: True)
    with torch.device("meta"):
        causal = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    assert layers.streamline(causal) > 0
    attention.use(causal)
    assert layers.narrow(causal.base_model, lambda: causal(torch.ones(1, 2, dtype=torch.long, device="meta")))
    network = lora.attach(causal, rank=RANK, alpha=ALPHA, dropout=0.1)
    return dataclasses.replace(load_tiny(folder), network=network)


class Watched(torch.overrides.TorchFunctionMode):
    """Notes when the device is told something, when it is asked, and for how much; and when work has begun.

    That is in the second layer of a model: in the first one it still is told which token sees which.
    """

    def __init__(self, lm: LanguageModel) -> None:
        super().__init__()
        self.said: list[str | int] = []
        lm.causal.model.layers[1].register_forward_pre_hook(lambda *_: self.said.append("begun"))

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        # A number that is chosen from with ``where`` is a tensor of the CPU until it is copied.
        if function is torch.tensor or (function in (torch.where, torch.Tensor.where) and isinstance(args[2], float)):
            self.said.append("told")
        if function in (torch.Tensor.tolist, torch.Tensor.cpu) and args[0].is_meta:
            self.said.append(args[0].numel())
            return [7] * len(args[0]) if function is torch.Tensor.tolist else torch.zeros(args[0].shape)
        return function(*args, **kwargs or {})

    @property
    def afterwards(self) -> list[str | int]:
        """What was said since work began for the first time, once a row."""
        return [what for what in self.said[self.said.index("begun") :] if what != "begun"]


def test_a_pass_of_learning_asks_for_its_losses_alone_and_last(lm: LanguageModel) -> None:
    traces = [trace(1), trace(2, win=False), trace(3, prompt_tokens=90, completion_tokens=70)]
    lm.network.train()
    drawn = [update._Drawn(item, 1.0) for item in traces]
    masks = [update._push_mask(lm, item) for item in traces]
    with Watched(lm) as watched:
        update._pass(lm, drawn, masks, (1.0, 0.1), 0.3, 32)
    assert watched.afterwards == [2]
    assert all(p.grad is not None and p.grad.is_meta for p in lm.network.parameters() if p.requires_grad)


def test_scores_are_asked_for_once_a_batch_and_last(lm: LanguageModel) -> None:
    pairs = [(item.prompt, item.completion) for item in (trace(seed, completion_tokens=50) for seed in range(3))]
    with Watched(lm) as watched:
        found = log_probabilities(lm, pairs, batch=3)
    assert [len(one) for one in found] == [50] * 3
    assert watched.afterwards == [150]


@torch.no_grad()
def test_prompts_and_steps_of_decoding_ask_for_nothing(lm: LanguageModel) -> None:
    lm.network.eval()
    prompts, prefixes = [list(trace(seed, prompt_tokens=20 * seed).prompt) for seed in (1, 2, 3)], Prefixes()
    with Watched(lm) as watched:
        cache, states = rollout._prefill(lm, prompts, 4, prefixes)
    assert watched.afterwards == []
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
    prompts = [list(trace(seed, prompt_tokens=20 * seed).prompt) for seed in (1, 2, 3, 4)]
    with Watched(lm) as watched:
        found = rollout.sample(lm, prompts, [2, 6, 2, 2], sampling, batch=4)
    assert [len(one.tokens) for one in found] == [2, 6, 2, 2]
    assert [what for what in watched.afterwards if what != "told"] == [4, 4, 1, 1, 1, 1]


@torch.inference_mode()
@pytest.mark.parametrize("kind", [None, *INSTALLED])
def test_a_step_does_nothing_that_a_recording_refuses(
    lm: LanguageModel, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind | None
) -> None:
    if kind is not None:
        with torch.inference_mode(False):
            causal = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16)
            layers.streamline(causal)
            attention.use(causal)
            quantization.pack(causal, kind, "meta")
            network = lora.attach(causal, rank=RANK, alpha=ALPHA, dropout=0.1, device="meta")
        lm = dataclasses.replace(lm, network=network)
    lm.network.eval()
    recorded: list[stepping.Work] = []
    monkeypatch.setitem(stepping.RECORDERS, "meta", lambda work: recorded.append(work) or work)
    prompts = [list(trace(seed).prompt) for seed in range(70)]  # more than are filled up
    cache, _ = rollout._prefill(lm, prompts, 4, Prefixes(is_open=False))
    steps = Steps(lm, cache, torch.tensor([*map(len, prompts)], device=lm.device))
    for _ in range(3):
        steps(torch.tensor([7] * 70, device=lm.device))
    assert len(recorded) == 1


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
