"""Linear layers with low-rank adapters, several that share an input computed as one.

PEFT's own forward computes fp32 adapters in fp32, so every layer converts its whole input twice, which costs a CPU more
than the base model does. Here the master weights stay fp32 and all is one product in the layers' own dtype:

    [y1, y2, ...] = [x, x A1^T, x A2^T, ...] J^T,    J = [W1, s B1, 0, ...; W2, 0, s B2, ...; ...]

It accumulates in fp32 and is rounded once, so that a small low-rank part is not lost in the rounding of a large base.
A GPU is told to: it may split a sum into parts, and would add those up in half precision.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence
from typing import Any, cast

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch.nn import functional

ADAPTER = "default"

_MADV_PAGEOUT = 21  # Python's mmap does not know it

_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that most models feed with the same input, by their names in one module."""


class LowRankLinear(PeftLinear):
    """A frozen linear layer plus a trained low-rank one (Hu et al., arXiv 2106.09685).

    y = x W^T + s x drop(A)^T B^T
    """

    _group: Group | None = None

    def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        """Applies the layer to ``x [..., in]`` and returns ``[..., out]`` in the dtype of ``x``."""
        if self.disable_adapters:
            return cast(torch.Tensor, self.base_layer(x))
        group = self._group or Group([self])
        return group.output(self, x)

    @property
    def base(self) -> torch.nn.Linear:
        """The frozen layer."""
        return cast(torch.nn.Linear, self.base_layer)

    @property
    def down(self) -> torch.Tensor:
        """A, ``[r, in]``."""
        return cast(torch.Tensor, self.lora_A[ADAPTER].weight)

    @property
    def up(self) -> torch.Tensor:
        """B, ``[out, r]``."""
        return cast(torch.Tensor, self.lora_B[ADAPTER].weight)

    @property
    def scale(self) -> float:
        """What the low-rank part is multiplied by."""
        return float(self.scaling[ADAPTER])

    @property
    def rate(self) -> float:
        """How much of A is dropped now."""
        return float(getattr(self.lora_dropout[ADAPTER], "p", 0.0)) if self.training else 0.0


def join(network: torch.nn.Module, device: str | None = None) -> None:
    """Has the layers of a model that share an input computed together, and sums on a GPU rounded once.

    Args:
        network: Whose layers.
        device: Where their base weights go; None where they are.
    """
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    for module in network.modules():
        if isinstance(module, LowRankLinear):
            continue
        children = {name: child for name, child in module.named_children() if isinstance(child, LowRankLinear)}
        for names in _SIBLINGS:
            group = [children[name] for name in names if name in children]
            if len(group) == len(names) and len({layer.base.in_features for layer in group}) == 1:
                Group(group).adopt(device)
                children = {name: child for name, child in children.items() if name not in names}
        for child in children.values():
            Group([child]).adopt(device)


class Group:
    """Layers that share an input. The first that is asked computes all; the others find theirs ready."""

    def __init__(self, members: Sequence[LowRankLinear]) -> None:
        self.members = tuple(members)
        self.widths = [layer.base.out_features for layer in members]
        self.ranks = [layer.down.shape[0] for layer in members]
        self._joined: torch.Tensor | None = None
        self._joined_of: tuple[int, ...] = ()
        self._downs: torch.Tensor | None = None
        self._downs_of: tuple[int, ...] = ()
        self._ready: dict[LowRankLinear, torch.Tensor] = {}
        self._ready_for: torch.Tensor | None = None

    def adopt(self, device: str | None = None) -> None:
        """Moves the base weights into one matrix with room for every B; whatever else has them sees the same memory."""
        bases = [layer.base for layer in self.members]
        if all(type(base) is torch.nn.Linear for base in bases):
            columns = bases[0].in_features
            joined = bases[0].weight.new_zeros(sum(self.widths), columns + sum(self.ranks), device=device)
            for base, part in zip(bases, joined[:, :columns].split(self.widths), strict=True):
                part.copy_(base.weight.data)
                _page_out(base.weight.data)
                if part.device == base.weight.device:
                    base.weight.data = part
                else:
                    base.weight = torch.nn.Parameter(part, requires_grad=False)
            self._joined = joined
        for layer in self.members:
            layer._group = self

    def output(self, layer: LowRankLinear, x: torch.Tensor) -> torch.Tensor:
        """What a layer says of ``x [..., in]``."""
        if self._ready_for is not x or layer not in self._ready:
            rows = x.flatten(0, -2)
            if torch.is_grad_enabled() or layer.rate:
                found = _Product.apply(rows, self._dropped(x.dtype), self, *[member.up for member in self.members])
            else:
                found = self.product(rows, functional.linear(rows, self._down(x.dtype)))
            parts = cast(torch.Tensor, found).split(self.widths, dim=1)
            self._ready = {
                member: part.view(*x.shape[:-1], -1) for member, part in zip(self.members, parts, strict=True)
            }
            self._ready_for = x
        taken = self._ready.pop(layer)
        if not self._ready:
            self._ready_for = None
        return taken

    def product(self, rows: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        """``[x, low] J^T`` and the biases, for ``rows [N, in]`` and ``low [N, sum of ranks]``."""
        out = functional.linear(torch.cat([rows, low], dim=1), self.joined())
        at = 0
        for layer, width in zip(self.members, self.widths, strict=True):
            if layer.base.bias is not None:
                out[:, at : at + width] += layer.base.bias
            at += width
        return out

    def joined(self) -> torch.Tensor:
        """``J``, up to date: ``[sum of outs, in + sum of ranks]``."""
        joined = self._joined
        versions = _versions([layer.up for layer in self.members])
        if joined is None:  # packed base weights are unpacked each time, and not kept
            columns = self.members[0].base.in_features
            weights = [layer.base.weight for layer in self.members]
            joined = weights[0].new_zeros(sum(self.widths), columns + sum(self.ranks))
            torch.cat(weights, out=joined[:, :columns])
        elif versions == self._joined_of and -1 not in versions:
            return joined
        with torch.no_grad():
            row, column = 0, self.members[0].base.in_features
            for layer, width, rank in zip(self.members, self.widths, self.ranks, strict=True):
                joined[row : row + width, column : column + rank] = layer.up * layer.scale
                row, column = row + width, column + rank
        self._joined_of = versions
        return joined

    def _down(self, dtype: torch.dtype) -> torch.Tensor:
        """Every A, ``[sum of ranks, in]``."""
        versions = _versions([layer.down for layer in self.members])
        if self._downs is None or self._downs.dtype != dtype or versions != self._downs_of or -1 in versions:
            self._downs = torch.cat([layer.down.detach() for layer in self.members]).to(dtype)
            self._downs_of = versions
        return self._downs

    def _dropped(self, dtype: torch.dtype) -> torch.Tensor:
        """The same for learning: with gradients, and dropout."""
        return torch.cat([_drop_features(layer.down, layer.rate) for layer in self.members]).to(dtype)


class _Product(torch.autograd.Function):
    """``Group.product`` with gradients for its input, every A and every B. Keeps its input and ``x A^T`` only."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, downs: torch.Tensor, group: Group, *ups: torch.Tensor) -> torch.Tensor:
        low = functional.linear(rows, downs)
        ctx.save_for_backward(rows, low, downs)
        ctx.group = group
        return group.product(rows, low)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, low, downs = ctx.saved_tensors
        gradient, group = gradients[0], ctx.group
        wide = gradient @ group.joined()
        to_low = wide[:, rows.shape[1] :]
        to_rows = torch.addmm(wide[:, : rows.shape[1]], to_low, downs) if ctx.needs_input_grad[0] else None
        to_ups = [
            (its.t() @ part).t().float().mul_(layer.scale)  # this way round it takes a quarter less
            for layer, part, its in zip(
                group.members, gradient.split(group.widths, 1), low.split(group.ranks, 1), strict=True
            )
        ]
        return to_rows, to_low.t() @ rows, None, *to_ups


def _page_out(tensor: torch.Tensor) -> None:
    """Tells the system that a tensor is not used for now: as a part of a mapped file, it need not stay in memory."""
    if tensor.device.type == "cpu" and sys.platform == "linux":
        page = mmap.PAGESIZE
        start = -(-tensor.data_ptr() // page) * page
        end = (tensor.data_ptr() + tensor.untyped_storage().nbytes()) // page * page
        if start < end:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_PAGEOUT)


def _versions(tensors: Sequence[torch.Tensor]) -> tuple[int, ...]:
    """Changes whenever one of the tensors is changed in place; inference tensors do not tell."""
    return tuple(-1 if tensor.is_inference() else tensor._version for tensor in tensors)


def _drop_features(down: torch.Tensor, rate: float) -> torch.Tensor:
    """Dropout of input features, the same ones for all tokens of a pass (Gal and Ghahramani, arXiv 1512.05287).

    Every input value is dropped as often as by ordinary dropout, but a mask for each layer's whole input took half of a
    training step on a CPU; one for the columns of A ``[r, in]`` is free.
    """
    if rate == 0.0:
        return down
    keep = torch.rand(down.shape[1], device=down.device) >= rate
    return down * (keep / (1 - rate))
