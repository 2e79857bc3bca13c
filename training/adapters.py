"""Adapters as numpy: names, shapes, the specified start, and the PEFT folder they are kept in.

An adapter is a mapping from tensor name to a float32 array. Its canonical order is the sorted order of the names, which
are the module's path in the base model followed by ``.lora_A`` (shape ``[r, in]``) or ``.lora_B`` (shape ``[out, r]``).
Nothing here needs torch, so a process that never trains can read, hash and write adapters too.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from training.errors import StoreError

Adapter = dict[str, npt.NDArray[np.float32]]

GRID_BITS = 20
"""The start lies on the grid 2^-20, on which every value is exact in float32."""

PEFT_PREFIX = "base_model.model."
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class TensorShape:
    """One tensor of an adapter.

    Attributes:
        name: Path of the adapted module in the base model, then ``.lora_A`` or ``.lora_B``.
        rows: ``r`` for A, output features for B.
        columns: Input features for A, ``r`` for B.
    """

    name: str
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class AdapterShape:
    """What must agree for two adapters to be added.

    Attributes:
        rank: ``r``, the inner dimension of every product.
        alpha: The product is scaled by ``alpha / rank``.
        tensors: Every tensor, in canonical order.
    """

    rank: int
    alpha: int
    tensors: tuple[TensorShape, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        """Paths of the adapted modules, sorted."""
        return tuple(sorted({tensor.name.rpartition(".")[0] for tensor in self.tensors}))

    def digest(self) -> bytes:
        """SHA-256 over rank, alpha, names and dimensions, one line each."""
        lines = [f"rank {self.rank}", f"alpha {self.alpha}"]
        lines += [f"{tensor.name} {tensor.rows} {tensor.columns}" for tensor in self.tensors]
        return hashlib.sha256("\n".join(lines).encode()).digest()

    def check(self, adapter: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Makes sure that an adapter has these tensors.

        Raises:
            StoreError: Its names or dimensions are others.
        """
        wanted = {tensor.name: (tensor.rows, tensor.columns) for tensor in self.tensors}
        found = {name: array.shape for name, array in adapter.items()}
        if wanted != found:
            odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
            raise StoreError(
                f"this adapter does not fit the model: {len(odd)} of {len(wanted)} tensors differ, first {odd[0]}",
                "use an adapter trained on the same base model and rank: spearctl adapter list",
            )


def canonical(adapter: Mapping[str, npt.NDArray[np.float32]]) -> Adapter:
    """A copy in canonical order: sorted names, C-contiguous little-endian float32."""
    return {name: np.ascontiguousarray(adapter[name], dtype="<f4") for name in sorted(adapter)}


def adapter_digest(adapter: Mapping[str, npt.NDArray[np.float32]]) -> str:
    """SHA-256 in hex over names, dimensions and values in canonical order: equal only for byte-identical adapters."""
    digest = hashlib.sha256()
    for name, array in canonical(adapter).items():
        digest.update(f"{name} {' '.join(map(str, array.shape))}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def initial_adapter(fingerprint: str, shape: AdapterShape) -> Adapter:
    """The start that everyone with the same base model and adapter shape shares. B is 0, so it changes nothing.

    For each A ``[r, in]``, SHAKE-256(``"spearctl initial A v1" NUL fingerprint NUL digest(shape) name``) is read as
    little-endian uint32 ``u``, row by row, and gives ``q = floor(u * (2b + 1) / 2^32) - b`` on the grid 2^-20, where
    ``b = isqrt(2^40 / in)``: uniform within 1/sqrt(in), LoRA's customary start. Integers only, so that it is the same
    on every processor.

    Args:
        fingerprint: The base model's, in hex.
        shape: The adapter's shape.
    """
    prefix = b"\0".join((b"spearctl initial A v1", fingerprint.encode(), shape.digest()))
    adapter: Adapter = {}
    for tensor in shape.tensors:
        values = np.zeros((tensor.rows, tensor.columns), dtype=np.float32)
        if tensor.name.endswith(".lora_A"):
            count = tensor.rows * tensor.columns
            stream = hashlib.shake_256(prefix + tensor.name.encode()).digest(4 * count)
            bound = math.isqrt(2 ** (2 * GRID_BITS) // tensor.columns)
            drawn = np.frombuffer(stream, dtype="<u4").astype(np.uint64)
            steps = ((drawn * np.uint64(2 * bound + 1)) >> np.uint64(32)).astype(np.int64) - bound
            values = (steps.astype(np.float32) / np.float32(2**GRID_BITS)).reshape(values.shape)
        adapter[tensor.name] = values
    return adapter


def write_peft_folder(folder: Path, adapter: Adapter, shape: AdapterShape, *, base_model: str, dropout: float) -> None:
    """Writes an adapter as ``peft.PeftModel.from_pretrained`` reads it.

    Args:
        folder: An existing folder.
        adapter: Tensors that fit ``shape``.
        shape: The adapter's shape.
        base_model: Reference of the base model, recorded for other tools.
        dropout: LoRA dropout it was trained with.
    """
    shape.check(adapter)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": shape.rank,
        "lora_alpha": shape.alpha,
        "lora_dropout": dropout,
        "target_modules": sorted({path.rpartition(".")[2] for path in shape.targets}),
        "bias": "none",
        "inference_mode": True,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    weights = {f"{PEFT_PREFIX}{name}.weight": array for name, array in canonical(adapter).items()}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def read_peft_folder(folder: Path) -> Adapter:
    """Reads what :func:`write_peft_folder` wrote.

    Raises:
        StoreError: The folder holds no readable adapter.
    """
    path = folder / WEIGHTS_FILE
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, TypeError) as error:  # a TypeError: of a type that numpy lacks
        raise StoreError(
            f"{path}: not a readable adapter ({error})", "choose another version: spearctl adapter list"
        ) from error
    return canonical({_bare(name): array for name, array in tensors.items()})


def tensor_shapes(names: Iterable[tuple[str, tuple[int, ...]]]) -> tuple[TensorShape, ...]:
    """Canonical shapes from ``(name, dimensions)`` pairs."""
    return tuple(TensorShape(name, rows, columns) for name, (rows, columns) in sorted(names))


def _bare(name: str) -> str:
    return name.removeprefix(PEFT_PREFIX).removesuffix(".weight")
