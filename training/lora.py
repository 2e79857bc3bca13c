"""LoRA on a torch model: attach it, and move adapters in and out as numpy arrays.

PEFT owns the structure (module names, configuration, saved format); only the forward pass of the linear layer is ours,
see ``training.lowrank``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from training.adapters import Adapter, AdapterShape, TensorShape
from training.errors import ModelError
from training.lowrank import ADAPTER, LowRankLinear, join

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PREFIX = "base_model.model."


def attach(model: PreTrainedModel, *, rank: int, alpha: int, dropout: float, device: str | None = None) -> PeftModel:
    """Freezes ``model`` and puts LoRA on all its linear layers but the output head, master weights in fp32.

    With ``device`` all goes there: base weights one layer after another, straight to where they are joined, so that
    there never are two of them on a GPU.
    """
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", bias="none", task_type="CAUSAL_LM"
    )
    # PEFT 0.7 and later call this hook experimental; without it one would have to replace the layers after the fact.
    config._register_custom_module({torch.nn.Linear: LowRankLinear})
    try:
        network = cast(PeftModel, get_peft_model(model, config))
    except ValueError as error:
        raise ModelError(
            f"this model takes no LoRA adapter: {error}", "choose a model made of linear layers"
        ) from error
    join(network, device)
    return network if device is None else network.to(device)


def let_go_of_file(model: PreTrainedModel) -> None:
    """Copies the rest of a model out of the file it was loaded from, the whole of which stays in memory else."""
    joined = {id(layer.base.weight) for layer in model.modules() if isinstance(layer, LowRankLinear)}
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and not parameter.requires_grad and id(parameter) not in joined:
            parameter.data = parameter.data.clone()


def adapter_shape(model: PeftModel) -> AdapterShape:
    """The shape of the adapter that ``model`` carries."""
    config = cast(LoraConfig, model.peft_config[ADAPTER])
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
    suffix = f".{ADAPTER}.weight"
    return {
        name.removeprefix(_PREFIX).removesuffix(suffix): parameter
        for name, parameter in model.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }
