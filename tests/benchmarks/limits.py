"""What the machine itself can do for a step of decoding: read its memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from training import rollout
from training.cache import Prefixes
from training.lowrank import Group, LowRankLinear
from training.models import LanguageModel
from training.stepping import Steps

PROMPT_TOKENS = 128
"""That a sequence has behind it when it goes on by a token."""
DECODED = 24
READ_BYTES = 1 << 28
"""More than a cache holds."""


def groups(lm: LanguageModel) -> set[Group]:
    """The linear layers of a model, those that share an input together."""
    layers = [module for module in lm.network.modules() if isinstance(module, LowRankLinear)]
    return {layer._group for layer in layers if layer._group is not None}


def reading_s(n_bytes: int, device: torch.device) -> float:
    """How long the machine takes to read so many bytes of memory, in order."""
    large = torch.ones(READ_BYTES // 4, device=device)
    return timed(large.sum, 10) * n_bytes / READ_BYTES


@torch.inference_mode()
def decoding(lm: LanguageModel, batch: int) -> tuple[float, int]:
    """A step of decoding, scores of the vocabulary included.

    Returns:
        Its seconds, and the bytes that have to be read for it: every weight, keys and values of ``batch`` sequences.
    """
    lm.network.eval()
    prompts = torch.randint(5, 250, (batch, PROMPT_TOKENS)).tolist()
    cache, _ = rollout._prefill(lm, prompts, DECODED + 1, Prefixes(is_open=False))
    steps = Steps(lm, cache, torch.full((batch,), PROMPT_TOKENS, device=lm.device))
    tokens = torch.full((batch,), 7, device=lm.device)
    seconds = timed(lambda: lm.logits(steps(tokens)), DECODED)
    layers = [layer for group in groups(lm) for layer in group.members]
    weights = [
        lm.causal.get_output_embeddings().weight,
        *(of for one in layers for of in (one.base.weight, one.down, one.up)),
    ]
    kept = [of for at in range(len(lm.causal.base_model.layers)) for of in cache.layer(at, tokens)]
    return seconds, sum(of.numel() for of in (*weights, *kept)) * lm.dtype.itemsize


def timed(work: Callable[[], object], times: int) -> float:
    """The median of a few times, after one that is not counted."""
    work()
    found = []
    for _ in range(times):
        finish()
        started = time.perf_counter()
        work()
        finish()
        found.append(time.perf_counter() - started)
    return float(np.median(found))


def finish() -> None:
    """Waits for what a GPU was given to do; one that was given nothing is not woken, which takes memory."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
