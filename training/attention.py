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

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "spearctl"
ROUNDED_TO = 64
"""More tokens than this are filled up to a multiple: oneDNN makes, and keeps, a kernel for each shape it has seen."""
MOST_SCORES = 1 << 19
"""Of one layer and one group of heads, in one go: more do not fit a small CPU's cache and take twice as long."""
_MULTIPLE = 16
_PADDED = 0.5
"""Rows that ask less than this part of what others ask are not padded to their length."""


class Pattern(ABC):
    """Which token sees which."""

    @abstractmethod
    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Attends in one layer.

        Behind the tokens it knows there may be others, which fill up. Of those it says nothing, or zeros.

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
        pattern=pattern, **narrowed,
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
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    if pattern is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    if any(settings.get(name) is not None for name in ("softcap", "s_aux")):
        raise NotImplementedError("capped scores and sinks")
    scale = settings.get("scaling") or query.shape[-1] ** -0.5
    return see(pattern, int(module.layer_idx), query[0], key[0], value[0], scale)[None], None


def see(
    pattern: Pattern, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> torch.Tensor:
    """What a pattern sees in a layer, see :meth:`Pattern.attend`; zeros for tokens that it does not know."""
    seen = pattern.attend(layer, query, key, value, scale)
    blank = query.shape[1] - len(seen)
    return functional.pad(seen, (0, 0, 0, 0, 0, blank)) if blank else seen


def alike(lengths: Mapping[int, tuple[int, int]], shared: int) -> Iterator[list[int]]:
    """Splits rows into parts of similar lengths, few enough that their scores fit into a cache.

    Args:
        lengths: Of each row, and how many of its tokens ask.
        shared: Heads that share keys.
    """
    rows = sorted(lengths, key=lambda row: lengths[row][::-1], reverse=True)
    part: list[int] = []
    wide = columns = 0
    for row in rows:
        length, asks = lengths[row]
        columns = max(columns, length)
        if part and (asks < _PADDED * wide or (len(part) + 1) * columns * wide * shared > MOST_SCORES):
            yield part
            part, columns = [], length
        if not part:
            wide = asks
        part.append(row)
    if part:
        yield part


def rounded(length: int) -> int:
    """What a length is padded to: softmax takes half as long as of an odd one, and oneDNN keeps fewer kernels."""
    return -(-length // _MULTIPLE) * _MULTIPLE


def causal_mask(own: Sequence[int], lengths: Sequence[int], shared: int, like: torch.Tensor) -> torch.Tensor:
    """What is added to the scores of rows that all end in the last column, queries and keys.

    Args:
        own: How many tokens of each row ask: its last ones.
        lengths: Of the rows.
        shared: Heads that share keys: they become more queries of one head, since PyTorch would copy the keys.
        like: Of the dtype and device.

    Returns:
        ``[R, 1, shared * Q, columns]``, Q and columns rounded. Padding sees all, so that its softmax is one of numbers.
    """
    columns, wide = rounded(max(lengths)), rounded(max(own))
    starts, first = (
        torch.tensor(of, device=like.device)[:, None, None]
        for of in ([columns - length for length in lengths], [wide - count for count in own])
    )
    asks = torch.arange(wide, device=like.device)[:, None]
    column = torch.arange(columns, device=like.device)
    hidden = ((column > asks + columns - wide) | (column < starts)) & (asks >= first)
    mask = torch.zeros(hidden.shape, device=like.device, dtype=like.dtype).masked_fill_(hidden, -torch.inf)
    return mask.repeat(1, shared, 1)[:, None]
