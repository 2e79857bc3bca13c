"""Layers of transformers' models that cost a CPU more than their arithmetic, written to pass over memory less often.

Each does what the one that it replaces does, to the rounding of the dtype; that is tried before it is put in its
place. Weights of these layers are frozen: no gradient is computed for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch.nn import functional

from training.lowrank import together

_TRIED = 4  # rows
_LAST_LAYER = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}
_ALIKE = 0.02  # of the largest value, what rounding in bfloat16 may explain


def streamline(model: torch.nn.Module) -> int:
    """Replaces what this module has better forms of.

    Returns:
        How many layers were replaced.
    """
    replaced = 0
    for module in model.modules():
        form = _form_of(module)
        if form is not None and _agrees(module, form):
            module.forward = form
            replaced += 1
    return replaced


def narrow(base: Any, example: Callable[[], object]) -> bool:
    """Has the last layer of a decoder, behind its attention, compute no token but those that are asked for.

    Args:
        base: The decoder.
        example: Has it compute a few tokens, for which both ways are compared.

    Returns:
        Whether the layer is built like Llama's and says the same; else it is left as it is.
    """
    last = _last(base)
    if last is None or {name for name, _ in last.named_children()} != _LAST_LAYER or is_narrow(base):
        return is_narrow(base)
    form = _LastLayer(last)
    ((states,), more) = asked([last], example)[last]
    if _adds_the_same(form, states, more):
        last.forward = form
    return is_narrow(base)


def asked(modules: Sequence[Any], example: Callable[[], object]) -> dict[Any, tuple[tuple[Any, ...], dict[str, Any]]]:
    """What each of some modules is given when an example is computed: its arguments, by place and by name."""
    found: dict[Any, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def note(module: Any, args: tuple[Any, ...], more: dict[str, Any]) -> None:
        found[module] = args, more

    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in modules]
    try:
        example()
    finally:
        for handle in handles:
            handle.remove()
    return found


def is_alike(mine: torch.Tensor, theirs: torch.Tensor, scale: torch.Tensor | None = None) -> bool:
    """Whether two ways say the same, to what rounding in bfloat16 may explain.

    Medians of all channels: a model may have a few that are a thousand times as loud as the others.

    Args:
        mine: Of any shape.
        theirs: Of the same.
        scale: What the difference is measured by, if not theirs.
    """
    by = theirs if scale is None else scale
    return bool((mine.float() - theirs.float()).abs().median() <= _ALIKE * by.float().abs().median())


def is_narrow(base: Any) -> bool:
    """Whether the last layer of a decoder takes ``wanted``, and says nothing of other tokens."""
    return isinstance(getattr(_last(base), "forward", None), _LastLayer)


def _last(base: Any) -> Any:
    layers = getattr(base, "layers", None)
    return layers[-1] if layers else None


class _LastLayer:
    """A layer that is given the index ``wanted [W]`` of tokens, too, and returns ``[1, W, hidden]``."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.whole = layer.forward

    def __call__(self, states: torch.Tensor, *, wanted: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        if wanted is None:
            return cast(torch.Tensor, self.whole(states, **kwargs))
        layer = self._layer
        seen, _ = layer.self_attn(layer.input_layernorm(states), **kwargs)
        asked = states.index_select(1, wanted) + seen.index_select(1, wanted)
        return cast(torch.Tensor, asked + layer.mlp(layer.post_attention_layernorm(asked)))


def _adds_the_same(form: _LastLayer, states: torch.Tensor, more: dict[str, Any]) -> bool:
    """Whether the layer adds the same to the states of some tokens either way."""
    wanted = torch.arange(0, states.shape[1], 2, device=states.device)
    theirs = form.whole(states, **more)[:, wanted]
    try:
        mine = form(states, wanted=wanted, **more)
    except (TypeError, ValueError):  # a part of it takes or returns something else
        return False
    return is_alike(mine, theirs, theirs.float() - states[:, wanted].float())


def _form_of(module: Any) -> Any:
    name = type(module).__name__
    if name.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
        return lambda x: _RmsNorm.apply(x, module.weight, module.variance_epsilon)
    if name.endswith("MLP") and all(hasattr(module, part) for part in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        return lambda x: module.down_proj(_GatedSilu.apply(together([module.gate_proj, module.up_proj], x)))
    return None


def _agrees(module: Any, form: Any) -> bool:
    """Whether both say the same of a few random inputs; on the meta device nothing can be tried, nor needs to be."""
    weight = next(module.parameters())
    if weight.is_meta:
        return False
    width = module.gate_proj.in_features if hasattr(module, "gate_proj") else weight.shape[-1]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_TRIED, width, generator=generator).to(weight.device, weight.dtype)
    with torch.no_grad():
        wanted = module(x).float()
        return bool((form(x).float() - wanted).abs().max() <= _ALIKE * wanted.abs().max())


class _RmsNorm(torch.autograd.Function):
    """y = x / sqrt(mean(x^2) + eps) * w (Zhang and Sennrich, arXiv 1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = torch.addcmul(norm.new_full((1,), eps), norm, norm, value=1 / x.shape[-1]).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return torch.mul(x, inverse, out=torch.empty_like(x)).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        scaled = gradients[0] * weight
        along = (scaled * x).sum(-1, keepdim=True, dtype=inverse.dtype).mul_(inverse).mul_(inverse).mul_(inverse)
        gradient = torch.mul(scaled, inverse, out=torch.empty_like(x))
        return gradient.addcmul_(x, along.to(x.dtype), value=-1 / x.shape[-1]), None, None


class _GatedSilu(torch.autograd.Function):
    """y = silu(gate) * up (Shazeer, arXiv 2002.05202), of both side by side. Keeps its input only."""

    @staticmethod
    def forward(ctx: Any, both: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(both)
        gate, up = both.chunk(2, dim=-1)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (both,) = ctx.saved_tensors
        gradient = torch.empty_like(both)
        (gate, up), (to_gate, to_up) = both.chunk(2, dim=-1), gradient.chunk(2, dim=-1)
        torch.ops.aten.silu_backward(gradients[0] * up, gate, grad_input=to_gate)
        torch.ops.aten.silu(gate, out=to_up).mul_(gradients[0])
        return gradient
