"""Adapters as numpy: the specified start, the canonical order, and the PEFT folder."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.learner import ALPHA, RANK, stir
from training import lora
from training.adapters import (
    AdapterShape,
    TensorShape,
    adapter_digest,
    canonical,
    initial_adapter,
    read_peft_folder,
    tensor_shapes,
    write_peft_folder,
)
from training.errors import StoreError
from training.models import LanguageModel, LoraSettings, shape_of

FINGERPRINT = "ab" * 32
SHAPE = AdapterShape(
    rank=2,
    alpha=4,
    tensors=(
        TensorShape("model.layers.0.down.lora_A", 2, 7),
        TensorShape("model.layers.0.down.lora_B", 3, 2),
        TensorShape("model.layers.0.up.lora_A", 2, 3),
        TensorShape("model.layers.0.up.lora_B", 7, 2),
    ),
)
START = "7e904c267f811cafa4c203c833d7b3968a7f68d9ccce468716e9fee82274ea00"


def test_the_start_is_pinned() -> None:
    """Everyone with the same base model starts here: a change of these bytes parts the new from the old."""
    assert SHAPE.digest().hex()[:16] == "f3e50fabf88dac38"
    assert adapter_digest(initial_adapter(FINGERPRINT, SHAPE)) == START


def test_the_start_is_the_documented_generator() -> None:
    start = initial_adapter(FINGERPRINT, SHAPE)
    lines = ["rank 2", "alpha 4", *(f"{tensor.name} {tensor.rows} {tensor.columns}" for tensor in SHAPE.tensors)]
    shape_digest = hashlib.sha256("\n".join(lines).encode()).digest()
    for tensor in SHAPE.tensors:
        expected = [0.0] * (tensor.rows * tensor.columns)
        if tensor.name.endswith(".lora_A"):
            seed = b"spearctl initial A v1\0" + FINGERPRINT.encode() + b"\0" + shape_digest + tensor.name.encode()
            stream = hashlib.shake_256(seed).digest(4 * len(expected))
            bound = math.isqrt(2**40 // tensor.columns)
            drawn = [int.from_bytes(stream[at : at + 4], "little") for at in range(0, len(stream), 4)]
            expected = [((u * (2 * bound + 1) >> 32) - bound) / 2**20 for u in drawn]
        assert start[tensor.name].dtype == np.float32
        assert start[tensor.name].shape == (tensor.rows, tensor.columns)
        assert start[tensor.name].ravel().tolist() == expected


def test_the_start_spreads_evenly_over_its_bound() -> None:
    wide = AdapterShape(16, 32, (TensorShape("x.lora_A", 16, 400), TensorShape("x.lora_B", 400, 16)))
    start = initial_adapter(FINGERPRINT, wide)["x.lora_A"] * math.sqrt(400)
    assert abs(start).max() <= 1
    assert abs(start.mean()) < 0.03
    counts, _ = np.histogram(start, bins=8, range=(-1, 1))
    assert counts.min() > 0.85 * start.size / 8


@pytest.mark.parametrize(
    ("fingerprint", "shape"),
    [
        ("cd" * 32, SHAPE),
        (FINGERPRINT, AdapterShape(2, 8, SHAPE.tensors)),
        (FINGERPRINT, AdapterShape(2, 4, SHAPE.tensors[:2])),
    ],
)
def test_another_base_model_or_shape_starts_elsewhere(fingerprint: str, shape: AdapterShape) -> None:
    name = SHAPE.tensors[0].name
    assert not np.array_equal(initial_adapter(fingerprint, shape)[name], initial_adapter(FINGERPRINT, SHAPE)[name])


def test_the_digest_knows_names_dimensions_and_values_but_no_order() -> None:
    start = initial_adapter(FINGERPRINT, SHAPE)
    backwards = dict(reversed(start.items()))
    assert list(canonical(backwards)) == sorted(start)
    assert adapter_digest(backwards) == adapter_digest(start)
    strided = {name: np.asfortranarray(array) for name, array in start.items()}
    assert adapter_digest(strided) == adapter_digest(start)
    name = SHAPE.tensors[0].name
    moved = dict(start)
    moved[name + "x"] = moved.pop(name)
    reshaped = start | {name: start[name].reshape(7, 2)}
    nudged = start | {name: np.nextafter(start[name], np.float32(9))}
    assert len({adapter_digest(one) for one in (start, moved, reshaped, nudged)}) == 4


def test_shapes_come_in_canonical_order() -> None:
    pairs = [(tensor.name, (tensor.rows, tensor.columns)) for tensor in reversed(SHAPE.tensors)]
    assert tensor_shapes(pairs) == SHAPE.tensors
    assert SHAPE.targets == ("model.layers.0.down", "model.layers.0.up")


def test_an_adapter_of_another_shape_is_refused_by_name() -> None:
    start = initial_adapter(FINGERPRINT, SHAPE)
    SHAPE.check(start)
    name = SHAPE.tensors[1].name
    missing = {key: array for key, array in start.items() if key != name}
    for wrong in (missing, start | {name: start[name].T}, start | {"a.lora_A": start[name]}):
        with pytest.raises(StoreError, match=r"does not fit the model: 1 of 4") as caught:
            SHAPE.check(wrong)
        assert caught.value.hint


def test_a_folder_gives_back_the_same_bytes(tmp_path: Path) -> None:
    start = initial_adapter(FINGERPRINT, SHAPE)
    rng = np.random.default_rng(0)
    adapter = {name: array + rng.standard_normal(array.shape).astype(np.float32) for name, array in start.items()}
    write_peft_folder(tmp_path, dict(reversed(adapter.items())), SHAPE, base_model="org/name", dropout=0.1)
    read = read_peft_folder(tmp_path)
    assert list(read) == sorted(adapter)
    assert adapter_digest(read) == adapter_digest(adapter)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (2, 4, 0.1)
    assert config["base_model_name_or_path"] == "org/name"
    assert config["target_modules"] == ["down", "up"]


def test_what_does_not_fit_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not fit"):
        write_peft_folder(tmp_path, {}, SHAPE, base_model="org/name", dropout=0.1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, b"", b"\x08\0\0\0\0\0\0\0{}      ", b"junk" * 100])
def test_a_folder_without_a_readable_adapter_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "adapter_model.safetensors").write_bytes(content)
    try:
        found = read_peft_folder(tmp_path)
    except StoreError as error:
        assert str(tmp_path) in error.message
        assert error.hint
    else:
        assert found == {}


def test_peft_opens_the_folder_and_says_what_we_say(tiny: LanguageModel, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    stir(tiny, scale=0.1)
    adapter = lora.get_adapter(tiny.network)
    write_peft_folder(tmp_path, adapter, tiny.adapter_shape, base_model=str(tiny.source.folder), dropout=0.1)
    base = AutoModelForCausalLM.from_pretrained(tiny.source.folder, dtype=torch.float32)
    ids = torch.tensor([[5, 60, 200, 7, 99]])
    with torch.inference_mode():
        plain = base(input_ids=ids).logits
        theirs = PeftModel.from_pretrained(base, tmp_path).eval()(input_ids=ids).logits
        ours = tiny.causal(input_ids=ids).logits
    assert (theirs - plain).abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_the_shape_is_known_without_reading_weights(tiny: LanguageModel, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((tiny.source.folder / name).read_bytes())
    bare = type(tiny.source)("tiny", "folder", tmp_path, "ab", "chat")
    shape = shape_of(bare, LoraSettings(rank=RANK, alpha=ALPHA))
    assert shape == tiny.adapter_shape
    assert [tensor.name for tensor in shape.tensors] == sorted(tensor.name for tensor in shape.tensors)
    assert not any("lm_head" in tensor.name or "embed" in tensor.name for tensor in shape.tensors)
