"""Linear layers with low-rank adapters, several that share an input computed as one.

PEFT's own forward computes fp32 adapters in fp32, so every layer converts its whole input twice, which costs a CPU more
than the base model does. Here the master weights stay fp32 and all is one product in the layers' own dtype:

    [y1, y2, ...] = [x, x A1^T, x A2^T, ..., 0] J^T,    J = [W1, s B1, 0, ..., 0; W2, 0, s B2, ..., 0; ...]

It accumulates in fp32 and is rounded once, so that a small low-rank part is not lost in the rounding of a large base.
A GPU is told to: it may split a sum into parts, and would add those up in half precision.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, cast

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch.nn import functional

ADAPTER = "default"

_MADV_PAGEOUT = 21  # Python's mmap does not know it

_ALIGNED_TO = 32
"""Columns of J are a multiple: a CPU that multiplies tiles takes a quarter less, backwards, than for odd ones."""

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


def forget(network: torch.nn.Module) -> None:
    """See `Group.forget`, for all groups of a model."""
    for module in network.modules():
        if isinstance(module, LowRankLinear) and module._group is not None:
            module._group.forget()


class Group:
    """Layers that share an input. The first that is asked computes all; the others find theirs ready.

    Attributes:
        members: The layers, whose dropout is the same.
        widths: Of their outputs.
        ranks: Of their adapters.
        inputs: Width of their input.
        columns: Of J.
        places: For each layer where its outputs are among all, and where its A is among all of them.
    """

    def __init__(self, members: Sequence[LowRankLinear]) -> None:
        self.members = tuple(members)
        self.widths = [layer.base.out_features for layer in members]
        self.ranks = [layer.down.shape[0] for layer in members]
        self.inputs = members[0].base.in_features
        self.columns = -(-(self.inputs + sum(self.ranks)) // _ALIGNED_TO) * _ALIGNED_TO
        self.places = [*zip(_slices(self.widths), _slices(self.ranks), strict=True)]
        self._joined: torch.Tensor | None = None
        self._joined_of: tuple[int, ...] = ()
        self._downs: torch.Tensor | None = None
        self._downs_of: tuple[object, ...] = ()
        self._ready: dict[LowRankLinear, torch.Tensor] = {}
        self._ready_for: torch.Tensor | None = None
        # Modules, not parameters: those may be other ones when the model has been moved.
        self._adapters = [cast(torch.nn.Linear, of[ADAPTER]) for one in members for of in (one.lora_A, one.lora_B)]

    def adopt(self, device: str | None = None) -> None:
        """Moves the base weights into one matrix with room for every B; whatever else has them sees the same memory."""
        bases = [layer.base for layer in self.members]
        if all(type(base) is torch.nn.Linear for base in bases):
            joined = bases[0].weight.new_zeros(sum(self.widths), self.columns, device=device)
            for base, part in zip(bases, joined[:, : self.inputs].split(self.widths), strict=True):
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
            # Unsafe, for models that clamp in place what they are told (OLMo): nobody looks at the whole again.
            parts = torch.unsafe_split_with_sizes(self.outputs(x), self.widths, dim=-1)
            self._ready = dict(zip(self.members, parts, strict=True))
            self._ready_for = x
        taken = self._ready.pop(layer)
        if not self._ready:
            self._ready_for = None
        return taken

    def forget(self) -> None:
        """Lets go of outputs that nobody came for: what failed midway left them, and all that they were made of."""
        self._ready, self._ready_for = {}, None

    def outputs(self, x: torch.Tensor) -> torch.Tensor:
        """What all layers say of ``x [..., in]``, side by side: ``[..., sum of outs]``."""
        rows = x.flatten(0, -2)
        rate = self.members[0].rate
        if torch.is_grad_enabled() or rate:
            found = _Product.apply(rows, rate, self, *[adapter.weight for adapter in self._adapters])
        else:
            found = self.product(rows, functional.linear(rows, self.downs(x.dtype)))
        return cast(torch.Tensor, found).view(*x.shape[:-1], -1)

    def product(self, rows: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        """``[x, low] J^T`` and the biases, for ``rows [N, in]`` and ``low [N, columns of J less in]``."""
        out = functional.linear(torch.cat([rows, low], dim=1), self.joined())
        for layer, (outs, _) in zip(self.members, self.places, strict=True):
            if layer.base.bias is not None:
                out[:, outs] += layer.base.bias
        return out

    def joined(self) -> torch.Tensor:
        """``J``, up to date: ``[sum of outs, columns]``."""
        joined = self._joined
        ups = [adapter.weight for adapter in self._adapters[1::2]]
        versions = _versions(ups)
        if joined is None:  # packed base weights are unpacked each time, and not kept
            weights = [layer.base.weight for layer in self.members]
            joined = weights[0].new_zeros(sum(self.widths), self.columns)
            torch.cat(weights, out=joined[:, : self.inputs])
        elif versions == self._joined_of and -1 not in versions:
            return joined
        with torch.no_grad():
            for layer, up, (outs, downs) in zip(self.members, ups, self.places, strict=True):
                joined[outs, self.inputs :][:, downs] = up * layer.scale
        self._joined_of = versions
        return joined

    def downs(self, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
        """Every A times ``scale``, and zeros: ``[columns of J less in, in]``."""
        downs = [adapter.weight.detach() for adapter in self._adapters[::2]]
        versions = (*_versions(downs), dtype, scale)
        if self._downs is None or versions != self._downs_of or -1 in versions:
            with torch.inference_mode(False):  # learning would not keep it else
                blank = downs[0].new_zeros(self.columns - self.inputs - sum(self.ranks), self.inputs)
                self._downs = torch.cat([*downs, blank]).mul_(scale).to(dtype)
            self._downs_of = versions
        return self._downs

    def keep(self, rate: float, like: torch.Tensor) -> torch.Tensor:
        """1 for columns of every A that a pass has, 0 for others: ``[columns of J less in, in]``, or one row for all.

        Dropout of input features, the same ones for all tokens (Gal and Ghahramani, arXiv 1512.05287). Every input
        value is dropped as often as by ordinary dropout, but a mask for a layer's whole input took half of a training
        step on a CPU; one for the columns of A is free.
        """
        kept = torch.rand(len(self.members), self.inputs, device=like.device).ge(rate).to(like.dtype)
        if len(kept) == 1:
            return kept
        blank = self.columns - self.inputs - sum(self.ranks)
        ranks = [*self.ranks[:-1], self.ranks[-1] + blank]
        return torch.cat([row.expand(rank, -1) for row, rank in zip(kept, ranks, strict=True)])


class _Product(torch.autograd.Function):
    """``Group.product`` with gradients for its input, and for A and B of each layer. Keeps its input and ``x A^T``."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, rate: float, group: Group, *adapters: torch.Tensor) -> torch.Tensor:
        downs = group.downs(rows.dtype, 1 / (1 - rate))
        kept = group.keep(rate, rows) if rate else None
        if kept is not None:
            downs = downs * kept
        low = functional.linear(rows, downs)
        ctx.save_for_backward(rows, low, downs, kept)
        ctx.group, ctx.scale = group, 1 / (1 - rate)
        return group.product(rows, low)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, low, downs, kept = ctx.saved_tensors
        group: Group = ctx.group
        wide = gradients[0] @ group.joined()
        to_rows, to_low = wide.split([group.inputs, group.columns - group.inputs], dim=1)
        to_downs = to_low.t() @ rows
        if kept is not None:
            to_downs.mul_(kept)
        to_downs = to_downs.float().mul_(ctx.scale)
        to_adapters: list[torch.Tensor] = []
        for layer, (outs, its) in zip(group.members, group.places, strict=True):
            to_up = (low[:, its].t() @ gradients[0][:, outs]).t()  # this way round it takes a quarter less
            to_up = to_up.to(torch.float32, memory_format=torch.contiguous_format)
            to_adapters += [to_downs[its], to_up.mul_(layer.scale)]
        return to_rows.addmm_(to_low, downs) if ctx.needs_input_grad[0] else None, None, None, *to_adapters


def together(layers: Sequence[torch.nn.Module], x: torch.Tensor) -> torch.Tensor:
    """What layers say of ``x [..., in]``, side by side: ``[..., sum of outs]``."""
    group = getattr(layers[0], "_group", None)
    if (
        group is not None
        and group.members == tuple(layers)
        and not any(layer.disable_adapters for layer in group.members)
    ):
        return cast(torch.Tensor, group.outputs(x))
    return torch.cat([layer(x) for layer in layers], dim=-1)


def _page_out(tensor: torch.Tensor) -> None:
    """Tells the system that a tensor is not used for now: as a part of a mapped file, it need not stay in memory."""
    if tensor.device.type == "cpu" and sys.platform == "linux":
        page = mmap.PAGESIZE
        start = -(-tensor.data_ptr() // page) * page
        end = (tensor.data_ptr() + tensor.untyped_storage().nbytes()) // page * page
        if start < end:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_PAGEOUT)


def _slices(sizes: Sequence[int]) -> list[slice]:
    """Neighbours of these sizes."""
    return [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]


def _versions(tensors: Sequence[torch.Tensor]) -> tuple[int, ...]:
    """Changes whenever one of the tensors is changed in place; inference tensors do not tell."""
    return tuple(-1 if tensor.is_inference() else tensor._version for tensor in tensors)
