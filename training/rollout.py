"""Sampling completions from the current policy, many prompts at once.

Every prompt draws from its own stream of random numbers, so what is sampled does not depend on which prompts share a
batch. Finished sequences leave the batch as soon as half of it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from training.models import LanguageModel

Notify = Callable[[str, int, int], None]
"""Called at safe points with (phase, done, total). It may raise Interrupted: the work in progress is dropped."""

_NUCLEUS = 512
"""Candidates looked at first for top-p; a row whose nucleus is larger falls back to sorting the whole vocabulary."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample.

    Attributes:
        temperature: 0 is greedy.
        top_p: Smallest set of tokens with at least this probability is sampled from.
        seed: Of the random streams.
    """

    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0


SAMPLED = Sampling()
GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, slots=True)
class Completion:
    """A sampled continuation.

    Attributes:
        tokens: Token ids without EOS.
        ended: The model ended by itself; False where the token limit cut it.
    """

    tokens: tuple[int, ...]
    ended: bool


def sample(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    sampling: Sampling,
    *,
    batch: int,
    phase: str = "sampling",
    notify: Notify = lambda phase, done, total: None,
) -> list[Completion]:
    """Samples one completion a prompt.

    Args:
        lm: The model; put into evaluation mode (no dropout).
        prompts: Token ids, none empty.
        limits: Most new tokens for each prompt.
        sampling: Temperature, nucleus and seed.
        batch: Sequences decoded at once.
        phase: Passed on to ``notify``.
        notify: Called after every batch.

    Returns:
        Completions in the order of the prompts.
    """
    lm.network.eval()
    order = sorted(range(len(prompts)), key=lambda i: (limits[i], len(prompts[i])), reverse=True)
    results: dict[int, Completion] = {}
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        uniform = np.stack([_stream(sampling.seed, row, limits[row], max(limits[r] for r in rows)) for row in rows])
        decoded = _decode(lm, [prompts[r] for r in rows], [limits[r] for r in rows], sampling, uniform)
        results.update(zip(rows, decoded, strict=True))
        notify(phase, len(results), len(prompts))
    return [results[i] for i in range(len(prompts))]


def _stream(seed: int, row: int, count: int, width: int) -> npt.NDArray[np.float64]:
    drawn = np.zeros(width)
    drawn[:count] = np.random.Generator(np.random.Philox(key=[seed % 2**64, row])).random(count)
    return drawn


@torch.inference_mode()
def _decode(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    sampling: Sampling,
    uniform: npt.NDArray[np.float64],
) -> list[Completion]:
    """Decodes one left-padded batch; ``uniform [B, T]`` holds one number in [0, 1) a token."""
    device = lm.device
    ids, mask = (padded.to(device) for padded in _left_padded(prompts, lm.pad_id))
    draws = torch.from_numpy(uniform).to(device, torch.float32)
    cache = DynamicCache(config=lm.causal.config)
    out: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    active = list(range(len(prompts)))
    fed, positions = ids, (mask.cumsum(-1) - 1).clamp(min=0)
    for step in range(max(limits)):
        logits = lm.causal(
            input_ids=fed,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        chosen = _pick(logits.float(), sampling, draws[active, step])
        going = []
        for at, (row, token) in enumerate(zip(active, chosen.tolist(), strict=True)):
            if ended[row] or len(out[row]) >= limits[row]:
                continue
            if token in lm.eos_ids:
                ended[row] = True
                continue
            out[row].append(token)
            if len(out[row]) < limits[row]:
                going.append(at)
        if not going:
            break
        if 2 * len(going) <= len(active):
            keep = torch.tensor(going, device=device)
            cache.batch_select_indices(keep)
            active = [active[at] for at in going]
            mask, positions, chosen = mask[keep], positions[keep], chosen[keep]
        mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=-1)
        fed, positions = chosen[:, None], positions[:, -1:] + 1
    return [Completion(tuple(tokens), end) for tokens, end in zip(out, ended, strict=True)]


def _left_padded(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, ``[B, T]`` each."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids, mask


def _pick(logits: torch.Tensor, sampling: Sampling, draws: torch.Tensor) -> torch.Tensor:
    """Chooses a token a row of ``logits [B, V]``: ``draws [B]``, uniform in [0, 1), invert the nucleus distribution."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    scores = logits / sampling.temperature
    normaliser = scores.logsumexp(-1, keepdim=True)
    top, index = scores.topk(min(_NUCLEUS, scores.shape[-1]), dim=-1)
    below = (top - normaliser).exp().cumsum(-1)
    if bool((below[:, -1] < sampling.top_p).any()) and top.shape[-1] < scores.shape[-1]:
        top, index = scores.sort(dim=-1, descending=True)
        below = (top - normaliser).exp().cumsum(-1)
    probabilities = (top - normaliser).exp()
    # A token is in the nucleus when those before it do not reach top_p; the first always is.
    probabilities[:, 1:][below[:, :-1] >= sampling.top_p] = 0.0
    cumulative = probabilities.cumsum(-1)
    position = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)
    last = (probabilities > 0).sum(-1, keepdim=True) - 1
    return index.gather(-1, position.clamp(max=last)).squeeze(-1)
