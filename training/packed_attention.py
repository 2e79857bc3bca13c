"""Attention over packed sequences for learning and scoring: gradients flow, nothing is kept for later tokens.

Sequences that attend together are padded to one length. What is padded, and what comes back, are sums of rows: a token
that several sequences begin with is seen by each of them, and its gradient is the sum of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch.nn import functional

from training.attention import Pattern, alike, causal_mask
from training.packing import Packing


class Whole(Pattern):
    """Every token sees those before it in its sequence."""

    def __init__(self, packing: Packing) -> None:
        self._packing = packing
        self._layout: _Layout | None = None

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        heads, count, size = query.shape
        if self._layout is None:
            self._layout = _Layout(self._packing, key.shape[0], query)
        rows = [of.transpose(0, 1).reshape(-1, size) for of in (query, key, value)]
        seen = _Attend.apply(*rows, self._layout, scale, query.requires_grad)
        return cast(torch.Tensor, seen).view(count, heads, size)


class _Attend(torch.autograd.Function):
    """softmax(scale q k^T + mask) v, with gradients, of queries ``[N * H, D]`` and keys and values ``[N * G, D]``.

    Where gradients are wanted it is computed as it stands here: PyTorch's fused backward pass takes twice as long on a
    CPU. Keeps its inputs only, and computes the scores again: weights that are kept are 0.1 GB of a round, for no time
    that could be measured.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        layout: _Layout,
        scale: float,
        is_learning: bool,
    ) -> torch.Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.layout, ctx.scale = layout, scale
        seen = query.new_empty(layout.queries, query.shape[1])
        for part in layout.parts:
            asks, keys, values = part.queries_of(query), part.keys_of(key), part.keys_of(value)
            if is_learning:
                torch.bmm(_weights(asks.mul_(scale), keys, part.mask), values, out=part.among_queries(seen))
            else:
                four = [of.unflatten(0, (part.rows, -1)) for of in (asks, keys, values)]
                mask = part.mask.to(query.dtype)
                found = functional.scaled_dot_product_attention(four[0], four[1], four[2], attn_mask=mask, scale=scale)
                part.among_queries(seen).copy_(found.flatten(0, 1))
        return layout.answers(seen)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        layout: _Layout = ctx.layout
        to_query = query.new_empty(layout.queries, query.shape[1])
        to_key, to_value = (key.new_empty(layout.keys, key.shape[1]) for _ in range(2))
        for part in layout.parts:
            asks, keys, values = part.queries_of(query).mul_(ctx.scale), part.keys_of(key), part.keys_of(value)
            gradient = part.queries_of(gradients[0])
            weights = _weights(asks, keys, part.mask)
            torch.bmm(weights.transpose(1, 2), gradient, out=part.among_keys(to_value))
            to_weights = gradient @ values.transpose(1, 2)
            to_scores = torch.ops.aten._softmax_backward_data(to_weights, weights, -1, weights.dtype)
            torch.bmm(to_scores, keys, out=part.among_queries(to_query))
            torch.bmm(to_scores.transpose(1, 2), asks, out=part.among_keys(to_key))
        return layout.answers(to_query).mul_(ctx.scale), layout.owed(to_key), layout.owed(to_value), None, None, None


def _weights(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T + mask), ``[R * G, Q, C]``, for a mask ``[R, 1, Q, C]``."""
    scores = torch.bmm(query, key.transpose(1, 2)).to(torch.promote_types(query.dtype, torch.float32))
    scores.unflatten(0, (len(mask), -1)).add_(mask)
    return scores.softmax(-1).to(query.dtype)


class _Sums:
    """Rows that are sums of a few others: the product with a matrix of which most is zero, and the rest one."""

    def __init__(self, pairs: np.ndarray, size: int, device: torch.device) -> None:
        """Row ``to``, of ``size``, gets row ``source`` added for each of ``pairs [2, M]``."""
        to, source = pairs[:, pairs[0].argsort(kind="stable")]
        ends = np.searchsorted(to, np.arange(size + 1))
        self._source, self._ends = (torch.from_numpy(of.copy()).to(device) for of in (source, ends))

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        return functional.embedding_bag(self._source, rows, self._ends, mode="sum", include_last_offset=True)


@dataclass(frozen=True, slots=True)
class _Part:
    """Sequences that attend together: R of them, padded in front to Q queries and C columns each.

    Attributes:
        rows: R.
        asking: Pads the queries of ``[N * H]``.
        seeing: Pads the keys or values of ``[N * G]``.
        mask: What is added to the scores, ``[R, 1, H / G * Q, C]``.
        queries: Its range of the queries of all parts.
        keys: The same of keys.
    """

    rows: int
    asking: _Sums
    seeing: _Sums
    mask: torch.Tensor
    queries: slice
    keys: slice

    def queries_of(self, rows: torch.Tensor) -> torch.Tensor:
        """Its queries, ``[R * G, H / G * Q, D]``."""
        return self.asking(rows).view(-1, self.mask.shape[2], rows.shape[1])

    def keys_of(self, rows: torch.Tensor) -> torch.Tensor:
        """Its keys or values, ``[R * G, C, D]``."""
        return self.seeing(rows).view(-1, self.mask.shape[3], rows.shape[1])

    def among_queries(self, rows: torch.Tensor) -> torch.Tensor:
        """What belongs to its queries, of something of those of all parts."""
        return rows[self.queries].view(-1, self.mask.shape[2], rows.shape[1])

    def among_keys(self, rows: torch.Tensor) -> torch.Tensor:
        """The same of keys."""
        return rows[self.keys].view(-1, self.mask.shape[3], rows.shape[1])


class _Layout:
    """Where queries ``[N * H]`` and keys ``[N * G]`` stand in parts of sequences that attend together.

    Attributes:
        parts: One after another.
        queries: Of all parts, padding included.
        keys: The same.
        answers: Brings back what stands where queries do.
        owed: The same of keys, each of which gets what all sequences that see it give.
    """

    def __init__(self, packing: Packing, groups: int, like: torch.Tensor) -> None:
        heads, count = like.shape[:2]
        lengths = {at: (row.length, len(row.own)) for at, row in enumerate(packing.rows) if row.own}
        shared, device = heads // groups, like.device
        answers, owed = _nothing(), _nothing()
        self.parts: list[_Part] = []
        self.queries = self.keys = 0
        for part in alike(lengths, shared):
            rows = [packing.rows[row] for row in part]
            own, ends = [len(row.own) for row in rows], [row.length for row in rows]
            mask = causal_mask(own, ends, shared, like)
            wide, columns = mask.shape[2] // shared, mask.shape[3]
            asking, seeing = (
                _places([[row.own] for row in rows], wide, heads),
                _places([row.runs for row in rows], columns, groups),
            )
            queries = slice(self.queries, self.queries + len(rows) * heads * wide)
            keys = slice(self.keys, self.keys + len(rows) * groups * columns)
            self.parts.append(
                _Part(
                    len(rows),
                    _Sums(asking, queries.stop - queries.start, device),
                    _Sums(seeing, keys.stop - keys.start, device),
                    mask.to(torch.promote_types(mask.dtype, torch.float32)),
                    queries,
                    keys,
                )
            )
            answers = np.hstack([answers, asking[::-1] + np.array([[0], [self.queries]])])
            owed = np.hstack([owed, seeing[::-1] + np.array([[0], [self.keys]])])
            self.queries, self.keys = queries.stop, keys.stop
        self.answers, self.owed = _Sums(answers, count * heads, device), _Sums(owed, count * groups, device)


def _nothing() -> np.ndarray:
    return np.empty((2, 0), np.int64)


def _places(runs: Sequence[Sequence[range]], width: int, heads: int) -> np.ndarray:
    """Where the heads of tokens go, and where they are, ``[2, M]``.

    Args:
        runs: Of tokens, of which a row consists, for each of the rows that are padded in front.
        width: Of a row.
        heads: Of a token, where it is; of a row, where it goes.
    """
    found = [_nothing()]
    head = np.arange(heads)[:, None]
    for row, its in enumerate(runs):
        tokens = np.concatenate([np.arange(run.start, run.stop) for run in its])
        to = (row * heads + head + 1) * width + np.arange(-len(tokens), 0)
        found.append(np.stack([to.ravel(), (tokens * heads + head).ravel()]))
    return np.hstack(found)
