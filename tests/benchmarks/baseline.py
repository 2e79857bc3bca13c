"""The plain way, kept to measure against: transformers' ``generate`` with PEFT's own layers, all in fp32.

Every prompt is computed whole each time, padded to the longest of its batch, and its keys and values are not kept.
Learning passes wins and losses separately, padded, a step's batch at once, with logits at all positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.losses import MASKED, likelihood_loss, unlikelihood_loss
from training.models import LanguageModel, LoraSettings
from training.rollout import Completion, Sampling
from training.sources import ModelSource
from training.traces import Trace
from training.update import UpdateConfig, UpdateReport


def load(source: ModelSource, settings: LoraSettings, device: str) -> LanguageModel:
    """A base model in fp32 with PEFT's layers."""
    causal = cast(Any, AutoModelForCausalLM).from_pretrained(source.folder, dtype=torch.float32)
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules="all-linear",
        task_type="CAUSAL_LM",
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(source.folder)
    network = cast(Any, get_peft_model(causal, config)).to(device)
    return LanguageModel(network, tokenizer, source, source.prompt_format, None, 1024)


@torch.no_grad()
def sample(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    sampling: Sampling,
    *,
    batch: int,
    **_: Any,
) -> list[Completion]:
    """Takes the place of ``training.rollout.sample``."""
    lm.network.eval()
    torch.manual_seed(sampling.seed % 2**63)
    order = sorted(range(len(prompts)), key=lambda i: (limits[i], len(prompts[i])))
    found: dict[int, Completion] = {}
    how: dict[str, Any] = {"do_sample": False}
    if sampling.temperature:
        how = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        width = max(len(prompts[row]) for row in rows)
        ids = torch.tensor([[lm.pad_id] * (width - len(prompts[row])) + list(prompts[row]) for row in rows])
        mask = torch.tensor([[0] * (width - len(prompts[row])) + [1] * len(prompts[row]) for row in rows])
        out = lm.network.generate(
            input_ids=ids.to(lm.device), attention_mask=mask.to(lm.device),
            max_new_tokens=max(limits[row] for row in rows), pad_token_id=lm.pad_id, **how,
        )  # fmt: skip
        for row, tokens in zip(rows, out[:, width:].tolist(), strict=True):
            end = next((at for at, token in enumerate(tokens) if token in lm.eos_ids), len(tokens))
            found[row] = Completion(tuple(tokens[: min(end, limits[row])]), end < limits[row])
    return [found[i] for i in range(len(prompts))]


def update(lm: LanguageModel, traces: Sequence[Trace], config: UpdateConfig, **_: Any) -> UpdateReport:
    """Takes the place of ``training.update.update``, without balancing and multiplicities."""
    lm.network.train()
    parameters = [parameter for parameter in lm.network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
    rng = np.random.default_rng(config.seed)
    wins, losses = [t for t in traces if t.win], [t for t in traces if not t.win]
    figures, tokens = [], 0
    for _step in range(config.steps if wins else 0):
        loss_win = loss_lose = torch.zeros((), device=lm.device)
        for kind in (wins, losses):
            if not kind:
                continue
            drawn = [kind[i] for i in rng.choice(len(kind), min(config.batch, len(kind)), replace=False)]
            tokens += sum(trace.length for trace in drawn)
            logits, labels = _logits(lm, drawn)
            if kind is wins:
                loss_win = likelihood_loss(logits, labels)
                (config.lambda_win * loss_win).backward()
            else:
                weights = torch.tensor([trace.weight for trace in drawn], device=lm.device)
                loss_lose = unlikelihood_loss(logits, labels, weights, margin=config.margin, eos_id=lm.eos_id)
                (config.lambda_lose * loss_lose).backward()
        norm = float(clip_grad_norm_(parameters, config.clip))
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        figures.append((float(loss_win.detach()), float(loss_lose.detach()), norm))
    means = np.mean(figures, axis=0).tolist() if figures else [float("nan")] * 3
    return UpdateReport(len(wins), len(losses), len(figures), 0, *means, tokens, 0.0)


def _logits(lm: LanguageModel, traces: Sequence[Trace]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits ``[B, T, V]`` at all positions, and what they should say; prompts and padding masked."""
    width = max(trace.length for trace in traces)
    ids = torch.full((len(traces), width), lm.pad_id)
    labels = torch.full((len(traces), width), MASKED)
    for row, trace in enumerate(traces):
        ids[row, : trace.length] = torch.tensor(trace.sequence)
        labels[row, len(trace.prompt) : trace.length] = torch.tensor(trace.completion)
    mask = torch.arange(width) < torch.tensor([trace.length for trace in traces])[:, None]
    logits = lm.network(input_ids=ids.to(lm.device), attention_mask=mask.long().to(lm.device)).logits
    return logits[:, :-1], labels[:, 1:].to(lm.device)
