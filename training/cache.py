"""Keys and values of sequences that are being decoded, so that each new token is computed once."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from training.attention import Pattern, alike, causal_mask, rounded
from training.packing import Packing, common

AHEAD = 32
"""Columns for new tokens that are made at once. All are looked at, since a CPU would copy a part of them first."""


class KeyValues:
    """Keys and values of a batch, ``[B, G, columns, D]`` a layer.

    Prompts end at the same column, so that all sequences go on in the next.

    Args:
        lengths: Tokens of each prompt.
        room: Most new tokens of a sequence.
        is_frugal: Whether attention is to take less memory, and more time.
        ahead: Columns for new tokens that are made at once.

    Attributes:
        lengths: Tokens of each prompt.
        prompt_columns: Columns that prompts take.
        used: Columns that hold something.
        is_kept: Whether somebody else has it, too.
    """

    def __init__(self, lengths: Sequence[int], room: int, *, is_frugal: bool = False, ahead: int = AHEAD) -> None:
        self.lengths = [*lengths]
        self.is_frugal = is_frugal
        self.is_kept = False
        self.prompt_columns = rounded(max(self.lengths))
        self.used = self.prompt_columns
        self._ahead = ahead
        self._columns = self.prompt_columns + min(room, ahead)
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._mask: torch.Tensor | None = None
        self._column: torch.Tensor | None = None

    def layer(self, index: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer; made, for ``like [G, N, D]``, where there are none yet."""
        if index not in self._layers:
            shape = (len(self.lengths), like.shape[0], self._columns, like.shape[2])
            self._layers[index] = like.new_zeros(shape), like.new_zeros(shape)  # in front of a sequence, too
        return self._layers[index]

    def open(self) -> bool:
        """Makes room for one more token of each sequence; whether that took other tensors than before."""
        is_full = self.used == self._columns
        if is_full:
            self._columns += self._ahead
            wider = (0, 0, 0, self._ahead)
            for at, (keys, values) in self._layers.items():
                self._layers[at] = functional.pad(keys, wider), functional.pad(values, wider)
            self._mask = None
        if self._mask is None:
            self._prepare(self._layers[0][0])
        self.used += 1
        return is_full

    def _prepare(self, like: torch.Tensor) -> None:
        """Tells the device where what it has ends: steps can be recorded for they are told nothing more."""
        device = like.device
        starts = torch.tensor([self.prompt_columns - length for length in self.lengths], device=device)
        column = torch.arange(self._columns, device=device)
        empty = (column < starts[:, None]) | (column >= self.used)
        self._column = torch.tensor([self.used - 1], device=device)
        self._mask = torch.zeros(empty.shape, device=device, dtype=like.dtype).masked_fill_(empty, -torch.inf)

    def advance(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Moves on to the token that there is room for now. All that changes is in tensors, so it can be replayed.

        Returns:
            Its column ``[1]``, and what is added to the scores of all columns: ``[B, 1, 1, columns]``, -inf where a
            sequence has nothing.
        """
        assert self._column is not None, "open comes first"
        assert self._mask is not None, "open comes first"
        self._column += 1
        self._mask.index_fill_(1, self._column, 0)
        return self._column, self._mask[:, None, None]

    def of_row(self, index: int, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of one prompt in a layer, ``[G, length, D]`` each."""
        columns = slice(self.prompt_columns - self.lengths[row], self.prompt_columns)
        keys, values = self._layers[index]
        return keys[row, :, columns], values[row, :, columns]

    def settle(self) -> int:
        """Counts what was decoded as part of the prompts.

        Returns:
            By how many tokens each of them grew.
        """
        grown = self.used - self.prompt_columns
        self.lengths = [length + grown for length in self.lengths]
        self.prompt_columns = self.used
        return grown

    def select(self, rows: Sequence[int]) -> KeyValues:
        """The cache of some of the sequences. Where nobody keeps this one, it is emptied on the way."""
        chosen = object.__new__(KeyValues)
        chosen.lengths = [self.lengths[row] for row in rows]
        chosen.prompt_columns, chosen.used, chosen._columns = self.prompt_columns, self.used, self._columns
        chosen.is_frugal, chosen.is_kept, chosen._ahead = self.is_frugal, False, self._ahead
        chosen._layers, chosen._mask, chosen._column = {}, None, None
        index = torch.tensor(rows, device=self._layers[0][0].device)
        for at in [*self._layers]:
            keys, values = self._layers[at] if self.is_kept else self._layers.pop(at)
            chosen._layers[at] = keys[index], values[index]
        return chosen


@dataclass(frozen=True, slots=True)
class Known:
    """The beginning of a prompt that was computed before: the first ``length`` tokens of a row of a cache."""

    cache: KeyValues
    row: int
    length: int

    @classmethod
    def of(cls, prompt: Sequence[int], tokens: Sequence[int], cache: KeyValues, row: int) -> Known:
        """What ``tokens``, which a row of a cache holds, say of a prompt: not its last token, whose state is wanted."""
        return cls(cache, row, min(common(tokens, prompt), len(prompt) - 1))


def longest(found: Iterable[Known | None]) -> Known | None:
    """What says the most; None where nothing says anything."""
    best = max((known for known in found if known is not None), key=lambda known: known.length, default=None)
    return best if best is not None and best.length > 0 else None


@dataclass(slots=True)
class Prefixes:
    """Prompts whose caches are kept. They are good for as long as the adapter stays the same.

    Attributes:
        is_open: Whether more are kept.
        newest_only: Whether what comes takes the place of what is kept.
    """

    is_open: bool = True
    newest_only: bool = False
    _kept: list[tuple[tuple[int, ...], KeyValues, int]] = field(default_factory=list)

    def find(self, prompt: Sequence[int]) -> Known | None:
        """The longest beginning of a prompt that is kept, short of its last token."""
        wanted = tuple(prompt)
        at = bisect.bisect_left(self._kept, wanted, key=lambda kept: kept[0])
        alike = self._kept[max(0, at - 1) : at + 1]  # in this order the most alike are neighbours
        return longest(Known.of(wanted, tokens, cache, row) for tokens, cache, row in alike)

    def keep(self, prompts: Sequence[Sequence[int]], cache: KeyValues) -> None:
        """Keeps the caches of prompts, which are the rows of ``cache``, as long as it is open."""
        if not self.is_open:
            return
        cache.is_kept = True
        if self.newest_only:
            self._kept.clear()
        self._kept += [(tuple(prompt), cache, row) for row, prompt in enumerate(prompts)]
        self._kept.sort(key=lambda kept: kept[0])

    @contextmanager
    def unless_it_fails(self) -> Iterator[None]:
        """Keeps what the block adds, but not where it ran out of memory: its cache would be in the next one's way."""
        before = [*self._kept]
        try:
            yield
        except (RuntimeError, MemoryError):
            self._kept = before
            raise

    def go_on(self, tokens: Sequence[int]) -> None:
        """Keeps a completion with its prompt, which was decoded alone and is the only one kept.

        Args:
            tokens: The completion. Its last token may not have been computed, and then is not kept.
        """
        ((prompt, cache, row),) = self._kept
        self._kept = [((*prompt, *tokens[: cache.settle()]), cache, row)]


class Prefill(Pattern):
    """Prompts see themselves, and fill the rows of a cache from ``first`` on."""

    def __init__(self, cache: KeyValues, first: int, packing: Packing, known: Sequence[Known | None]) -> None:
        self._cache = cache
        self._first = first
        self._packing = packing
        self._known = known
        self._moves: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
        self._parts: list[_Part] = []

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        keys, values = self._cache.layer(layer, key)
        if self._moves is None:
            self._moves = self._where(key.device)
            shared = query.shape[0] // key.shape[0]
            lengths = {at: (row.length, len(row.own)) for at, row in enumerate(self._packing.rows) if row.own}
            self._parts = [self._part(rows, shared, query) for rows in alike(lengths, shared)]
        rows, columns, tokens = self._moves
        keys[rows, :, columns] = key.transpose(0, 1).index_select(0, tokens)
        values[rows, :, columns] = value.transpose(0, 1).index_select(0, tokens)
        for row, known in enumerate(self._known, self._first):
            if known is not None:
                own, theirs = self._cache.of_row(layer, row), known.cache.of_row(layer, known.row)
                for to, source in zip(own, theirs, strict=True):
                    to[:, : known.length] = source[:, : known.length]
        heads, count, size = query.shape
        by_token = query.transpose(0, 1)
        seen = query.new_zeros(count, heads, size)
        for part in self._parts:
            padded = by_token.index_select(0, part.tokens).view(len(part.rows), -1, heads, size).transpose(1, 2)
            folded = padded.reshape(len(part.rows), key.shape[0], -1, size)
            its_keys, its_values = (of[part.rows, :, part.first : self._cache.prompt_columns] for of in (keys, values))
            out = _look(folded, its_keys, its_values, part.mask, scale, is_frugal=self._cache.is_frugal)
            out = out.view(padded.shape).transpose(1, 2).reshape(-1, heads, size)
            seen.index_copy_(0, part.own, out.index_select(0, part.real))
        return seen

    def _part(self, rows: list[int], shared: int, query: torch.Tensor) -> _Part:
        its = [self._packing.rows[row] for row in rows]
        mask = causal_mask([len(row.own) for row in its], [row.length for row in its], shared, query)
        wide, columns = mask.shape[2] // shared, mask.shape[3]
        tokens = [[0] * (wide - len(row.own)) + list(row.own) for row in its]
        real = [at * wide + column for at, row in enumerate(its) for column in range(wide - len(row.own), wide)]
        return _Part(
            torch.tensor([self._first + row for row in rows], device=query.device),
            torch.tensor(tokens, device=query.device).flatten(),
            torch.tensor([token for row in its for token in row.own], device=query.device),
            torch.tensor(real, device=query.device),
            self._cache.prompt_columns - columns,
            mask,
        )

    def _where(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Which packed token goes to which row and column."""
        moves: list[tuple[int, int, int]] = []
        for at, row in enumerate(self._packing.rows, self._first):
            column = self._cache.prompt_columns - row.length + row.known
            for run in row.runs:
                moves += ((at, column + offset, token) for offset, token in enumerate(run))
                column += len(run)
        rows, columns, tokens = torch.tensor(moves, device=device).unbind(1)
        return rows, columns, tokens


def _look(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float, *, is_frugal: bool
) -> torch.Tensor:
    """softmax(scale q k^T + mask) v.

    On a CPU in bfloat16 the plain form takes half as long as PyTorch's fused one, and a tenth more memory for the
    kernels of its many shapes. It rounds scores as a training step does; on text, that moves the model's predictions no
    further from those with fp32 attention.
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and not is_frugal:
        return ((query * scale) @ key.transpose(-1, -2)).add_(mask).softmax(-1) @ value
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows that attend together, their queries padded to one length.

    Attributes:
        rows: Their indices in the cache ``[R]``.
        tokens: The packed token of each query ``[R * Q]``, the first for padding.
        own: The packed tokens that are no padding ``[P]``.
        real: Their queries ``[P]``.
        first: Their first column.
        mask: What is added to their scores, ``[R, 1, H / G * Q, columns]``.
    """

    rows: torch.Tensor
    tokens: torch.Tensor
    own: torch.Tensor
    real: torch.Tensor
    first: int
    mask: torch.Tensor


class Step(Pattern):
    """Each sequence goes on by one token, for which its cache was opened, and which sees all before it."""

    def __init__(self, cache: KeyValues) -> None:
        self._cache = cache
        self._place: tuple[torch.Tensor, torch.Tensor] | None = None

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        keys, values = self._cache.layer(layer, key)
        if self._place is None:
            self._place = self._cache.advance()
        column, mask = self._place
        heads, _, size = query.shape
        groups, count = key.shape[0], len(keys)
        for of, its in ((keys, key), (values, value)):
            of.index_copy_(2, column, its[:, :count].transpose(0, 1)[:, :, None])
        folded = query[:, :count].transpose(0, 1).reshape(count, groups, heads // groups, size)
        seen = _look(
            folded, keys, values, mask.expand(-1, 1, heads // groups, -1), scale, is_frugal=self._cache.is_frugal
        )
        return seen.reshape(count, heads, size)
