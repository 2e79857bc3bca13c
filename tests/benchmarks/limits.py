"""What the machine itself can do at a model's own shapes: products in a step of learning, memory in one of decoding."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch.nn import functional

from training import rollout
from training.lowrank import Group, LowRankLinear
from training.models import LanguageModel
from training.stepping import Steps

PROMPT_TOKENS = 128
"""That a sequence has behind it when it goes on by a token."""
DECODED = 24
READ_BYTES = 1 << 28
"""More than a cache holds."""

Shape = tuple[int, tuple[int, ...], tuple[int, ...]]
"""Of layers that share an input: its width, theirs, and the ranks of their adapters."""


def groups(lm: LanguageModel) -> set[Group]:
    """The linear layers of a model, those that share an input together."""
    layers = [module for module in lm.network.modules() if isinstance(module, LowRankLinear)]
    return {layer._group for layer in layers if layer._group is not None}


class Rows:
    """Counts the rows that linear layers of each shape are given while a model learns."""

    def __init__(self, lm: LanguageModel) -> None:
        self.rows: Counter[Shape] = Counter()
        for group in groups(lm):
            group.outputs = partial(self._count, group, group.outputs)  # type: ignore[method-assign]

    def _count(self, group: Group, outputs: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        if group.members[0].training:
            self.rows[group.inputs, tuple(group.widths), tuple(group.ranks)] += x.shape[:-1].numel()
        return outputs(x)


def products_s(lm: LanguageModel, rows: int, done: Mapping[Shape, int]) -> tuple[float, float]:
    """How long the products of linear layers take by themselves, forward and backward, in passes of ``rows``.

    Args:
        lm: On the device.
        rows: Of a pass.
        done: How many there were of each shape.

    Returns:
        Seconds for them: with base weights alone, and with adapters. Products of the same input are one, and B is a
        part of the base weights' matrix, as in a step.
    """
    base = linear = 0.0
    with torch.inference_mode():
        for shape, count in done.items():
            found = _group_s(lm, rows, *shape)
            base, linear = base + count / rows * found[0], linear + count / rows * found[1]
    return base, linear


def _group_s(
    lm: LanguageModel, rows: int, inputs: int, widths: tuple[int, ...], ranks: tuple[int, ...]
) -> tuple[float, float]:
    """Seconds for layers that share an input ``[rows, inputs]``: without adapters, and with them."""
    outs, rank = sum(widths), sum(ranks)
    x, y, low, both = (
        torch.randn(rows, width).to(lm.device, lm.dtype) for width in (inputs, outs, rank, inputs + rank)
    )
    parts = [*zip(y.split(widths, 1), low.split(ranks, 1), strict=True)]
    base = _seconds(lambda weight: (functional.linear(x, weight), y @ weight), (outs, inputs), lm)
    down = _seconds(lambda down: (functional.linear(x, down), low @ down, low.t() @ x), (rank, inputs), lm)
    wide = _seconds(lambda weight: (functional.linear(both, weight), y @ weight), (outs, inputs + rank), lm)
    to_ups = _seconds(lambda _: [its.t() @ part for part, its in parts], (1, 1), lm)
    return base, wide + down + to_ups


def _seconds(product: Callable[[torch.Tensor], object], shape: tuple[int, int], lm: LanguageModel) -> float:
    """Of products with a weight of that shape, another one each time, as in a model."""
    weights = [torch.randn(shape).to(lm.device, lm.dtype) for _ in range(8)]
    return timed(lambda: [product(weight) for weight in weights], 5) / len(weights)


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
    cache, _ = rollout._prefill(lm, prompts, DECODED + 1, None)
    steps = Steps(lm, cache, torch.full((batch,), PROMPT_TOKENS, device=lm.device))
    tokens = torch.full((batch,), 7, device=lm.device)
    seconds = timed(lambda: lm.head(steps(tokens)), DECODED)
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
