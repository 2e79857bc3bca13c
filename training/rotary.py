"""Attention with rotary positions as Llama has it, in a fifth of the passes over memory.

Queries, keys and values are one product, and queries and keys are turned by three operations each way (Su et al.,
arXiv 2104.09864): y = x cos + [-x2, x1] sin, of x = [x1, x2].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch

from training.attention import Pattern, see
from training.layers import asked, is_alike
from training.lowrank import together

_LOUD = (1, 100)
"""Times what a layer is given: some clamp what is large."""
_PARTS = {"q_proj", "k_proj", "v_proj", "o_proj"}


def streamline(base: Any, example: Callable[[], object]) -> int:
    """Replaces the attention of a decoder's layers where this module has the better form of it.

    Args:
        base: The decoder.
        example: Has it compute a few tokens, for which both ways are compared.

    Returns:
        How many were replaced.
    """
    found = [layer.self_attn for layer in getattr(base, "layers", ()) if hasattr(layer, "self_attn")]
    fitting = [module for module in found if {name for name, _ in module.named_children()} == _PARTS]
    replaced = 0
    for module, (args, more) in asked(fitting, example).items():
        form = _Rotated(module)
        if _says_the_same(form, *args, **more):
            module.forward = form
            replaced += 1
    return replaced


class _Rotated:
    """Attention that is given a pattern (see ``training.attention``); given none, the layer's own."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.plain = module.forward

    def __call__(self, hidden_states: torch.Tensor, **settings: Any) -> tuple[torch.Tensor, None]:
        if settings.get("pattern") is None:
            return cast("tuple[torch.Tensor, None]", self.plain(hidden_states, **settings))
        module, size = self._module, self._module.head_dim
        said = together([module.q_proj, module.k_proj, module.v_proj], hidden_states)[0]
        groups = module.k_proj.out_features // size
        cos, sin = (of[0, :, None] for of in settings["position_embeddings"])
        turned = _Turned.apply(said.view(len(said), -1, size), cos, sin, groups)
        query, key, value = (of.transpose(0, 1) for of in turned)
        seen = see(settings["pattern"], int(module.layer_idx), query, key, value, module.scaling)
        return module.o_proj(seen.flatten(-2)[None]), None


def _says_the_same(form: _Rotated, *args: Any, **more: Any) -> bool:
    """Whether both ways ask a pattern the same, and say the same of its answer."""
    states, *others = args or [more["hidden_states"]]
    more = {name: value for name, value in more.items() if name != "hidden_states"} | {"pattern": _Echo()}
    try:
        for loud in _LOUD:
            mine, theirs = (way(states * loud, *others, **more) for way in (form, form.plain))
            if not isinstance(theirs, tuple) or len(theirs) != len(mine) or not is_alike(mine[0], theirs[0]):
                return False
        return True
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):  # it is built in another way
        return False


class _Echo(Pattern):
    """Says what it was asked: attention proper may hide what was turned another way, where scores are small."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        shared = len(query) // len(key)
        asked = query + key.repeat_interleave(shared, 0) + value.repeat_interleave(shared, 0)
        return (asked * scale).transpose(0, 1)


class _Turned(torch.autograd.Function):
    """Queries and keys turned, and values: ``[N, H, D]``, and ``[N, G, D]`` twice, of all heads ``[N, H + 2 G, D]``."""

    @staticmethod
    def forward(
        ctx: Any, heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, groups: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(cos, sin)
        turned = _turn(heads[:, :-groups], cos, sin, torch.empty_like(heads[:, :-groups]), 1)
        return turned[:, :-groups], turned[:, -groups:], heads[:, -groups:].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        query, key, value = gradients
        heads, groups = query.shape[1], key.shape[1]
        found = query.new_empty(len(query), heads + 2 * groups, query.shape[2])
        _turn(query, cos, sin, found[:, :heads], -1)
        _turn(key, cos, sin, found[:, heads:-groups], -1)
        found[:, -groups:] = value
        return found, None, None, None


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor, way: int) -> torch.Tensor:
    """Turns by the angles, or for ``way`` -1 back by them."""
    torch.mul(x, cos, out=out)
    first, second = x.chunk(2, dim=-1)
    of_first, of_second = sin.chunk(2, dim=-1)
    to_first, to_second = out.chunk(2, dim=-1)
    to_first.addcmul_(second, of_first, value=-way)
    to_second.addcmul_(first, of_second, value=way)
    return out
