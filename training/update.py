"""One SPEAR update: a few optimiser steps on traces of what was right and what was wrong.

    L = lambda_win * CE(wins) + lambda_lose * UL(losses)              (Lee et al. 2026, arXiv 2605.07977)

Only positions that carry a loss get logits, and gradients are summed over micro-batches normalised by the whole step's
token counts, so the result does not depend on how much fits into memory at once, but for which input features a pass
drops.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch

from training import attention, lowrank, packed_attention
from training.halving import halving
from training.losses import likelihood_sum, unlikelihood_mask, unlikelihood_sum
from training.models import LanguageModel
from training.packing import pack, passes
from training.traces import AnswerRates, Trace, balance

LOGITS_ROWS = 32
"""Positions whose logits over the whole vocabulary exist at one time; fewer in small passes, see `logits_rows`."""

_LOGITS_ROWS_A_TRACE = 8
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


def logits_rows(micro_batch: int) -> int:
    """Positions whose logits exist at one time, by the size of a pass: of small ones they would be most."""
    return min(LOGITS_ROWS, _LOGITS_ROWS_A_TRACE * micro_batch)


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
    tokens, micro_batch = 0, config.micro_batch
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for step in range(config.steps):
            drawn = [_Drawn(wins[i], n * win_factors[i]) for i, n in next(win_deck).items()]
            drawn += [_Drawn(losses[i], n * losses[i].weight) for i, n in next(loss_deck).items()]
            tokens += sum(entry.trace.length for entry in drawn)
            (loss_win, loss_lose), micro_batch = halving(
                "traces", micro_batch, partial(_backward, model, drawn, config)
            )
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


def _backward(
    model: LanguageModel, drawn: Sequence[_Drawn], config: UpdateConfig, micro_batch: int
) -> tuple[float, float]:
    """Computes the gradient of one step, in passes of ``micro_batch`` traces, and returns its two losses."""
    model.network.zero_grad(set_to_none=True)
    lowrank.forget(model.network)
    win_count = sum(entry.factor * len(entry.trace.completion) for entry in drawn if entry.trace.win)
    masks = [_push_mask(model, entry.trace) for entry in drawn]
    # A loss trace's factor is multiplicity times advantage; only the multiplicity belongs into the normaliser.
    lose_count = sum(
        entry.factor / entry.trace.weight * int(mask.sum())
        for entry, mask in zip(drawn, masks, strict=True)
        if not entry.trace.win
    )
    weights = config.lambda_win / max(1.0, win_count), config.lambda_lose / max(1.0, lose_count)
    # What begins alike comes into the same pass, which computes it once: a prompt for its win and its loss, say.
    order = sorted(range(len(drawn)), key=lambda i: drawn[i].trace.sequence)
    totals, rows_at_once = np.zeros(2), logits_rows(micro_batch)
    for run in passes([drawn[i].trace.sequence for i in order], micro_batch * _TOKENS_A_TRACE):
        rows = [order[i] for i in run]
        its = [drawn[i] for i in rows], [masks[i] for i in rows]
        totals += _pass(model, *its, weights, config.margin, rows_at_once)
    return float(totals[0] / max(1.0, win_count)), float(totals[1] / max(1.0, lose_count))


def _push_mask(model: LanguageModel, trace: Trace) -> torch.Tensor:
    """Which tokens ``[len(completion)]`` of a loss trace are pushed down; none of a win."""
    labels = torch.tensor([trace.completion])
    if trace.win:
        return torch.zeros_like(labels[0], dtype=torch.bool)
    eos_id = None if trace.end_counts else model.eos_id
    return unlikelihood_mask(labels, tail_tokens=trace.tail_tokens, eos_id=eos_id, ignore_ids=trace.protected)[0]


def _pass(
    model: LanguageModel,
    drawn: Sequence[_Drawn],
    masks: Sequence[torch.Tensor],
    weights: tuple[float, float],
    margin: float,
    rows_at_once: int,
) -> tuple[float, float]:
    """Adds the gradient of a few traces; returns the sums of cross-entropy and unlikelihood.

    Which position is a win's is known without asking the device, which goes on meanwhile where it is a GPU. All that it
    needs to be told it is told first: it would end what it has begun before it takes more.
    """
    device, traces = model.device, [entry.trace for entry in drawn]
    labels = torch.tensor([token for trace in traces for token in trace.completion], device=device)[:, None]
    factors = torch.tensor([entry.factor for entry in drawn for _ in entry.trace.completion], device=device)
    push = torch.cat(list(masks)).to(device)[:, None]
    is_win = [trace.win for trace in traces for _ in trace.completion]
    parts = [(wins, _rows(is_win, wins, rows_at_once, device)) for wins in (True, False)]
    states = completion_states(model, [(trace.prompt, trace.completion) for trace in traces])
    gradient, sums = torch.empty_like(states), torch.zeros(2, device=device)
    for at, (wins, its) in enumerate(parts):
        for part in its:
            leaf = states.detach()[part].requires_grad_()
            logits = model.head(leaf)[:, None]
            if wins:
                loss, _ = likelihood_sum(logits, labels[part], factors[part])
            else:
                loss, _ = unlikelihood_sum(logits, labels[part], factors[part], push[part], margin=margin)
            (weights[at] * loss).backward()
            gradient[part] = cast(torch.Tensor, leaf.grad)
            sums[at] += loss.detach()
    states.backward(gradient)
    win, lose = sums.tolist()
    return win, lose


def _rows(is_win: Sequence[bool], wins: bool, at_once: int, device: torch.device) -> Sequence[torch.Tensor]:
    """Which positions are a win's, or are not, so many of them at a time."""
    rows = [row for row, win in enumerate(is_win) if win == wins]
    return torch.tensor(rows, device=device).split(at_once) if rows else ()


def completion_states(model: LanguageModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> torch.Tensor:
    """What the output head is given where completions are predicted.

    Args:
        model: Its hidden states carry gradients if they are enabled.
        pairs: Prompts, none empty, and completions, as token ids.

    Returns:
        ``[P, hidden]``: a row for each completion token, one completion after another.
    """
    packing = pack([(*prompt, *completion) for prompt, completion in pairs])
    wanted = [
        row.at(column)
        for row, (prompt, _) in zip(packing.rows, pairs, strict=True)
        for column in range(len(prompt) - 1, row.length - 1)
    ]
    device = model.device
    ids, positions, at = (
        torch.tensor(of, dtype=torch.long, device=device) for of in (packing.tokens, packing.positions, wanted)
    )
    return attention.run(model.causal, ids, positions, packed_attention.Whole(packing), at)
