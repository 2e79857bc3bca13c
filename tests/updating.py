"""Updates as tests look at them: traces of all kinds, each step's gradient, and what is run through the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from tests.learner import trace
from training import lora
from training.losses import likelihood_loss, unlikelihood_loss
from training.models import LanguageModel
from training.traces import Trace
from training.update import UpdateConfig, UpdateReport, update

ONE_STEP = UpdateConfig(steps=1, batch=16, clip=1e9)


def mixed(*, prompt_tokens: int = 12) -> list[Trace]:
    """Wins and losses of different lengths, weights and windows."""
    wins = [trace(seed, prompt_tokens=prompt_tokens + 9 * seed, completion_tokens=3 + seed) for seed in range(4)]
    losses = [
        trace(10, win=False, prompt_tokens=prompt_tokens, completion_tokens=9, weight=0.5, tail_tokens=4),
        trace(11, win=False, prompt_tokens=prompt_tokens + 40, completion_tokens=5, weight=1.0),
        trace(12, win=False, completion_tokens=7, protected=frozenset(trace(12, completion_tokens=7).completion[2:5])),
    ]
    return [*wins, *losses]


def learn(
    lm: LanguageModel, traces: Sequence[Trace], config: UpdateConfig, monkeypatch: pytest.MonkeyPatch
) -> tuple[UpdateReport, list[dict[str, torch.Tensor]]]:
    """Updates from the adapter that ``lm`` carries, puts that back, and tells each step's gradient."""
    before = lora.get_adapter(lm.network)
    gradients: list[dict[str, torch.Tensor]] = []
    step = torch.optim.AdamW.step

    def spy(optimiser: torch.optim.AdamW, *args: object) -> None:
        gradients.append({name: p.grad.clone() for name, p in lm.network.named_parameters() if p.grad is not None})
        step(optimiser)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        report = update(lm, traces, config)
    lora.set_adapter(lm.network, before)
    return report, gradients


def published(
    lm: LanguageModel, traces: Sequence[Trace], config: UpdateConfig
) -> tuple[float, float, dict[str, torch.Tensor]]:
    """Both losses and the gradient of their sum by the losses' public surface, all traces in one padded batch."""
    lm.network.eval()
    width = max(item.length for item in traces)
    ids = torch.zeros(len(traces), width, dtype=torch.int64)
    labels = torch.full((len(traces), width), -100)
    for row, item in enumerate(traces):
        ids[row, : item.length] = torch.tensor(item.prompt + item.completion)
        labels[row, len(item.prompt) - 1 : item.length - 1] = torch.tensor(item.completion)
    logits = lm.causal(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    wins = torch.tensor([item.win for item in traces])
    win = likelihood_loss(logits[wins], labels[wins])
    # One window and one set of protected tokens a call: the sums of traces, over the count of all.
    parts, count = [], 0
    for row, item in enumerate(traces):
        if not item.win:
            options = {"margin": config.margin, "tail_tokens": item.tail_tokens, "ignore_ids": item.protected}
            eos_id = None if item.end_counts else lm.eos_id
            part = unlikelihood_loss(
                logits[row : row + 1], labels[row : row + 1], torch.tensor([item.weight]), eos_id=eos_id, **options
            )
            kept = [token for token in item.completion if token != eos_id]
            kept = kept[-item.tail_tokens :] if item.tail_tokens else kept
            tokens = sum(token not in item.protected for token in kept)
            parts.append(part * max(1, tokens))
            count += tokens
    lose = torch.stack(parts).sum() / max(1, count) if parts else torch.zeros(())
    lm.network.zero_grad(set_to_none=True)
    (config.lambda_win * win + config.lambda_lose * lose).backward()
    gradient = {name: p.grad.clone() for name, p in lm.network.named_parameters() if p.grad is not None}
    lm.network.zero_grad(set_to_none=True)
    return float(win.detach()), float(lose.detach()), gradient


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()) + 1e-9)


def passes(lm: LanguageModel, work: Callable[[], object]) -> list[int]:
    """Tokens of every forward pass."""
    counts: list[int] = []
    embed = lm.causal.get_input_embeddings()
    handle = embed.register_forward_hook(lambda _module, args, _out: counts.append(args[0].numel()))
    work()
    handle.remove()
    return counts
