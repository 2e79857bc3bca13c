"""A small swarm with fixed keys, and deltas that a formula gives: what result vectors are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from p2p.fold import Part
from p2p.grid import Coarse, values_in
from p2p.records import Genesis, TensorSpec

TENSORS = (
    TensorSpec("a.lora_A", 2, 5),
    TensorSpec("a.lora_B", 3, 2),
    TensorSpec("b.lora_A", 2, 4),
    TensorSpec("b.lora_B", 7, 2),
)


def small_genesis(**changes: Any) -> Genesis:
    """A swarm of 38 parameters."""
    fields: dict[str, Any] = {
        "version": 1,
        "name": "vectors",
        "fingerprint": bytes([1] * 32),
        "prompt_format": "chat",
        "system_prompt": "",
        "rank": 2,
        "alpha": 4,
        "tensors": TENSORS,
        "grid_bits": 20,
        "rule": "fedavg",
        "share": "both",
        "weight_cap": 32,
        "norm_bound": 200_000,
        "quorum": 1,
        "seal_lag": 4,
        "sealer": bytes([2] * 32),
        "recovery": bytes([3] * 32),
        "nonce": bytes([4] * 16),
    }
    return Genesis(**{**fields, **changes})


def delta_values(genesis: Genesis, round: int, member: int) -> Coarse:
    """Values of the delta of a member (from 1) in a round: the i-th, from 0, is (i+1)(7919 member + 104729 round) mod
    65535, less 32767."""
    count = values_in(genesis.travelling(round))
    steps = np.arange(1, count + 1, dtype=np.int64) * (7919 * member + 104729 * round)
    return (steps % 65535 - 32767).astype(np.int16)


def part(genesis: Genesis, round: int, member: int, weight: int, values: Coarse | None = None) -> Part:
    """A member's delta; its author's key and its id are the member's number, 32 times."""
    found = delta_values(genesis, round, member) if values is None else values
    return Part(id=bytes([member] * 32), author=bytes([member] * 32), weight=weight, load=lambda: found)


def parts(genesis: Genesis, round: int, weights: Sequence[int]) -> list[Part]:
    """The deltas of members 1, 2, ... with these weights."""
    return [part(genesis, round, member, weight) for member, weight in enumerate(weights, 1)]
