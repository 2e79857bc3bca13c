"""A base model and an adapter as one model: what of a delta arrives, in which dtype, and what stays as it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.foreign import make_loud
from training import merge
from training.adapters import Adapter, AdapterShape, initial_adapter
from training.errors import ModelError
from training.merge import MergeReport, write_merged
from training.models import LoraSettings, shape_of
from training.sources import resolve


@pytest.fixture(scope="module")
def shape(tiny_folder: Path) -> AdapterShape:
    return shape_of(resolve(str(tiny_folder), tiny_folder), LoraSettings())


@pytest.fixture
def low(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny model in bfloat16."""
    folder = tmp_path / "low"
    AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def adapter(shape: AdapterShape, size: float) -> Adapter:
    return make_loud(initial_adapter("ab" * 32, shape), size=size)


def merged(source: Path, shape: AdapterShape, size: float, **options: int) -> tuple[Path, MergeReport]:
    target = source.parent / f"merged-{size}"
    target.mkdir()
    return target, write_merged(source, target, adapter(shape, size), shape, **options)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def test_a_small_delta_on_bfloat16_weights_is_kept_in_float32(low: Path, shape: AdapterShape) -> None:
    folder, report = merged(low, shape, 2.5e-4)
    assert report.base_dtype == "bfloat16"
    assert report.matrices == report.widened == len(shape.targets)
    assert report.base_kept.lost > 0.5
    assert report.kept.lost < 1e-3
    assert report.kept.share == pytest.approx(1.0, abs=1e-4)
    made, before, given = weights(folder), weights(low), adapter(shape, 2.5e-4)
    for path in shape.targets:
        delta = 2.0 * given[f"{path}.lora_B"].astype(np.float64) @ given[f"{path}.lora_A"]
        arrived = made[f"{path}.weight"].double().numpy() - before[f"{path}.weight"].double().numpy()
        assert np.linalg.norm(arrived - delta) < 1e-3 * np.linalg.norm(delta)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    loaded = AutoModelForCausalLM.from_pretrained(folder)  # by the dtype in its own configuration
    name = shape.targets[0]
    assert torch.equal(loaded.get_submodule(name).weight, made[f"{name}.weight"])


def test_what_the_adapter_does_not_touch_stays_byte_for_byte(low: Path, shape: AdapterShape) -> None:
    folder, _ = merged(low, shape, 0.01)
    made, before = weights(folder), weights(low)
    touched = {f"{path}.weight" for path in shape.targets}
    assert made.keys() == before.keys() > touched
    for name in before.keys() - touched:
        assert made[name].dtype == before[name].dtype
        assert torch.equal(made[name], before[name])


def test_a_delta_that_bfloat16_holds_stays_in_bfloat16(low: Path, shape: AdapterShape) -> None:
    folder, report = merged(low, shape, 500.0)
    assert report.widened == 0
    assert report.kept.lost < merge.MOST_LOST
    assert {tensor.dtype for tensor in weights(folder).values()} == {torch.bfloat16}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_an_adapter_that_changes_nothing_gives_the_base_model(low: Path, shape: AdapterShape) -> None:
    folder, report = merged(low, shape, 0.0)
    assert (report.kept.share, report.widened) == (None, 0)
    assert all(torch.equal(tensor, weights(low)[name]) for name, tensor in weights(folder).items())


def test_small_shards_make_the_same_model(low: Path, shape: AdapterShape) -> None:
    whole, _ = merged(low, shape, 0.02)
    parts = low.parent / "parts"
    parts.mkdir()
    write_merged(low, parts, adapter(shape, 0.02), shape, shard_bytes=20_000)
    names = sorted(path.name for path in parts.glob("*.safetensors"))
    assert len(names) > 3
    index = json.loads((parts / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in weights(parts).values())
    assert names[-1] == f"model-{len(names):05d}-of-{len(names):05d}.safetensors"
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(parts).items())
    one, other = (AutoModelForCausalLM.from_pretrained(folder) for folder in (whole, parts))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_same_weights_once_more_under_other_names_are_left_out(low: Path, shape: AdapterShape) -> None:
    once = weights(low)
    save_file({f"again.{name}": tensor for name, tensor in once.items()}, low / "consolidated.safetensors")
    folder, _ = merged(low, shape, 0.3)
    assert weights(folder).keys() == once.keys()
    again, _ = merged(low, shape, 0.2, shard_bytes=4096)
    save_file({f"again.{name}": tensor for name, tensor in once.items()}, again / "consolidated.safetensors")
    folder, _ = merged(again, shape, 0.1)
    assert weights(folder).keys() == once.keys()


def test_a_delta_finer_than_float32_is_refused(low: Path, shape: AdapterShape) -> None:
    with pytest.raises(ModelError, match="too small to be added"):
        merged(low, shape, 1e-11)


def test_weights_that_are_not_the_adapters_are_refused_before_anything_is_written(
    low: Path, shape: AdapterShape
) -> None:
    path = low / "model.safetensors"
    kept = load_file(path)
    name = f"{shape.targets[0]}.weight"
    save_file({key: value for key, value in kept.items() if key != name}, path)
    with pytest.raises(ModelError, match=f"have no {name}"):
        merged(low, shape, 0.01)
    assert not list((low.parent / "merged-0.01").iterdir())
