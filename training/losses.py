"""SPEAR's two losses (Lee et al. 2026, arXiv 2605.07977).

Likelihood on what was right is the mean cross-entropy of completion tokens, EOS included. Unlikelihood on what was
wrong (after Welleck et al., arXiv 1908.04319) pushes a token down only while the model still believes in it:

    UL = sum_i a_i sum_t m_it [p_it > margin] * -log(1 - p_it)  /  max(1, sum_it m_it)

Both come as a sum and a count too, so that a batch larger than memory is normalised as a whole.

Shapes: ``B`` traces, ``T`` positions, ``V`` vocabulary. ``logits[b, t]`` predicts ``labels[b, t]``; a label of -100 is
masked.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import torch
from torch.nn import functional

MASKED = -100


def likelihood_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over unmasked labels.

    Args:
        logits: ``[B, T, V]``, any float dtype; computed in float32 or wider.
        labels: ``[B, T]`` int64, -100 where masked.

    Returns:
        A scalar; 0 when every label is masked.
    """
    total, count = likelihood_sum(logits, labels)
    return total / count.clamp(min=1)


def likelihood_sum(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy summed over unmasked labels, and the number of them, both weighted by ``weights [B]`` if given."""
    losses = functional.cross_entropy(
        _wide(logits).flatten(0, -2), labels.flatten(), ignore_index=MASKED, reduction="none"
    ).view(labels.shape)
    kept = (labels != MASKED).to(losses.dtype)
    if weights is not None:
        losses, kept = losses * weights[:, None], kept * weights[:, None]
    return losses.sum(), kept.sum()


def unlikelihood_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    *,
    margin: float = 0.3,
    tail_tokens: int = 0,
    eos_id: int | None = None,
    ignore_ids: AbstractSet[int] = frozenset(),
) -> torch.Tensor:
    """Unlikelihood of the tokens of wrong completions, each trace weighted by its advantage.

    Args:
        logits: ``[B, T, V]``, any float dtype; computed in float32 or wider.
        labels: ``[B, T]`` int64, -100 where masked.
        weights: ``[B]``, the advantage ``a_i`` of each trace: 1.0 where a revision did better, 0.5 where none did.
        margin: A token whose probability is at most this is left alone.
        tail_tokens: Only the last so many tokens of each completion count; 0 for all.
        eos_id: Dropped before the tail window is taken.
        ignore_ids: Dropped after the tail window is taken.

    Returns:
        A scalar; 0 when nothing is left to push down.
    """
    mask = unlikelihood_mask(labels, tail_tokens=tail_tokens, eos_id=eos_id, ignore_ids=ignore_ids)
    total, count = unlikelihood_sum(logits, labels, weights, mask, margin=margin)
    return total / count.clamp(min=1)


def unlikelihood_mask(
    labels: torch.Tensor,
    *,
    tail_tokens: int | torch.Tensor = 0,
    eos_id: int | None = None,
    ignore_ids: AbstractSet[int] = frozenset(),
) -> torch.Tensor:
    """Which positions of ``labels [B, T]`` count, as bool ``[B, T]``; ``tail_tokens`` may be one window a trace."""
    mask = labels != MASKED
    if eos_id is not None:
        mask &= labels != eos_id
    window = torch.as_tensor(tail_tokens, device=labels.device).expand(labels.shape[0])
    from_end = mask.flip(-1).cumsum(-1).flip(-1)
    mask &= (from_end <= window[:, None]) | (window[:, None] == 0)
    if ignore_ids:
        mask &= ~torch.isin(labels, torch.tensor(sorted(ignore_ids), device=labels.device))
    return mask


def unlikelihood_sum(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    mask: torch.Tensor,
    *,
    margin: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The numerator of the unlikelihood and the number of positions in ``mask [B, T]``.

    ``log(1 - p)`` is the log-sum-exp of all *other* logits less that of all: exact where ``p`` rounds to 1, where the
    gradient of the textbook form vanishes or is infinite.
    """
    scores = _wide(logits)
    index = labels.clamp(min=0).unsqueeze(-1)
    normaliser = scores.logsumexp(-1)
    chosen = scores.gather(-1, index).squeeze(-1)
    others = scores.scatter(-1, index, -torch.inf).logsumexp(-1)
    push = mask & ((chosen - normaliser).exp() > margin)
    per_token = (normaliser - others).masked_fill(~push, 0.0)  # a number in ``where`` is copied to a GPU, which waits
    return (per_token.sum(-1) * weights.to(per_token.dtype)).sum(), mask.sum()


def _wide(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
