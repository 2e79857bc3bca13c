"""Attention over packed sequences: each token sees its own sequence, however the sequences begin alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from training import attention
from training.packed_attention import Whole
from training.packing import Packing, pack

HEADS, GROUPS, SIZE = 6, 2, 8


def branching(seed: int) -> list[list[int]]:
    """Sequences that go on from anywhere in one another, some of them twice or whole."""
    rng = np.random.default_rng(seed)
    found = [rng.integers(1, 9, int(rng.integers(1, 30))).tolist()]
    for _ in range(int(rng.integers(1, 9))):
        start = found[rng.integers(len(found))]
        begins = start[: rng.integers(len(start) + 1)]
        found.append([*begins, *rng.integers(1, 9, int(rng.integers(0 if begins else 1, 40))).tolist()])
    return found


def heads_of(packing: Packing, blank: int, seed: int) -> list[torch.Tensor]:
    """Queries, keys and values of every packed token, and of some that fill up, ``[heads, N, D]``."""
    generator = torch.Generator().manual_seed(seed)
    count = len(packing.tokens) + blank
    return [torch.randn(heads, count, SIZE, generator=generator) for heads in (HEADS, GROUPS, GROUPS)]


def one_by_one(packing: Packing, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """What PyTorch's own attention says of each sequence by itself, ``[N, H, D]``."""
    seen = torch.zeros(query.shape[1], HEADS, SIZE)
    for row in packing.rows:
        at = torch.tensor([token for run in row.runs for token in run])
        keys, values = (of[:, at].repeat_interleave(HEADS // GROUPS, 0) for of in (key, value))
        its = functional.scaled_dot_product_attention(query[None, :, at], keys[None], values[None], is_causal=True)
        own = torch.isin(at, torch.tensor([*row.own], dtype=torch.long))
        seen[at[own]] = its[0].transpose(0, 1)[own]
    return seen


@pytest.mark.parametrize("most_scores", [1 << 22, 2000, 1], ids=["together", "in parts", "row by row"])
@pytest.mark.parametrize("seed", range(6))
def test_each_sequence_and_its_gradients_are_what_they_are_alone(
    monkeypatch: pytest.MonkeyPatch, seed: int, most_scores: int
) -> None:
    monkeypatch.setattr(attention, "MOST_SCORES", most_scores)
    packing = pack(branching(seed))
    found = []
    for way in (
        lambda *heads: Whole(packing).attend(0, *heads, SIZE**-0.5),
        lambda *heads: one_by_one(packing, *heads),
    ):
        heads = [of.requires_grad_() for of in heads_of(packing, seed, seed)]
        seen = way(*heads)
        (seen * torch.linspace(-1, 1, seen.numel()).view(seen.shape)).sum().backward()
        found.append([seen.detach(), *(of.grad for of in heads)])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_only_read_is_what_is_learned_from(seed: int) -> None:
    packing = pack(branching(seed))
    heads = heads_of(packing, 2, seed)
    read = Whole(packing).attend(0, *heads, SIZE**-0.5)
    learned = Whole(packing).attend(0, *[of.requires_grad_() for of in heads], SIZE**-0.5)
    torch.testing.assert_close(read, learned.detach(), rtol=1e-5, atol=1e-5)
    assert not read[len(packing.tokens) :].any()


def test_a_row_that_asks_little_is_not_padded_to_one_that_asks_much() -> None:
    lengths = {0: (100, 100), 1: (100, 90), 2: (100, 3), 3: (100, 60), 4: (90, 2), 5: (40, 40)}
    assert [*attention.alike(lengths, 3)] == [[0, 1, 3], [5], [2, 4]]
    assert [*attention.alike({}, 3)] == []
