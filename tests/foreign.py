"""PEFT adapters as somebody else might have made them, for tests that take them in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from spearctl.home import Home
from spearctl.main import main
from training.adapters import Adapter, read_peft_folder

Tensors = dict[str, npt.NDArray[np.float32]]


def own_adapter(home: Home, folder: Path) -> Adapter:
    """The base of a home as PEFT sees it, by `spearctl export`: its names and shapes are the right ones."""
    assert main(["export", "--peft", str(folder), "--adapter", "base", "--home", str(home.root), "--quiet"]) == 0
    return read_peft_folder(folder)


def make_loud(adapter: Adapter, *, size: float = 0.3, seed: int = 0) -> Adapter:
    """An adapter with which even a random model says something else."""
    rng = np.random.default_rng(seed)
    drawn = {name: rng.normal(0.0, size, array.shape).astype(np.float32) for name, array in adapter.items()}
    return {name: drawn[name] if name.endswith("lora_B") else array for name, array in adapter.items()}


def write_foreign(
    folder: Path, adapter: Adapter, *, base_model: object, tensors: Tensors | None = None, **config: object
) -> Path:
    """Writes a PEFT folder.

    Args:
        folder: Made here.
        adapter: Its tensors by our names.
        base_model: What it calls its base model.
        tensors: Other tensors by PEFT's names, instead of some or besides.
        config: Settings, instead of those of an own adapter.
    """
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "base_model_name_or_path": base_model, **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    stored = {f"base_model.model.{name}.weight": array for name, array in adapter.items()}
    save_file({**stored, **(tensors or {})}, folder / "adapter_model.safetensors")
    return folder
