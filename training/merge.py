"""A whole model of a base model and an adapter: W + s B A, for programs that know no adapters.

A small delta is finer than the grid of bfloat16 or float16 weights, and is lost when it is added to them. So the sum
is computed in float64 and written in the base's own dtype only where that keeps the delta, else in float32; and how
much of it arrived is measured on the files once they are written.

Not covered: what the program that loads them computes in. Told to load in bfloat16, it rounds the delta away again.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from training.adapters import Adapter, AdapterShape
from training.errors import ModelError

Notify = Callable[[int, int], None]

MOST_LOST = 0.01
"""Of a delta, by length, in a matrix that is written; more, and it is written in a finer dtype."""

SHARD_BYTES = 256 * 10**6
"""Tensors that are held in memory and written together; one that is larger is a file of its own."""

_ROWS = 1024
_COPIED = ("*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "NOTICE*")
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Kept:
    """How much of a delta arrived: sums over its values.

    Attributes:
        wanted: Of the squares of the delta.
        along: Of the products of the delta and what arrived.
        missed: Of the squares of their difference.
    """

    wanted: float = 0.0
    along: float = 0.0
    missed: float = 0.0

    def __add__(self, other: Kept) -> Kept:
        return Kept(self.wanted + other.wanted, self.along + other.along, self.missed + other.missed)

    @property
    def share(self) -> float | None:
        """How much of the delta is in what arrived, 1 for all of it; None where there is none."""
        return self.along / self.wanted if self.wanted else None

    @property
    def lost(self) -> float:
        """How far what arrived is from the delta, as a share of the delta's length."""
        return math.sqrt(self.missed / self.wanted) if self.wanted else 0.0


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What was written, as it was read back.

    Attributes:
        kept: Of the whole delta.
        base_kept: What the base's own dtype would have kept.
        base_dtype: That dtype: "bfloat16".
        matrices: How many carry the adapter.
        widened: Of these, how many are written in float32 instead.
    """

    kept: Kept
    base_kept: Kept
    base_dtype: str
    matrices: int
    widened: int


def write_merged(
    source: Path,
    target: Path,
    adapter: Adapter,
    shape: AdapterShape,
    *,
    shard_bytes: int = SHARD_BYTES,
    notify: Notify = lambda done, total: None,
) -> MergeReport:
    """Writes a model folder as ``AutoModelForCausalLM.from_pretrained`` reads it, without any adapter.

    Tensors that the adapter does not touch are written as they are, byte for byte.

    Args:
        source: The base model's folder.
        target: An existing, empty folder.
        adapter: Tensors that fit ``shape``.
        shape: The adapter's shape.
        shard_bytes: Most bytes of tensors in one file.
        notify: Told how many tensors of how many are done.

    Raises:
        ModelError: The weights are not those that the adapter is for, or do not hold the delta even in float32.
        StoreError: The adapter does not fit its shape.
    """
    shape.check(adapter)
    with ExitStack() as stack:
        base = _Base(source, stack)
        merger = _Merger(base, adapter, shape)
        files = _write_shards(base.names, merger.tensor, target, shard_bytes, notify)
        read_back = _read_back(base, merger, target, files)
        if read_back.lost > MOST_LOST:
            raise ModelError(
                f"{read_back.lost:.0%} of the adapter is too small to be added to the weights, even in float32",
                "write it as an adapter, which loses nothing: --peft DIR",
            )
    _copy_texts(source, target, widened=merger.widened > 0)
    return MergeReport(read_back, merger.base_kept, merger.base_dtype, len(merger.touched), merger.widened)


class _Base:
    """The tensors of a model folder by name, read when they are asked for."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._files: dict[str, Any] = {}
        for path in _weight_files(folder):
            file = stack.enter_context(safe_open(path, framework="pt"))
            self._files |= dict.fromkeys(file.keys(), file)
        self.names = sorted(self._files)

    def tensor(self, name: str) -> torch.Tensor:
        if name not in self._files:
            raise ModelError(
                f"the weights have no {name}, which the adapter changes",
                "write it as an adapter instead: --peft DIR",
            )
        found: torch.Tensor = self._files[name].get_tensor(name)
        return found


def _weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads; some models come with the same weights once more, under other names."""
    single = folder / _shard(1, 1)
    if single.is_file():
        return [single]
    if (folder / _INDEX).is_file():
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        return sorted({folder / name for name in index["weight_map"].values()})
    return sorted(folder.glob("*.safetensors"))


class _Merger:
    """Adds the adapter to the weights, tensor by tensor, and keeps count."""

    def __init__(self, base: _Base, adapter: Adapter, shape: AdapterShape) -> None:
        self._base = base
        self._adapter = adapter
        self._scale = shape.alpha / shape.rank
        self.touched = {f"{path}.weight": path for path in shape.targets}
        self.base_kept, self.base_dtype, self.widened = Kept(), "", 0
        for name in self.touched:
            base.tensor(name)  # before anything is written

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor as it is to be written."""
        weight = self._base.tensor(name)
        if name not in self.touched:
            return weight
        self.base_dtype = self.base_dtype or str(weight.dtype).removeprefix("torch.")
        merged, in_base = torch.empty(weight.shape, dtype=torch.float32), Kept()
        for rows, exact, delta in self.blocks(name, weight):
            merged[rows] = (exact + delta).float()
            in_base += _kept((exact + delta).to(weight.dtype).double() - exact, delta)
        self.base_kept += in_base
        if in_base.lost <= MOST_LOST:
            return merged.to(weight.dtype)
        self.widened += weight.dtype != torch.float32
        return merged

    def blocks(self, name: str, weight: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Some rows at a time: which, the weight ``[rows, in]`` and what is added to it, in float64."""
        path = self.touched[name]
        down, up = (torch.from_numpy(self._adapter[f"{path}.{part}"]).double() for part in ("lora_A", "lora_B"))
        if weight.shape != (up.shape[0], down.shape[1]):
            found, wanted = list(weight.shape), [up.shape[0], down.shape[1]]
            raise ModelError(
                f"{name} is {found} in the weights, and {wanted} for the adapter", "put the right model back"
            )
        for start in range(0, len(weight), _ROWS):
            rows = slice(start, start + _ROWS)
            yield rows, weight[rows].double(), (up[rows] @ down) * self._scale


def _kept(arrived: torch.Tensor, delta: torch.Tensor) -> Kept:
    along = float((arrived * delta).sum())
    return Kept(float(delta.square().sum()), along, float((arrived - delta).square_().sum()))


def _write_shards(
    names: list[str], tensor: Callable[[str], torch.Tensor], target: Path, most_bytes: int, notify: Notify
) -> dict[str, str]:
    """Writes all tensors, some at a time; returns the file of each."""
    shards: list[list[str]] = []
    held: dict[str, torch.Tensor] = {}

    def write() -> None:
        shards.append(list(held))
        save_file(held, target / _shard(len(shards), 0), metadata={"format": "pt"})
        held.clear()

    size = total = 0
    for done, name in enumerate(names):
        made = tensor(name)
        size, total = size + made.nbytes, total + made.nbytes
        if held and size > most_bytes:
            write()
            size = made.nbytes
        held[name] = made
        del made
        notify(done + 1, len(names))
    write()
    return _name_shards(target, shards, total)


def _shard(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _name_shards(target: Path, shards: list[list[str]], total_bytes: int) -> dict[str, str]:
    """Gives the files their names, which say how many there are, and writes the index that several need."""
    files: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        (target / _shard(number, 0)).rename(target / _shard(number, len(shards)))
        files |= dict.fromkeys(names, _shard(number, len(shards)))
    if len(shards) > 1:
        index = {"metadata": {"total_size": total_bytes}, "weight_map": files}
        (target / _INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return files


def _read_back(base: _Base, merger: _Merger, target: Path, files: dict[str, str]) -> Kept:
    """Compares what the files hold with what was meant.

    Raises:
        ModelError: A tensor is not the one that was written.
    """
    kept = Kept()
    for file in sorted(set(files.values())):
        with safe_open(target / file, framework="pt") as written:
            for name in written.keys():  # noqa: SIM118 - it is no mapping
                found, weight = written.get_tensor(name), base.tensor(name)
                if name in merger.touched:
                    for rows, exact, delta in merger.blocks(name, weight):
                        kept += _kept(found[rows].double() - exact, delta)
                elif found.dtype != weight.dtype or not torch.equal(_raw(found), _raw(weight)):
                    raise ModelError(f"{name} was read back as something else", "look at the disk, and try again")
    return kept


def _raw(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def _copy_texts(source: Path, target: Path, *, widened: bool) -> None:
    """Copies configuration, tokenizer, chat template and licence; the dtype to load in becomes the widest there is."""
    for pattern in _COPIED:
        for path in sorted(source.glob(pattern)):
            is_other = path.name.endswith(".index.json") or path.name.startswith("adapter_")
            if path.is_file() and not is_other:
                shutil.copyfile(path, target / path.name)
    if widened:
        config = json.loads((target / "config.json").read_text(encoding="utf-8"))
        config |= {"dtype": "float32"} | ({"torch_dtype": "float32"} if "torch_dtype" in config else {})
        (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
