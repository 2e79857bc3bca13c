"""A base model in memory: loading it, and how conversations become tokens."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import profiles
from tests.learner import load_tiny, trace, user
from tests.quantized import INSTALLED
from training import layers, models, sources
from training.errors import ModelError
from training.feedback import Message
from training.models import LanguageModel, LoraSettings
from training.update import UpdateConfig, update

PROFILE = dataclasses.replace(profiles.load("cpu"), dtype="float32", threads=1)
TURNS = [user("Hello."), Message("assistant", "Hi!"), user("Is it?")]


@pytest.fixture(scope="module")
def raw(raw_folder: Path) -> LanguageModel:
    return load_tiny(raw_folder)


@pytest.fixture
def copied(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "tiny-instruct"))


def load(folder: Path, **changes: Any) -> LanguageModel:
    source = sources.resolve(str(folder), folder / "cache")
    return models.load(source, dataclasses.replace(PROFILE, **changes), LoraSettings(rank=2, alpha=4))


def test_a_chat_model_is_asked_through_its_template(tiny_chat: LanguageModel) -> None:
    expected = "".join(f"<|im_start|>{turn.role}\n{turn.content}<|im_end|>\n" for turn in TURNS)
    ids = tiny_chat.encode_prompt(TURNS)
    assert tiny_chat.tokenizer.decode(ids) == expected + "<|im_start|>assistant\n"
    assert ids[0] == tiny_chat.tokenizer.convert_tokens_to_ids("<|im_start|>")


def test_a_base_model_is_shown_the_texts_alone(raw: LanguageModel) -> None:
    assert raw.prompt_format == "raw"
    assert raw.tokenizer.decode(raw.encode_prompt(TURNS)) == "Hello.\n\nHi!\n\nIs it?"


def test_the_prompt_format_can_be_chosen(tiny_folder: Path) -> None:
    source = sources.resolve(str(tiny_folder), tiny_folder / "cache")
    lm = models.load(source, PROFILE, LoraSettings(rank=2, alpha=4), prompt_format="raw")
    assert (source.prompt_format, lm.prompt_format) == ("chat", "raw")
    assert lm.tokenizer.decode(lm.encode_prompt([user("Is it?")])) == "Is it?"


def test_a_raw_prompt_starts_as_the_tokenizer_starts_texts(raw_folder: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    lm = load_tiny(raw_folder)
    plain = lm.encode_prompt([user("Is it?")])
    start = lm.tokenizer.bos_token_id
    assert plain[0] != start
    lm.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", start)]
    )
    assert lm.encode_prompt([user("Is it?")]) == [start, *plain]
    assert lm.encode_text("Is it?") == plain


def test_an_opening_is_where_the_model_goes_on(tiny_chat: LanguageModel, raw: LanguageModel) -> None:
    chat = tiny_chat.tokenizer.decode(tiny_chat.encode_prompt(TURNS, "Answer:"))
    assert chat.endswith("<|im_start|>assistant\nAnswer:")
    assert raw.tokenizer.decode(raw.encode_prompt(TURNS, "Answer:")).endswith("Is it?\n\nAnswer:")


@pytest.mark.parametrize("kind", ["chat", "raw"])
def test_a_system_prompt_comes_first_unless_there_is_one(tiny_folder: Path, raw_folder: Path, kind: str) -> None:
    lm = load_tiny(tiny_folder if kind == "chat" else raw_folder, system_prompt="Be brief.")
    asked = lm.tokenizer.decode(lm.encode_prompt(TURNS))
    assert asked.index("Be brief.") < asked.index("Hello.")
    own = lm.tokenizer.decode(lm.encode_prompt([Message("system", "Be kind."), *TURNS]))
    assert "Be kind." in own
    assert "Be brief." not in own


def test_text_becomes_tokens_and_text_again(tiny_chat: LanguageModel) -> None:
    for text in ("The answer is yes.", "¿Qué? 数学 🙂", " a\n\n b", ""):
        tokens = tiny_chat.encode_text(text)
        assert tiny_chat.decode(tokens) == text
        assert tiny_chat.decode([*tokens, tiny_chat.eos_id]) == text


def test_every_end_that_the_model_knows_ends_a_completion(copied: Path) -> None:
    assert load(copied).eos_ids == {2}
    (copied / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}))
    lm = load(copied)
    assert (lm.eos_id, lm.eos_ids) == (2, {0, 2})


def test_without_a_padding_token_the_end_pads(copied: Path) -> None:
    assert load(copied).pad_id == 3
    lm = load(copied)
    lm.tokenizer.pad_token = None
    assert lm.pad_id == lm.eos_id


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_base_is_loaded_in_the_profiles_dtype_and_the_adapter_in_single(copied: Path, dtype: str) -> None:
    lm = load(copied, dtype=dtype)
    assert lm.dtype == getattr(torch, dtype)
    kinds = {
        "lora" if "lora_" in name else "base": parameter.dtype for name, parameter in lm.network.named_parameters()
    }
    assert kinds == {"lora": torch.float32, "base": getattr(torch, dtype)}
    assert lm.device.type == "cpu"


def test_a_sequence_is_as_long_as_profile_and_model_allow(copied: Path) -> None:
    assert load(copied, max_sequence=300).max_sequence_tokens == 300
    assert load(copied, max_sequence=4096).max_sequence_tokens == 1024


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b""),
        ("model.safetensors", b"junk" * 100),
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "no-such-model"}'),
        ("config.json", b'{"model_type": "vit"}'),
        ("tokenizer.json", b"{"),
        ("tokenizer.json", None),
    ],
)
def test_a_broken_folder_is_a_model_error(copied: Path, name: str, content: bytes | None) -> None:
    if content is None:
        (copied / name).unlink()
    else:
        (copied / name).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load(copied)
    assert str(copied) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "error",
    [
        OSError(12, "Cannot allocate memory"),
        RuntimeError("unable to mmap 9 bytes from file </x/model.safetensors>: Cannot allocate memory (12)"),
    ],
)
def test_a_folder_is_not_blamed_where_memory_ran_out(
    copied: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("training.models.AutoModelForCausalLM.from_pretrained", fail)
    with pytest.raises(type(error)) as caught:
        load(copied)
    assert caught.value is error


def test_weights_that_lack_a_tensor_are_refused_not_filled_with_noise(copied: Path) -> None:
    file = copied / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 tensors, first model.layers.1.mlp.up_proj.weight"):
        load(copied)


def test_code_that_comes_with_a_model_is_not_run(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}, "model_type": "evil"}
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "evil.py").write_text(f"open({str(copied / 'ran')!r}, 'w')\n")
    with pytest.raises(ModelError):
        load(copied)
    assert not (copied / "ran").exists()


@pytest.mark.parametrize("content", [b"{", b'{"model_type": "no-such-model"}', b'{"model_type": "vit"}'])
def test_the_shape_of_what_is_no_language_model_is_a_model_error(copied: Path, content: bytes) -> None:
    source = sources.resolve(str(copied), copied / "cache")
    (copied / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match="not a causal language model"):
        models.shape_of(source, LoraSettings())


def test_the_adapters_size_is_as_asked_for(copied: Path) -> None:
    lm = load(copied)
    assert (lm.adapter_shape.rank, lm.adapter_shape.alpha) == (2, 4)
    assert lm.adapter_shape.targets == tuple(
        sorted(
            f"model.layers.{layer}.{part}_proj"
            for layer in range(2)
            for part in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")
        )
    )


def quieter(layer: Any) -> None:
    """The layer says less of what its MLP says, and one channel of all states is loud."""
    mlp, norm = layer.mlp, layer.post_attention_layernorm
    layer.self_attn.o_proj.base_layer.weight.data[0] += 100

    def forward(states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        states = states + layer.self_attn(layer.input_layernorm(states), **kwargs)[0]
        return states + 0.7 * mlp(norm(states))

    layer.forward = forward


def silent(layer: Any) -> None:
    """The layer's attention says nothing beside its values."""
    attend = layer.self_attn.forward
    layer.self_attn.forward = lambda *args, **kwargs: attend(*args, **kwargs)[0]

    def forward(states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        states = states + layer.self_attn(layer.input_layernorm(states), **kwargs)
        return states + layer.mlp(layer.post_attention_layernorm(states))

    layer.forward = forward


def dropping(layer: Any) -> None:
    """The layer drops something while it learns."""
    layer.dropout = torch.nn.Dropout(0.1)


@pytest.mark.parametrize("change", [quieter, silent, dropping])
def test_a_last_layer_that_is_built_in_another_way_computes_all(copied: Path, change: Callable[[Any], None]) -> None:
    lm = load(copied)
    base = lm.causal.base_model
    assert layers.is_narrow(base)
    base.layers[-1].forward = base.layers[-1].forward.whole
    change(base.layers[-1])
    forward = base.layers[-1].forward
    models._streamline(lm)
    assert not layers.is_narrow(base)
    assert base.layers[-1].forward is forward
    assert update(lm, [trace(1), trace(2, win=False)], UpdateConfig(steps=1)).steps == 1


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks the Linux kernel what is mapped")
@pytest.mark.parametrize("quantization", ["none", *INSTALLED])
def test_the_file_that_weights_were_read_from_is_let_go(copied: Path, quantization: str) -> None:
    lm = load(copied, quantization=quantization)
    assert str(copied / "model.safetensors") not in Path("/proc/self/maps").read_text()
    assert lm.causal.get_output_embeddings().weight is lm.causal.get_input_embeddings().weight


def test_a_window_shorter_than_the_profiles_sequence_bounds_it(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "sliding_window": 77}))
    assert load(copied).max_sequence_tokens == 77


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("CUDA error: unspecified launch failure")]
)
def test_a_machine_that_fails_while_a_model_is_tried_is_not_the_models_fault(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    def run(*_: object) -> torch.Tensor:
        raise error

    monkeypatch.setattr("training.attention.run", run)
    with pytest.raises(type(error)) as found:
        models._check(tiny)
    assert found.value is error
