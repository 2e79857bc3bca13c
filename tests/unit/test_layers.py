"""Layers in place of transformers': the same values and gradients, and only where that was tried."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from training.layers import streamline

CONFIG = LlamaConfig(hidden_size=24, num_attention_heads=2, intermediate_size=40, rms_norm_eps=1e-5)


def made(kind: type[torch.nn.Module]) -> torch.nn.Module:
    torch.manual_seed(0)
    layer = LlamaRMSNorm(24, eps=1e-5) if kind is LlamaRMSNorm else LlamaMLP(CONFIG)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-1, 1).requires_grad_(False)
    return layer


@pytest.mark.parametrize("kind", [LlamaRMSNorm, LlamaMLP])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_values_and_gradients_are_those_of_the_layer_replaced(
    kind: type[torch.nn.Module], dtype: torch.dtype, tolerance: float
) -> None:
    plain = made(kind).to(dtype)
    better = copy.deepcopy(plain)
    assert streamline(better) == 1
    found = []
    for layer in (plain, better):
        x = torch.randn(5, 24, generator=torch.Generator().manual_seed(2)).to(dtype).requires_grad_()
        out = layer(x)
        (out.float() * torch.linspace(-1, 1, 24)).sum().backward()
        found.append((out.detach(), x.grad))
    for mine, theirs in zip(found[1], found[0], strict=True):
        assert mine is not None
        assert theirs is not None
        scale = float(theirs.abs().max())
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance * scale)


def test_a_layer_that_only_looks_alike_is_left_as_it_is() -> None:
    class OddRMSNorm(LlamaRMSNorm):
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            return super().forward(hidden_states) * 1.5

    class OddMLP(LlamaMLP):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1

    odd = torch.nn.ModuleList([OddRMSNorm(24), OddMLP(CONFIG), torch.nn.LayerNorm(24)])
    before = odd[1](torch.ones(1, 24))
    assert streamline(odd) == 0
    assert torch.equal(odd[1](torch.ones(1, 24)), before)
