"""Attention that turns queries and keys together: values and gradients of the layer, and only where that was tried."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from training import attention, rotary
from training.packed_attention import Whole
from training.packing import pack

SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SEQUENCES = [[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 9, 8]]


def made(kind: Any = LlamaForCausalLM, config: Any = None) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        causal = kind(config or LlamaConfig(**SIZES))
    attention.use(causal)
    return causal.eval()


def say(causal: Any) -> torch.Tensor:
    """Hidden states of packed sequences."""
    packing = pack(SEQUENCES)
    tokens, positions = (torch.tensor(of) for of in (packing.tokens, packing.positions))
    return attention.run(causal, tokens, positions, Whole(packing))


def test_values_and_gradients_are_those_of_the_layers_own_attention() -> None:
    plain, better = made(), made()
    assert rotary.streamline(better.model, lambda: say(better)) == 2
    found = []
    for causal in (plain, better):
        states = say(causal)
        states.square().mul(torch.linspace(-1, 1, states.shape[1])).sum().backward()
        its = [parameter.grad for parameter in causal.model.parameters()]
        assert all(gradient is not None and gradient.abs().max() > 0 for gradient in its)
        found.append([states.detach(), *its])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_without_a_pattern_the_layers_own_attention_is_asked() -> None:
    plain, better = made(), made()
    rotary.streamline(better.model, lambda: say(better))
    ids = torch.tensor(SEQUENCES[:1])
    with torch.inference_mode():
        assert torch.equal(better(input_ids=ids).logits, plain(input_ids=ids).logits)


def louder(module: Any) -> None:
    forward = module.forward
    module.forward = lambda *args, **kwargs: (forward(*args, **kwargs)[0] * 1.5, None)


def unturned(module: Any) -> None:
    """As every fourth layer of SmolLM3."""
    forward = module.forward

    def changed(*args: Any, position_embeddings: Any, **kwargs: Any) -> Any:
        cos, sin = position_embeddings
        return forward(*args, position_embeddings=(torch.ones_like(cos), torch.zeros_like(sin)), **kwargs)

    module.forward = changed


@pytest.mark.parametrize("change", [louder, unturned])
def test_attention_that_only_looks_alike_is_left_as_it_is(change: Any) -> None:
    causal = made()
    odd = causal.model.layers[0].self_attn
    change(odd)
    before = odd.forward
    assert rotary.streamline(causal.model, lambda: say(causal)) == 1
    assert odd.forward is before


def test_attention_with_more_parts_is_left_as_it_is() -> None:
    causal = made(Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=8))
    assert rotary.streamline(causal.model, lambda: say(causal)) == 0
