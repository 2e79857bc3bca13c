"""An adapter that somebody made elsewhere: a PEFT folder, checked before it is believed.

What is in the folder is untrusted. Only safetensors are read, sizes are looked at before anything is, and whatever in
the configuration would make PEFT compute something else than W + (alpha / r) B A is refused by name.

Not covered: whether the adapter is any good, and whether it was trained on the model that it names.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.adapters import CONFIG_FILE, PEFT_PREFIX, WEIGHTS_FILE, Adapter, AdapterShape, canonical
from training.errors import AdapterError

FACTS_FILE = "spearctl.json"
"""What an export of this program says of itself beside PEFT's files: two base models may go by one name."""

FINGERPRINT_KEY = "base_model.fingerprint"

MOST_CONFIG_BYTES = 1 << 20
MOST_HEADER_BYTES = 1 << 24
FURTHEST = 7.0
"""No value may be further from 0: no trained adapter goes there, and what a swarm shares ends at 8."""

_PICKLED = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth")
_DTYPES = ("F32", "F16", "BF16")
_HARMLESS_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Ways to draw a start that leave the base weights alone."""

_HARMLESS = frozenset(
    {
        *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "runtime_config", "megatron_core", "qalora_group_size", "ensure_weight_tying"),
        *("r", "lora_alpha", "lora_dropout", "bias", "init_lora_weights"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    }
)
"""What may be set: it is checked by itself, says which tensors there are, or counts only while PEFT trains. Whatever
else is set, also what a later PEFT calls something that is not known here, may change the sum."""

_MEND = "make the adapter with the settings of an own one, which this shows: spearctl export --peft DIR"


@dataclass(frozen=True, slots=True)
class Incoming:
    """An adapter from elsewhere whose shape is right.

    Attributes:
        adapter: Its tensors, float32.
        base_model: What its configuration calls the base model; any text.
        fingerprint: Of its base model, where the folder says.
    """

    adapter: Adapter
    base_model: str
    fingerprint: str | None


def read_incoming(folder: Path, shape: AdapterShape) -> Incoming:
    """Reads a PEFT folder.

    Args:
        folder: Holds `adapter_config.json` and `adapter_model.safetensors`.
        shape: What its adapter must have.

    Raises:
        AdapterError: It is none, or not of this shape: the message names the first thing that differs.
    """
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "is not there"
        raise AdapterError(f"{folder} {what}", f"name a folder that holds {CONFIG_FILE} and {WEIGHTS_FILE}")
    config = _read_config(folder / CONFIG_FILE)
    _check_config(folder / CONFIG_FILE, config, shape)
    weights = folder / WEIGHTS_FILE
    pickled = [name for name in _PICKLED if (folder / name).exists()]
    if pickled and not weights.exists():
        raise AdapterError(
            f"{folder} holds only pickled weights ({pickled[0]}), and loading a pickle runs whatever code is in it",
            f"have PEFT save it again with safe_serialization=True, which writes {WEIGHTS_FILE}",
        )
    parameters = sum(tensor.rows * tensor.columns for tensor in shape.tensors)
    _check_size(weights, 4 * parameters + MOST_HEADER_BYTES)
    adapter = _read_weights(weights, shape)
    facts = _read_config(folder / FACTS_FILE) if (folder / FACTS_FILE).exists() else {}
    base_model, fingerprint = config.get("base_model_name_or_path"), facts.get(FINGERPRINT_KEY)
    return Incoming(
        adapter,
        base_model if isinstance(base_model, str) else "",
        None if fingerprint is None else str(fingerprint),
    )


def _check_size(path: Path, most_bytes: int) -> None:
    try:
        found = os.stat(path)
    except OSError as error:
        what = "is missing" if error.errno == errno.ENOENT else f"cannot be read: {error.strerror}"
        raise AdapterError(f"{path} {what}", f"name a folder that holds {CONFIG_FILE} and {WEIGHTS_FILE}") from error
    if not stat.S_ISREG(found.st_mode):
        raise AdapterError(f"{path} is no regular file", "copy it to a file first")
    if found.st_size > most_bytes:
        raise AdapterError(
            f"{path} has {found.st_size:,} bytes, and an adapter of this home's shape at most {most_bytes:,}", _MEND
        )


def _read_config(path: Path) -> dict[str, Any]:
    _check_size(path, MOST_CONFIG_BYTES)
    try:
        with path.open("rb") as file:
            config = json.loads(file.read(MOST_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path}: not readable as JSON: {error}", "have PEFT save the adapter again") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{path}: not a JSON object", "have PEFT save the adapter again")
    return config


def _check_config(path: Path, config: Mapping[str, Any], shape: AdapterShape) -> None:
    wanted = {"peft_type": "LORA", "r": shape.rank, "lora_alpha": shape.alpha}
    for key, value in wanted.items():
        if config.get(key) != value:
            raise AdapterError(f"{path}: {key} is {_shown(config.get(key))}, and {_shown(value)} here", _MEND)
    if config.get("bias", "none") != "none":
        raise AdapterError(f'{path}: bias is {_shown(config["bias"])}, and "none" here', _MEND)
    for key, value in config.items():
        if value and key not in _HARMLESS:
            raise AdapterError(f"{path}: {key[:60]} is {_shown(value)}, and not used here", _MEND)
    start = config.get("init_lora_weights")
    if not any(start is known or (isinstance(start, str) and start == known) for known in _HARMLESS_STARTS):
        raise AdapterError(
            f"{path}: init_lora_weights is {_shown(start)}, which may have changed the base weights too",
            "have PEFT convert it: save_pretrained takes path_initial_model_for_weight_conversion",
        )


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _read_weights(path: Path, shape: AdapterShape) -> Adapter:
    from safetensors import SafetensorError, safe_open

    adapter: Adapter = {}
    try:
        with safe_open(path, framework="pt") as file:  # numpy knows no bfloat16
            for difference in _differences(file, shape):
                raise AdapterError(f"{path}: {difference}", _MEND)
            for tensor in shape.tensors:
                values = file.get_tensor(_stored(tensor.name)).float().numpy()
                furthest = float(np.abs(values).max())
                if not furthest <= FURTHEST:  # NaN is not
                    what = f"as far from 0 as {furthest:g}" if np.isfinite(furthest) else "that are no numbers"
                    raise AdapterError(
                        f"{path}: {_stored(tensor.name)} has values {what}", "this adapter is damaged: take another"
                    )
                adapter[tensor.name] = values
    except (OSError, SafetensorError) as error:
        raise AdapterError(
            f"{path}: not readable as safetensors: {error}", "fetch or save the adapter again"
        ) from error
    return canonical(adapter)


def _stored(name: str) -> str:
    return f"{PEFT_PREFIX}{name}.weight"


def _differences(file: Any, shape: AdapterShape) -> Iterator[str]:
    """What differs from the shape, in order of the tensors' names; the header alone is read."""
    wanted = {_stored(tensor.name): [tensor.rows, tensor.columns] for tensor in shape.tensors}
    there = set(file.keys())
    for name in sorted(wanted.keys() | there):
        if name not in there:
            yield f"{name} is missing: this home's adapters change {len(shape.targets)} layers"
        elif name not in wanted:
            yield f"{_shown(name)} is there, and in no adapter of this home"
        else:
            found = file.get_slice(name)
            if found.get_shape() != wanted[name]:
                yield f"{name} is {found.get_shape()}, and {wanted[name]} here"
            elif found.get_dtype() not in _DTYPES:
                yield f"{name} is of type {found.get_dtype()}, not one of {', '.join(_DTYPES)}"
