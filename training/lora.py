"""LoRA on a torch model: attach it, and move adapters in and out as numpy arrays.

PEFT owns the structure (module names, configuration, saved format); only the forward pass of the linear layer is ours.
PEFT's own forward computes fp32 adapters in fp32, so every layer converts its whole input twice, which costs a CPU more
than the base model does. Here the master weights stay fp32, the product is computed in the layer's own dtype, and the
low-rank part is what the base's matrix product, which accumulates in fp32, begins with: rounded once, and never merged.

It does not cover quantised base layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as PeftLinear
from torch.nn import functional

from training.adapters import Adapter, AdapterShape, TensorShape
from training.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PREFIX = "base_model.model."
_ADAPTER = "default"


class LowRankLinear(PeftLinear):
    """A frozen linear layer plus a trained low-rank one (Hu et al., arXiv 2106.09685).

    y = x W^T + s x drop(A)^T B^T
    """

    def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        """Applies the layer to ``x [..., in]`` and returns ``[..., out]`` in the dtype of ``x``."""
        if self.disable_adapters:
            return cast(torch.Tensor, self.base_layer(x))
        down = cast(torch.Tensor, self.lora_A[_ADAPTER].weight)
        up = cast(torch.Tensor, self.lora_B[_ADAPTER].weight)
        if self.training:
            down = _drop_features(down, float(getattr(self.lora_dropout[_ADAPTER], "p", 0.0)))
        rows = x.flatten(0, -2)
        scaled = (up * self.scaling[_ADAPTER]).to(x.dtype)
        low = functional.linear(functional.linear(rows, down.to(x.dtype)), scaled)
        base = cast(torch.nn.Linear, self.base_layer)
        bias = cast("torch.Tensor | None", base.bias)
        # This way round: rounded in bf16 first, the base's own output would swallow most of a small low-rank part.
        out = low.addmm_(rows, base.weight.t())
        return (out if bias is None else out + bias).view(*x.shape[:-1], -1)


def _drop_features(down: torch.Tensor, rate: float) -> torch.Tensor:
    """Dropout of input features, the same ones for all tokens of a pass (Gal and Ghahramani, arXiv 1512.05287).

    Every input value is dropped as often as by ordinary dropout, but a mask for each layer's whole input took half of a
    training step on a CPU; one for the columns of A ``[r, in]`` is free.
    """
    if rate == 0.0:
        return down
    keep = torch.rand(down.shape[1], device=down.device) >= rate
    return down * (keep / (1 - rate))


def attach(model: PreTrainedModel, *, rank: int, alpha: int, dropout: float) -> PeftModel:
    """Freezes ``model`` and puts LoRA on all its linear layers but the output head, master weights in fp32."""
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", bias="none", task_type="CAUSAL_LM"
    )
    # PEFT 0.7 and later call this hook experimental; without it one would have to replace the layers after the fact.
    config._register_custom_module({torch.nn.Linear: LowRankLinear})
    try:
        return cast(PeftModel, get_peft_model(model, config))
    except ValueError as error:
        raise ModelError(
            f"this model takes no LoRA adapter: {error}", "choose a model made of linear layers"
        ) from error


def adapter_shape(model: PeftModel) -> AdapterShape:
    """The shape of the adapter that ``model`` carries."""
    config = cast(LoraConfig, model.peft_config[_ADAPTER])
    tensors = tuple(TensorShape(name, *parameter.shape) for name, parameter in sorted(_parameters(model).items()))
    return AdapterShape(config.r, config.lora_alpha, tensors)


def get_adapter(model: PeftModel) -> Adapter:
    """Copies the model's adapter out, in canonical order."""
    return {
        name: parameter.detach().to("cpu", torch.float32).numpy().copy()
        for name, parameter in sorted(_parameters(model).items())
    }


def set_adapter(model: PeftModel, adapter: Adapter) -> None:
    """Copies an adapter into the model.

    Raises:
        StoreError: Names or dimensions are not the model's; nothing was changed.
    """
    adapter_shape(model).check(adapter)
    with torch.no_grad():
        for name, parameter in _parameters(model).items():
            parameter.copy_(torch.from_numpy(adapter[name]))


def _parameters(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    suffix = f".{_ADAPTER}.weight"
    return {
        name.removeprefix(_PREFIX).removesuffix(suffix): parameter
        for name, parameter in model.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }
