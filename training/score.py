"""How likely the model finds given completions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from training.models import LanguageModel
from training.update import LOGITS_ROWS, completion_states


@torch.no_grad()
def log_probabilities(
    lm: LanguageModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, batch: int
) -> list[npt.NDArray[np.float32]]:
    """Log-probability of every completion token, by the same low-rank path that rollouts take.

    Args:
        lm: The model; put into evaluation mode.
        pairs: Prompt and completion, as token ids; prompts not empty.
        batch: Pairs computed at once.

    Returns:
        One array ``[len(completion)]`` a pair.
    """
    lm.network.eval()
    order = sorted(range(len(pairs)), key=lambda i: tuple(pairs[i][0]))  # options of a question are asked together
    scores: dict[int, npt.NDArray[np.float32]] = {}
    for start in range(0, len(order), batch):
        chunk = order[start : start + batch]
        labels = torch.tensor([token for i in chunk for token in pairs[i][1]], device=lm.device)
        states = completion_states(lm, [pairs[i] for i in chunk])
        parts = []
        for at in range(0, len(labels), LOGITS_ROWS):
            wanted = labels[at : at + LOGITS_ROWS]
            logits = lm.logits(states[at : at + LOGITS_ROWS], wanted)
            chosen = logits.gather(-1, wanted[:, None])[:, 0]
            parts.append(chosen - logits.logsumexp(-1))
        ends = np.cumsum([len(pairs[i][1]) for i in chunk])[:-1]
        scores.update(zip(chunk, np.split(torch.cat(parts).cpu().numpy(), ends), strict=True))
    return [scores[i] for i in range(len(pairs))]
