"""Models that are not quite built like Llama: they decode and learn as transformers has them, or are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DiffLlamaConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    Ministral3Config,
    MistralConfig,
    OlmoConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from tests.learner import load_tiny, stir, trace
from tests.tiny import make_tiny_model
from training import layers
from training.errors import ModelError
from training.models import LanguageModel
from training.rollout import GREEDY, sample
from training.update import UpdateConfig, update


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A tiny model's folder, to be changed."""
    return make_tiny_model(tmp_path / "model", chat=False)


SMALL = {"vocab_size": 300, "eos_token_id": 0, "bos_token_id": 0, "pad_token_id": 3}
LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def replaced(folder: Path, config: PreTrainedConfig) -> Path:
    """The folder, with another model in it."""
    for file in folder.glob("*.safetensors"):
        file.unlink()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():  # so that every part of it counts
        parameter.data.mul_(8 if parameter.dim() > 1 else 1)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "config",
    [
        GraniteConfig(**SMALL, **LAYERS, num_key_value_heads=2, logits_scaling=8.0),
        GraniteConfig(**SMALL, **LAYERS, num_key_value_heads=2, logits_scaling=1.05),
        Gemma2Config(**SMALL, **LAYERS, num_key_value_heads=2, head_dim=8),
        MambaConfig(**SMALL, hidden_size=32, num_hidden_layers=2, state_size=4),
        Lfm2Config(**SMALL, **LAYERS, num_key_value_heads=2, layer_types=["conv", "full_attention"]),
        Lfm2Config(**SMALL, **LAYERS, num_key_value_heads=2, layer_types=["full_attention", "conv"]),
        DiffLlamaConfig(**SMALL, **LAYERS, num_key_value_heads=2),
    ],
    ids=lambda config: config.model_type,
)
def test_an_architecture_that_packing_would_change_is_refused(copied: Path, config: PreTrainedConfig) -> None:
    with pytest.raises(ModelError, match=r"not supported|takes no LoRA adapter") as caught:
        load_tiny(replaced(copied, config))
    assert caught.value.hint is not None


@pytest.mark.parametrize(
    "config",
    [
        Qwen2Config(**SMALL, **LAYERS, num_key_value_heads=1),
        Qwen3Config(**SMALL, **LAYERS, num_key_value_heads=2, head_dim=8),
        MistralConfig(**SMALL, **LAYERS, num_key_value_heads=4, sliding_window=100),
        LlamaConfig(**SMALL, **LAYERS, attention_bias=True, mlp_bias=True),
    ],
    ids=lambda config: config.model_type,
)
def test_other_architectures_decode_and_learn_as_transformers_does(copied: Path, config: PreTrainedConfig) -> None:
    lm = load_tiny(replaced(copied, config))
    assert layers.is_narrow(lm.causal.base_model)
    stir(lm, scale=0.1)
    prompt = list(range(5, 15))
    ours = sample(lm, [prompt, prompt[:4]], [6, 6], GREEDY, batch=2)[0]
    assert (list(ours.tokens), ours.ended) == generated(lm, prompt, 6)
    assert update(lm, [trace(1), trace(2, win=False)], UpdateConfig(steps=1)).steps == 1


def generated(lm: LanguageModel, prompt: list[int], limit: int) -> tuple[list[int], bool]:
    """What transformers says, and whether it ended by itself."""
    ids = torch.tensor([prompt])
    found = lm.causal.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=limit, pad_token_id=3
    )[0, len(prompt) :].tolist()
    end = next((at for at, token in enumerate(found) if token in lm.eos_ids), len(found))
    return found[:end], end < len(found)


def drawn(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(4, 290, length).tolist() for length in lengths]


SCALED_BY_PLACE = Ministral3Config(
    **SMALL | {"eos_token_id": 299}, **LAYERS, num_key_value_heads=2, head_dim=8, max_position_embeddings=512
)
SCALED_BY_PLACE.rope_parameters |= {"original_max_position_embeddings": 128, "llama_4_scaling_beta": 0.5}


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        (SCALED_BY_PLACE, 0.1),
        (OlmoConfig(**SMALL | {"eos_token_id": 299}, **LAYERS, clip_qkv=8.0), 1.5),
        (OlmoConfig(**SMALL | {"eos_token_id": 299}, **LAYERS, clip_qkv=1.0), 0.1),
    ],
    ids=["queries that are scaled by their place", "clamped where loud", "always clamped"],
)
def test_attention_that_does_more_than_turn_is_left_as_it_is(
    copied: Path, config: PreTrainedConfig, scale: float
) -> None:
    lm = load_tiny(replaced(copied, config))
    stir(lm, scale=scale)
    prompts = drawn(30, 60, 110)
    ours = sample(lm, prompts, [12] * 3, GREEDY, batch=3)
    assert [(list(one.tokens), one.ended) for one in ours] == [generated(lm, prompt, 12) for prompt in prompts]
    assert update(lm, [trace(1), trace(2, win=False)], UpdateConfig(steps=1)).steps == 1


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=64, eos_token_id=299, bos_token_id=0),
        LlamaConfig(**SMALL | {"eos_token_id": 299}, **LAYERS, rope_parameters=DYNAMIC, max_position_embeddings=64),
    ],
    ids=["gpt2", "dynamic"],
)
def test_sequences_that_are_finished_do_not_go_beyond_the_models_end(copied: Path, config: PreTrainedConfig) -> None:
    lm = load_tiny(replaced(copied, config))
    stir(lm, scale=0.1)
    prompts, limits = drawn(62, *range(5, 20, 2)), [2, *[40] * 8]
    together, alone = (sample(lm, prompts, limits, GREEDY, batch=batch) for batch in (9, 1))
    assert together == alone
    assert [(list(one.tokens), one.ended) for one in together[1:]] == [generated(lm, one, 40) for one in prompts[1:]]


def test_sequences_end_where_a_model_would_turn_all_of_a_pass_another_way(copied: Path) -> None:
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, **factors}
    config = Phi3Config(
        **SMALL, **LAYERS, rope_parameters=rope, max_position_embeddings=256, original_max_position_embeddings=64
    )
    assert load_tiny(replaced(copied, config)).max_sequence_tokens == 64


def test_a_pass_that_ran_out_of_memory_midway_leaves_nothing_to_the_next(copied: Path) -> None:
    lm = load_tiny(replaced(copied, Qwen3Config(**SMALL, **LAYERS, num_key_value_heads=2, head_dim=8)))
    attention = lm.causal.base_model.layers[1].self_attn
    left: list[int] = []

    def refuse(_module: object, args: tuple[torch.Tensor, ...]) -> None:
        left.append(len(attention.q_proj._group._ready))
        if len(left) == 2:
            raise torch.OutOfMemoryError("no room")

    def look(_module: object, _args: object) -> None:
        left.append(len(attention.q_proj._group._ready))

    handles = [
        attention.k_norm.register_forward_pre_hook(refuse),
        lm.causal.get_input_embeddings().register_forward_pre_hook(look),
    ]
    traces = [trace(seed, prompt_tokens=150) for seed in (1, 2)]
    assert update(lm, traces, UpdateConfig(steps=1, micro_batch=4)).steps == 1
    for handle in handles:
        handle.remove()
    assert left[:3] == [0, 1, 0]  # begun, failed with what v_proj was to say left over, begun again


def test_a_tokenizer_without_an_end_has_the_models(copied: Path) -> None:
    settings: dict[str, Any] = json.loads((copied / "tokenizer_config.json").read_text())
    (copied / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": None}))
    lm = load_tiny(copied)
    assert lm.tokenizer.eos_token_id is None
    assert lm.eos_ids == {lm.eos_id}
    assert sample(lm, [[5, 6, 7]], [3], GREEDY, batch=1)
    for name in ("config.json", "generation_config.json"):
        said = json.loads((copied / name).read_text())
        (copied / name).write_text(json.dumps({**said, "eos_token_id": None}))
    with pytest.raises(ModelError, match="by which token a text ends"):
        load_tiny(copied)
