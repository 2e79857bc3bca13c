"""Attention over packed sequences, put into transformers' models in place of theirs.

A model computes all its layers on one row of tokens (see ``training.packing``), and its attention asks a ``Pattern``
which token sees which. Called in any other way, for instance by ``generate``, a model attends as it always does.

It does not cover layers that are no softmax attention, sinks, capped scores, and windows shorter than a sequence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from training import layers
from training.packing import Packing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "spearctl"
ROUNDED_TO = 64
"""More tokens than this are filled up to a multiple: oneDNN makes, and keeps, a kernel for each shape it has seen."""
MOST_SCORES = 1 << 19
"""Of one layer and one group of heads, in one go: more do not fit a small CPU's cache and take twice as long."""


class Pattern(ABC):
    """Which token sees which."""

    @abstractmethod
    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Attends in one layer.

        Args:
            layer: Its index.
            query: ``[H, N, D]``.
            key: ``[G, N, D]``; ``H / G`` heads share each.
            value: ``[G, N, D]``.
            scale: Of the scores.

        Returns:
            ``[N, H, D]``.
        """


def run(
    causal: PreTrainedModel,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    pattern: Pattern,
    wanted: torch.Tensor | None = None,
) -> torch.Tensor:
    """Computes what the output head is given.

    Args:
        causal: With :func:`use` applied.
        tokens: Token ids ``[N]``.
        positions: ``[N]``.
        pattern: Which token sees which.
        wanted: Which tokens somebody asks for, ``[W]``; all, if not given. The last layer computes little else.

    Returns:
        Hidden states ``[W, hidden]``, or ``[N, hidden]``.
    """
    count = len(tokens)
    if count > ROUNDED_TO:
        tokens, positions = _filled_up(tokens), _filled_up(positions)
    narrowed = {}
    if wanted is not None and len(wanted) and layers.is_narrow(causal.base_model):
        narrowed["wanted"] = _filled_up(wanted)
    # A mask that looks ready is handed on as it is, and costs nothing.
    ready = tokens.new_zeros((1, 1, 1, 1))
    found = causal.base_model(
        input_ids=tokens[None], position_ids=positions[None], attention_mask=ready, use_cache=False,
        pattern=pattern, count=count, **narrowed,
    )  # fmt: skip
    states = cast(torch.Tensor, found.last_hidden_state[0])
    if wanted is None:
        return states[:count]
    return states[: len(wanted)] if narrowed else states.index_select(0, wanted)


def _filled_up(tokens: torch.Tensor) -> torch.Tensor:
    """Something of each token ``[N]``, with zeros behind it."""
    return torch.cat([tokens, tokens.new_zeros(-len(tokens) % ROUNDED_TO)])


def use(causal: PreTrainedModel) -> None:
    """Makes a model ask patterns."""
    # cuDNN, which PyTorch asks first on the largest GPUs, makes a plan for each shape that it has not seen: ours differ
    # all the time.
    torch.backends.cuda.enable_cudnn_sdp(False)
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    causal.set_attn_implementation(NAME)


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    pattern: Pattern | None = None,
    count: int = 0,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    if pattern is not None and any(settings.get(name) is not None for name in ("softcap", "s_aux")):
        raise NotImplementedError("capped scores and sinks")
    if pattern is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    scale = settings.get("scaling") or query.shape[-1] ** -0.5
    blank = query.shape[2] - count
    seen = pattern.attend(int(module.layer_idx), query[0, :, :count], key[0, :, :count], value[0, :, :count], scale)
    return functional.pad(seen, (0, 0, 0, 0, 0, blank))[None] if blank else seen[None], None


class Whole(Pattern):
    """Every token sees those before it in its sequence. For learning and scoring: gradients flow, nothing is kept."""

    def __init__(self, packing: Packing) -> None:
        segments = packing.segments()
        index = {segment.start: at for at, segment in enumerate(segments)}
        self._packing = packing
        self._sizes = [len(segment) for segment in segments]
        self._chains = [
            [at for run in row.runs for at in _covering(run, segments, index[run.start])] for row in packing.rows
        ]
        self._order = [row for row in packing.order if packing.rows[row].own]
        self._parts: list[tuple[list[int], torch.Tensor]] = []

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        heads, size, groups = query.shape[0], query.shape[2], key.shape[0]
        rows = self._packing.rows
        if not self._parts:
            lengths = {row: (rows[row].length, len(rows[row].own)) for row in self._order}
            for part in alike(lengths, heads // groups):
                own, ends = (
                    [of(rows[row]) for row in part] for of in (lambda row: len(row.own), lambda row: row.length)
                )
                self._parts.append((part, causal_mask(own, ends, heads // groups, query)))
        queries = dict(zip(self._order, query.split([len(rows[row].own) for row in self._order], dim=1), strict=True))
        keys, values = key.split(self._sizes, dim=1), value.split(self._sizes, dim=1)
        seen: dict[int, torch.Tensor] = {}
        for part, mask in self._parts:
            wide, columns = mask.shape[2] * groups // heads, mask.shape[3]
            folded = _padded([[queries[row]] for row in part], wide).reshape(len(part), groups, -1, size)
            its_keys, its_values = (
                _padded([[of[at] for at in self._chains[row]] for row in part], columns) for of in (keys, values)
            )
            out = _attend(folded, its_keys, its_values, mask, scale)
            found = out.view(len(part), heads, wide, size).unbind()
            seen |= {row: its[:, wide - len(rows[row].own) :] for row, its in zip(part, found, strict=True)}
        return torch.cat([seen[row] for row in self._order], dim=1).transpose(0, 1)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    if query.is_cuda or not query.requires_grad:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    return cast(torch.Tensor, _Plain.apply(query * scale, key, value, mask))


class _Plain(torch.autograd.Function):
    """softmax(q k^T + mask) v as it is written: PyTorch's fused backward pass takes twice as long on a CPU.

    Keeps its inputs only, and computes the scores again.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(query, key, value, mask)
        return _Plain.weights(query, key, mask).to(value.dtype) @ value

    @staticmethod
    def weights(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores = (query @ key.transpose(-1, -2)).to(torch.promote_types(query.dtype, torch.float32))
        return scores.add_(mask).softmax(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        gradient = gradients[0]
        weights = _Plain.weights(query, key, mask)
        to_value = weights.to(value.dtype).transpose(-1, -2) @ gradient
        to_weights = (gradient @ value.transpose(-1, -2)).to(weights.dtype)
        to_weights.sub_((to_weights * weights).sum(-1, keepdim=True))
        to_scores = to_weights.mul_(weights).to(query.dtype)
        return to_scores @ key, to_scores.transpose(-1, -2) @ query, to_value, None


def _covering(run: range, segments: Sequence[range], first: int) -> range:
    """The indices of the segments that make up a run, the first of which is known."""
    last = first
    while segments[last].stop < run.stop:
        last += 1
    return range(first, last + 1)


def _padded(rows: Sequence[Sequence[torch.Tensor]], width: int) -> torch.Tensor:
    """Rows of pieces ``[G, n, D]``, padded in front: ``[R, G, width, D]``."""
    blank = rows[0][0].new_zeros(rows[0][0].shape[0], width, rows[0][0].shape[2])
    pieces = [piece for row in rows for piece in (blank[:, sum(one.shape[1] for one in row) :], *row)]
    return torch.cat(pieces, dim=1).view(blank.shape[0], len(rows), width, -1).transpose(0, 1)


def alike(lengths: Mapping[int, tuple[int, int]], shared: int) -> Iterator[list[int]]:
    """Splits rows into parts of similar lengths, few enough that their scores fit into a cache.

    Args:
        lengths: Of each row, and how many of its tokens ask.
        shared: Heads that share keys.
    """
    rows = sorted(lengths, key=lambda row: lengths[row], reverse=True)
    start = 0
    while start < len(rows):
        columns = lengths[rows[start]][0]
        wide = max(lengths[row][1] for row in rows[start:])
        count = max(1, MOST_SCORES // (columns * wide * shared))
        yield rows[start : start + count]
        start += count


def causal_mask(own: Sequence[int], lengths: Sequence[int], shared: int, like: torch.Tensor) -> torch.Tensor:
    """What is added to the scores of rows that all end in the last column, queries and keys.

    Args:
        own: How many tokens of each row ask: its last ones.
        lengths: Of the rows.
        shared: Heads that share keys: they become more queries of one head, since PyTorch would copy the keys.
        like: Of the dtype and device.

    Returns:
        ``[R, 1, shared * Q, columns]``. Padding sees all, so that its softmax is one of numbers.
    """
    columns, wide = max(lengths), max(own)
    starts, first = (
        torch.tensor(of, device=like.device)[:, None, None]
        for of in ([columns - length for length in lengths], [wide - count for count in own])
    )
    asks = torch.arange(wide, device=like.device)[:, None]
    column = torch.arange(columns, device=like.device)
    hidden = ((column > asks + columns - wide) | (column < starts)) & (asks >= first)
    mask = torch.zeros(hidden.shape, device=like.device, dtype=like.dtype).masked_fill_(hidden, -torch.inf)
    return mask.repeat(1, shared, 1)[:, None]
