"""An adapter as llama.cpp reads it: one GGUF file beside the base model's.

What llama.cpp asks for (its convert_lora_to_gguf.py and src/llama-adapter.cpp): `general.type` "adapter",
`adapter.type` "lora", `adapter.lora.alpha`, the architecture's own tensor names followed by `.lora_a` ``[r, in]`` and
`.lora_b` ``[out, r]``. Where it rotates neighbouring dimensions and transformers the two halves of a head, the rows of
B for q and k are put in its order.

Tensors are float32, llama.cpp's own default: small values stay what they are, and what is read back must be equal to
the last bit. Not covered: architectures whose layers llama.cpp splits, fuses or scales.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import (
    MODEL_ARCH,
    MODEL_ARCH_NAMES,
    GGUFReader,
    GGUFType,
    GGUFWriter,
    Keys,
    LlamaFileType,
    get_tensor_name_map,
)

from training.adapters import Adapter, AdapterShape, canonical
from training.errors import ModelError, StoreError

_ARCHITECTURES = {
    "llama": (MODEL_ARCH.LLAMA, True),
    "mistral": (MODEL_ARCH.LLAMA, True),
    "qwen2": (MODEL_ARCH.QWEN2, False),
    "qwen3": (MODEL_ARCH.QWEN3, False),
    "smollm3": (MODEL_ARCH.SMOLLM3, True),
}
"""By transformers' name: llama.cpp's architecture, and whether it wants q and k in another order."""

_HINT = "write --peft DIR, and convert that with llama.cpp's convert_lora_to_gguf.py"


@dataclass(frozen=True, slots=True)
class Architecture:
    """How llama.cpp sees a model.

    Attributes:
        arch: Its architecture.
        layers: How many there are.
        heads: Of attention, by the name of the projection whose rows change their order.
    """

    arch: MODEL_ARCH
    layers: int
    heads: Mapping[str, int]

    @property
    def name(self) -> str:
        """As it stands in the file."""
        return MODEL_ARCH_NAMES[self.arch]

    def tensor_name(self, path: str) -> str:
        """Name of the tensor of an adapted module.

        Raises:
            ModelError: llama.cpp has no such tensor.
        """
        found = get_tensor_name_map(self.arch, self.layers).get_name(path)
        if found is None:
            raise ModelError(f"{path}: llama.cpp has no such layer in a {self.name} model", _HINT)
        return f"{found}.weight"

    def permuted(self, path: str, up: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """B ``[out, r]`` of a module with its rows in llama.cpp's order."""
        heads = self.heads.get(path.rpartition(".")[2])
        return up if heads is None else up.reshape(heads, 2, -1, up.shape[1]).swapaxes(1, 2).reshape(up.shape)


def architecture(folder: Path) -> Architecture:
    """What a base model's configuration says.

    Raises:
        ModelError: llama.cpp's order of tensors is not known for it.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = config.get("model_type")
    if kind not in _ARCHITECTURES:
        raise ModelError(f"adapters for models of the type {kind} cannot be written for llama.cpp", _HINT)
    arch, is_permuted = _ARCHITECTURES[kind]
    heads = int(config["num_attention_heads"])
    rotated = {"q_proj": heads, "k_proj": int(config.get("num_key_value_heads") or heads)}
    return Architecture(arch, int(config["num_hidden_layers"]), rotated if is_permuted else {})


def write_gguf_lora(
    file: Path,
    adapter: Adapter,
    shape: AdapterShape,
    folder: Path,
    *,
    base_model: str,
    description: str,
    facts: Mapping[str, str],
) -> None:
    """Writes the file, reads it back and compares.

    Args:
        file: Where to write; replaced if it is there.
        adapter: Tensors that fit ``shape``.
        shape: The adapter's shape.
        folder: Of the base model; only its configuration is read.
        base_model: Its name.
        description: For people, in Markdown.
        facts: What stands under `spearctl.`, for programs.

    Raises:
        ModelError: The model's type is not known to be read so.
        StoreError: What was read back is not what was written.
    """
    shape.check(adapter)
    said = architecture(folder)
    tensors = _tensors(adapter, shape, said)
    writer = GGUFWriter(file, said.name)
    writer.add_type(GGUFType.ADAPTER)
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, float(shape.alpha))
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_name(f"{base_model} taught by feedback")
    writer.add_description(description)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, base_model)
    for key, value in facts.items():
        writer.add_string(f"spearctl.{key}", value)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    _compare(file, tensors, said, shape)


def _tensors(adapter: Adapter, shape: AdapterShape, said: Architecture) -> Adapter:
    found: Adapter = {}
    for path in shape.targets:
        name = said.tensor_name(path)
        found[f"{name}.lora_a"] = adapter[f"{path}.lora_A"]
        found[f"{name}.lora_b"] = said.permuted(path, adapter[f"{path}.lora_B"])
    return canonical(found)


def _compare(file: Path, tensors: Adapter, said: Architecture, shape: AdapterShape) -> None:
    reader = GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    wanted = {
        Keys.General.ARCHITECTURE: said.name,
        Keys.General.TYPE: GGUFType.ADAPTER,
        Keys.Adapter.TYPE: "lora",
        Keys.Adapter.LORA_ALPHA: float(shape.alpha),
    }
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    same = all(fields.get(key) == value for key, value in wanted.items()) and found.keys() == tensors.keys()
    if not (same and all(np.array_equal(found[name], values) for name, values in tensors.items())):
        raise StoreError(f"{file}: it was read back as something else", "look at the disk, and try again")
