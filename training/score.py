"""How likely the model finds given completions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from training.halving import halving
from training.models import LanguageModel
from training.packing import passes
from training.rollout import READ_TOKENS
from training.update import LOGITS_ROWS, completion_states


@torch.no_grad()
def log_probabilities(
    lm: LanguageModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, batch: int
) -> list[npt.NDArray[np.float32]]:
    """Log-probability of every completion token, by the same low-rank path that rollouts take.

    Args:
        lm: The model; put into evaluation mode.
        pairs: Prompt and completion, as token ids; prompts not empty.
        batch: Pairs computed at once; fewer where they have more than ``READ_TOKENS`` together, or memory runs out.

    Returns:
        One array ``[len(completion)]`` a pair.
    """
    lm.network.eval()
    order = sorted(range(len(pairs)), key=lambda i: tuple(pairs[i][0]))  # options of a question are asked together
    scores: dict[int, npt.NDArray[np.float32]] = {}

    def score(count: int) -> dict[int, npt.NDArray[np.float32]]:
        rows = order[len(scores) : len(scores) + count]
        fitting = next(passes([(*pairs[i][0], *pairs[i][1]) for i in rows], READ_TOKENS))
        rows = rows[: fitting.stop]
        return dict(zip(rows, _scores(lm, [pairs[i] for i in rows]), strict=True))

    while len(scores) < len(pairs):
        found, batch = halving("sequences", min(batch, len(pairs) - len(scores)), score)
        scores |= found
    return [scores[i] for i in range(len(pairs))]


def _scores(lm: LanguageModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[npt.NDArray[np.float32]]:
    labels = torch.tensor([token for _, completion in pairs for token in completion], device=lm.device)
    if not len(labels):
        return [np.zeros(0, np.float32) for _ in pairs]
    states = completion_states(lm, pairs)
    parts = []
    for at in range(0, len(labels), LOGITS_ROWS):
        wanted = labels[at : at + LOGITS_ROWS]
        logits = lm.logits(states[at : at + LOGITS_ROWS], wanted)
        chosen = logits.gather(-1, wanted[:, None])[:, 0]
        parts.append(chosen - logits.logsumexp(-1))
    ends = np.cumsum([len(completion) for _, completion in pairs])[:-1]
    return np.split(torch.cat(parts).cpu().numpy(), ends)
