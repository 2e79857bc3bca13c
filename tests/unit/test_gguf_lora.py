"""Adapters for llama.cpp: names, order of rows, values and what the file says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader

from tests.foreign import make_loud
from tests.tiny_gguf import write_gguf
from training import gguf_lora
from training.adapters import Adapter, AdapterShape, initial_adapter
from training.errors import ModelError, StoreError
from training.gguf_lora import write_gguf_lora
from training.models import LoraSettings, shape_of
from training.sources import resolve


@pytest.fixture(scope="module")
def shape(tiny_folder: Path) -> AdapterShape:
    return shape_of(resolve(str(tiny_folder), tiny_folder), LoraSettings())


@pytest.fixture
def adapter(shape: AdapterShape) -> Adapter:
    return make_loud(initial_adapter("ab" * 32, shape))


def write(file: Path, adapter: Adapter, shape: AdapterShape, folder: Path) -> GGUFReader:
    write_gguf_lora(file, adapter, shape, folder, base_model="tiny", description="A *card*.", facts={"version": "0"})
    return GGUFReader(file)


def test_it_says_what_llama_cpp_asks_for(
    tiny_folder: Path, shape: AdapterShape, adapter: Adapter, tmp_path: Path
) -> None:
    reader = write(tmp_path / "lora.gguf", adapter, shape, tiny_folder)
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert said["general.architecture"] == "llama"
    assert (said["general.type"], said["adapter.type"], said["adapter.lora.alpha"]) == ("adapter", "lora", 32.0)
    assert (said["general.base_model.0.name"], said["general.description"]) == ("tiny", "A *card*.")
    assert said["spearctl.version"] == "0"


def test_its_product_is_the_delta_of_the_base_gguf(
    tiny_folder: Path, shape: AdapterShape, adapter: Adapter, tmp_path: Path
) -> None:
    """A base GGUF written apart by the converter's rules, of the weights alone and of the weights with the delta."""
    from safetensors.torch import load_file, save_file

    changed = tmp_path / "changed"
    changed.mkdir()
    for path in tiny_folder.glob("*.json"):
        (changed / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tiny_folder / "model.safetensors")
    for path in shape.targets:
        delta = torch.from_numpy(2.0 * adapter[f"{path}.lora_B"] @ adapter[f"{path}.lora_A"])
        tensors[f"{path}.weight"] = tensors[f"{path}.weight"] + delta
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    files = [write_gguf(folder, tmp_path / f"{folder.name}.gguf", quantised=False) for folder in (tiny_folder, changed)]
    before, after = ({tensor.name: tensor.data for tensor in GGUFReader(file).tensors} for file in files)
    found = {t.name: t.data for t in write(tmp_path / "lora.gguf", adapter, shape, tiny_folder).tensors}
    names = {name.removesuffix(".lora_a") for name in found if name.endswith(".lora_a")}
    assert len(names) == len(shape.targets) == len(found) / 2
    for name in names:
        delta = 2.0 * found[f"{name}.lora_b"] @ found[f"{name}.lora_a"]
        np.testing.assert_allclose(before[name] + delta, after[name], rtol=0, atol=1e-5)


def test_another_order_of_rows_is_for_rotated_halves_only(
    tiny_folder: Path, shape: AdapterShape, tmp_path: Path
) -> None:
    config = json.loads((tiny_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "qwen2"}))
    up = np.arange(32, dtype=np.float32).reshape(32, 1)
    llama, qwen = (gguf_lora.architecture(folder) for folder in (tiny_folder, tmp_path))
    assert (llama.name, qwen.name) == ("llama", "qwen2")
    assert llama.permuted("model.layers.0.self_attn.q_proj", up)[:8].ravel().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert (llama.permuted("model.layers.0.self_attn.v_proj", up) == up).all()
    assert (qwen.permuted("model.layers.0.self_attn.q_proj", up) == up).all()


def test_a_model_of_unknown_order_is_refused(tmp_path: Path, shape: AdapterShape, adapter: Adapter) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(ModelError, match="type mamba") as caught:
        write(tmp_path / "lora.gguf", adapter, shape, tmp_path)
    assert "convert_lora_to_gguf.py" in str(caught.value.hint)
    assert not (tmp_path / "lora.gguf").exists()


def test_a_file_that_reads_back_otherwise_is_an_error(
    tiny_folder: Path, shape: AdapterShape, adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(file: Path) -> GGUFReader:
        raw = bytearray(file.read_bytes())
        raw[-40] ^= 1
        file.write_bytes(raw)
        return GGUFReader(file)

    monkeypatch.setattr(gguf_lora, "GGUFReader", damaged)
    with pytest.raises(StoreError, match="read back as something else"):
        write(tmp_path / "lora.gguf", adapter, shape, tiny_folder)
