"""One SPEAR update: a few optimiser steps on traces of what was right and what was wrong.

    L = lambda_win * CE(wins) + lambda_lose * UL(losses)              (Lee et al. 2026, arXiv 2605.07977)

Only positions that carry a loss get logits, and gradients are summed over micro-batches normalised by the whole step's
token counts, so the result does not depend on how much fits into memory at once.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from training.losses import likelihood_sum, unlikelihood_mask, unlikelihood_sum
from training.models import LanguageModel
from training.traces import AnswerRates, Trace, balance

_TOKENS_A_TRACE = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateConfig:
    """How to learn from a round's traces.

    Attributes:
        steps: Optimiser steps.
        batch: Wins a step, and at most as many losses.
        micro_batch: Traces of 128 tokens in one forward and backward pass, more of shorter and fewer of longer ones;
            bounds memory.
        learning_rate: Of AdamW, constant.
        lambda_win: Weight of the likelihood.
        lambda_lose: Weight of the unlikelihood.
        margin: Tokens believed in no more than this are not pushed down.
        clip: Largest norm of the gradient.
        seed: Of batch order and dropout.
    """

    steps: int = 5
    batch: int = 16
    micro_batch: int = 8
    learning_rate: float = 3e-4
    lambda_win: float = 1.0
    lambda_lose: float = 0.1
    margin: float = 0.3
    clip: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What an update did.

    Attributes:
        wins: Traces learned from by likelihood; also the update's weight when it is merged with others'.
        losses: Traces learned from by unlikelihood.
        steps: Optimiser steps taken; 0 when there was no win.
        skipped_steps: Steps dropped because a loss or a gradient was not finite.
        loss_win: Mean cross-entropy over the steps taken, nan if none.
        loss_lose: Mean unlikelihood over the steps taken, nan if none.
        gradient_norm: Mean norm before clipping, nan if none.
        tokens: Tokens that went through the model.
        seconds: Wall time.
    """

    wins: int
    losses: int
    steps: int
    skipped_steps: int
    loss_win: float
    loss_lose: float
    gradient_norm: float
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A trace in a step: the same trace drawn ``n`` times is computed once with ``n`` in its factor."""

    trace: Trace
    factor: float


def update(
    model: LanguageModel,
    traces: Sequence[Trace],
    config: UpdateConfig,
    *,
    rates: AnswerRates | None = None,
    notify: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> UpdateReport:
    """Trains the model's adapter on traces, in place, with a fresh AdamW.

    With no wins nothing is changed: unlikelihood alone makes a model forget how to speak. If ``notify`` raises, the
    adapter is left half-trained and the caller restores it.

    Args:
        model: Its adapter is trained.
        traces: Wins and losses in any order.
        config: Step counts, weights and seed.
        rates: How often each answer is right, to balance wins by.
        notify: Called with ("learning", step, steps) after each step.

    Returns:
        Counts and mean losses.
    """
    started = time.monotonic()
    rng = np.random.default_rng(config.seed)
    wins = [trace for trace in traces if trace.win]
    losses = [trace for trace in traces if not trace.win]
    if not wins:
        return UpdateReport(0, 0, 0, 0, math.nan, math.nan, math.nan, 0, time.monotonic() - started)
    figures, tokens = _steps(model, wins, losses, balance(wins, rates), config, rng, notify)
    loss_win, loss_lose, norm = np.mean(figures, axis=0).tolist() if figures else [math.nan] * 3
    return UpdateReport(
        wins=len(wins),
        losses=len(losses),
        steps=len(figures),
        skipped_steps=config.steps - len(figures),
        loss_win=loss_win,
        loss_lose=loss_lose,
        gradient_norm=norm,
        tokens=tokens,
        seconds=time.monotonic() - started,
    )


def _steps(
    model: LanguageModel,
    wins: Sequence[Trace],
    losses: Sequence[Trace],
    win_factors: Sequence[float],
    config: UpdateConfig,
    rng: np.random.Generator,
    notify: Callable[[str, int, int], None],
) -> tuple[list[tuple[float, float, float]], int]:
    """Takes the steps; returns both losses and the gradient's norm of each one taken, and the tokens of all."""
    model.network.train()
    parameters = [parameter for parameter in model.network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
    win_deck = _deck(len(wins), config.batch, rng)
    loss_deck = _deck(len(losses), min(config.batch, len(losses)), rng)
    figures: list[tuple[float, float, float]] = []
    tokens = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for step in range(config.steps):
            drawn = [_Drawn(wins[i], n * win_factors[i]) for i, n in next(win_deck).items()]
            drawn += [_Drawn(losses[i], n * losses[i].weight) for i, n in next(loss_deck).items()]
            tokens += sum(entry.trace.length for entry in drawn)
            loss_win, loss_lose = _backward(model, drawn, config)
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.clip))
            if math.isfinite(loss_win + loss_lose + norm):
                optimiser.step()
                figures.append((loss_win, loss_lose, norm))
            optimiser.zero_grad(set_to_none=True)
            notify("learning", step + 1, config.steps)
    return figures, tokens


def _deck(size: int, batch: int, rng: np.random.Generator) -> Iterator[Counter[int]]:
    """Batches of indices below ``size``: every one is drawn once before any is drawn again."""
    waiting: list[int] = []
    while True:
        hand: list[int] = []
        while size and len(hand) < batch:
            if not waiting:
                waiting = rng.permutation(size).tolist()
            hand.append(waiting.pop())
        yield Counter(hand)


def _backward(model: LanguageModel, drawn: Sequence[_Drawn], config: UpdateConfig) -> tuple[float, float]:
    """Adds the gradient of one step and returns its two losses."""
    win_count = sum(entry.factor * len(entry.trace.completion) for entry in drawn if entry.trace.win)
    masks = [_push_mask(model, entry.trace) for entry in drawn]
    # A loss trace's factor is multiplicity times advantage; only the multiplicity belongs into the normaliser.
    lose_count = sum(
        entry.factor / entry.trace.weight * int(mask.sum())
        for entry, mask in zip(drawn, masks, strict=True)
        if not entry.trace.win
    )
    order = sorted(range(len(drawn)), key=lambda i: drawn[i].trace.length)
    total_win = total_lose = 0.0
    for run in _passes([drawn[i].trace.length for i in order], config.micro_batch * _TOKENS_A_TRACE):
        rows = [order[i] for i in run]
        win, lose = _micro_batch(model, [drawn[i] for i in rows], [masks[i] for i in rows], config.margin)
        win, lose = win / max(1.0, win_count), lose / max(1.0, lose_count)
        (config.lambda_win * win + config.lambda_lose * lose).backward()
        total_win, total_lose = total_win + float(win.detach()), total_lose + float(lose.detach())
    return total_win, total_lose


def _passes(lengths: Sequence[int], most_tokens: int) -> Iterator[range]:
    """Splits ascending lengths into runs that, padded to their longest, hold at most ``most_tokens`` (or one trace)."""
    start = 0
    for end, length in enumerate(lengths):
        if end > start and (end + 1 - start) * length > most_tokens:
            yield range(start, end)
            start = end
    yield range(start, len(lengths))


def _push_mask(model: LanguageModel, trace: Trace) -> torch.Tensor:
    """Which tokens ``[len(completion)]`` of a loss trace are pushed down; none of a win."""
    labels = torch.tensor([trace.completion])
    if trace.win:
        return torch.zeros_like(labels[0], dtype=torch.bool)
    eos = model.eos_id
    return unlikelihood_mask(labels, tail_tokens=trace.tail_tokens, eos_id=eos, ignore_ids=trace.protected)[0]


def _micro_batch(
    model: LanguageModel, drawn: Sequence[_Drawn], masks: Sequence[torch.Tensor], margin: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of cross-entropy and unlikelihood over a few traces, padded on the right: causal attention needs no mask."""
    device = model.device
    width = max(entry.trace.length for entry in drawn)
    ids = torch.full((len(drawn), width), model.pad_id)
    rows: list[int] = []
    columns: list[int] = []
    for row, entry in enumerate(drawn):
        trace = entry.trace
        ids[row, : trace.length] = torch.tensor(trace.prompt + trace.completion)
        rows += [row] * len(trace.completion)
        columns += range(len(trace.prompt) - 1, trace.length - 1)
    logits = completion_logits(model, ids, torch.tensor(rows), torch.tensor(columns))[:, None]
    labels = ids[rows, [column + 1 for column in columns]].to(device)[:, None]
    factors = torch.tensor([drawn[row].factor for row in rows], device=device)
    is_win = torch.tensor([drawn[row].trace.win for row in rows], device=device)
    push = torch.cat(list(masks)).to(device)[:, None]
    win, _ = likelihood_sum(logits[is_win], labels[is_win], factors[is_win])
    lose, _ = unlikelihood_sum(logits[~is_win], labels[~is_win], factors[~is_win], push[~is_win], margin=margin)
    return win, lose


def completion_logits(
    model: LanguageModel, ids: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Logits ``[N, V]`` at the N positions ``(rows, columns)`` of right-padded ``ids [B, T]``, and at no others."""
    with _only_at(model, rows.to(model.device), columns.to(model.device)):
        return model.causal(input_ids=ids.to(model.device), use_cache=False).logits[0]


@contextmanager
def _only_at(model: LanguageModel, rows: torch.Tensor, columns: torch.Tensor) -> Iterator[None]:
    """Hands the output head the chosen positions only, whatever the architecture does to logits after it."""
    head = model.causal.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, args: (args[0][rows, columns].unsqueeze(0), *args[1:]))
    try:
        yield
    finally:
        handle.remove()
