"""How likely the model finds given completions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from training.models import LanguageModel
from training.update import completion_logits


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
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    scores: dict[int, npt.NDArray[np.float32]] = {}
    for start in range(0, len(order), batch):
        chunk = order[start : start + batch]
        width = max(len(pairs[i][0]) + len(pairs[i][1]) for i in chunk)
        ids = torch.full((len(chunk), width), lm.pad_id)
        rows: list[int] = []
        columns: list[int] = []
        for row, i in enumerate(chunk):
            prompt, completion = pairs[i]
            ids[row, : len(prompt) + len(completion)] = torch.tensor([*prompt, *completion])
            rows += [row] * len(completion)
            columns += range(len(prompt) - 1, len(prompt) + len(completion) - 1)
        logits = completion_logits(lm, ids, torch.tensor(rows), torch.tensor(columns)).float()
        labels = ids[rows, [column + 1 for column in columns]].to(logits.device)
        flat = (logits.gather(-1, labels[:, None])[:, 0] - logits.logsumexp(-1)).cpu().numpy()
        ends = np.cumsum([len(pairs[i][1]) for i in chunk])[:-1]
        scores.update(zip(chunk, np.split(flat, ends), strict=True))
    return [scores[i] for i in range(len(pairs))]
