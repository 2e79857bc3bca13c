"""Every matrix product of a training step, and how long the machine takes for them by themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.benchmarks.limits import timed

_FIRST = {"mm": 0, "bmm": 0, "addmm": 1, "addmm_": 1, "baddbmm": 1}
"""Where the operands of a product begin."""
_TIMES = 5
_IN_TURN_BYTES = 1 << 26
"""Operands are other ones each time, as in a model, up to so many bytes."""

Operand = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Its shape, its strides and its type."""
Product = tuple[Operand, Operand]


class Products(TorchDispatchMode):
    """Counts the matrix products that are done meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.done: Counter[Product] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = _FIRST.get(function.overloadpacket.__name__)
        if first is not None:
            one, other = ((tuple(of.shape), tuple(of.stride()), of.dtype) for of in args[first : first + 2])
            self.done[one, other] += 1
        return function(*args, **(kwargs or {}))


def linear(done: Mapping[Product, int], vocabulary: int) -> Mapping[Product, int]:
    """Those of linear layers and their adapters: neither of attention nor of the output head."""
    return {of: n for of, n in done.items() if len(of[0][0]) == 2 and vocabulary not in (*of[0][0], *of[1][0])}


def alone_s(done: Mapping[Product, int], device: torch.device) -> float:
    """How long the machine takes for products, each of which is tried by itself."""
    return sum(count * _one(one, other, device) for (one, other), count in done.items())


@torch.inference_mode()
def _one(one: Operand, other: Operand, device: torch.device) -> float:
    made = [(_made(*one, device), _made(*other, device))]
    n_bytes = sum(of.untyped_storage().nbytes() for of in made[0])
    made += [(_made(*one, device), _made(*other, device)) for _ in range(min(7, _IN_TURN_BYTES // n_bytes))]
    return timed(lambda: [torch.matmul(*pair) for pair in made], _TIMES) / len(made)


def _made(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    once = [size if step else 1 for size, step in zip(shape, stride, strict=True)]  # a 0 says the same one again
    return torch.empty_strided(once, stride, dtype=dtype, device=device).normal_().expand(shape)
