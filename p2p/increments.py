"""What trainers leave for the node: one file an increment, in a folder of the home.

A file is written whole (temporary name, flush, rename) and removed only after the node has it safely in its ledger,
which takes every id once. So a trainer and a node that never meet, or die at any point, lose nothing and count nothing
twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from p2p.errors import LedgerError, PayloadError

_SUFFIX = ".safetensors"
_REFUSED = ".refused"
_TENSOR = "increment"


@dataclass(frozen=True, slots=True)
class Increment:
    """What a trainer learned.

    Attributes:
        path: Its file.
        id: Unique.
        wins: What it was learned from.
        base: The head round of the state that it was learned on.
        values: ``[parameters]``, all tensors of the adapter in order of their names, each row by row.
    """

    path: Path
    id: str
    wins: int
    base: int
    values: npt.NDArray[np.float32]


def write_increment(folder: Path, id: str, values: npt.NDArray[np.float32], wins: int, base: int) -> Path:
    """Leaves an increment; one of the same id is replaced.

    Raises:
        LedgerError: It cannot be written.
    """
    metadata = {"id": id, "wins": str(wins), "base": str(base)}
    raw = save({_TENSOR: np.ascontiguousarray(values, dtype="<f4")}, metadata=metadata)
    path = folder / f"{id}{_SUFFIX}"
    scratch = folder / f".{id}.writing"  # one name, so that what a killed trainer left is written over
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
        _flush(folder)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise LedgerError(
            f"{path}: cannot be written: {error.strerror}", "free some disk space and try again"
        ) from error
    return path


def waiting(folder: Path) -> tuple[Path, ...]:
    """The files of all increments, oldest first."""
    found = []
    for path in folder.glob(f"*{_SUFFIX}") if folder.is_dir() else ():
        with suppress(FileNotFoundError):  # the node has just taken it
            found.append((path.stat().st_mtime_ns, path))
    return tuple(path for _, path in sorted(found))


def read_increments(folder: Path, parameters: int) -> Iterator[Increment]:
    """All increments that can be read, for who only looks: the others stay where they are.

    Args:
        folder: Holds them; need not be there.
        parameters: Length of each.
    """
    for path in waiting(folder):
        with suppress(PayloadError):
            yield read_increment(path, parameters)


def refuse(path: Path) -> None:
    """Puts a file that is no increment for this swarm aside, under a name that says so."""
    path.rename(path.with_suffix(_REFUSED))


def refused(folder: Path) -> tuple[Path, ...]:
    """Files that were put aside."""
    return tuple(sorted(folder.glob(f"*{_REFUSED}"))) if folder.is_dir() else ()


def read_increment(path: Path, parameters: int) -> Increment:
    """One increment.

    Raises:
        PayloadError: It is damaged, or of another shape.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            values = file.get_tensor(_TENSOR)
        wins = int(metadata["wins"])
        base = int(metadata["base"])
        id = metadata["id"]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise PayloadError(f"{path}: no readable increment: {error}") from error
    is_sound = values.shape == (parameters,) and values.dtype == np.float32 and bool(np.isfinite(values).all())
    if not is_sound or min(wins, base) < 0:
        raise PayloadError(f"{path}: an increment of another adapter, or with values that are no numbers")
    return Increment(path, id, wins, base, values)


def read_wins(path: Path) -> int:
    """The wins of an increment, without its values; 0 if it cannot be read."""
    try:
        with safe_open(path, framework="numpy") as file:
            return int((file.metadata() or {})["wins"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return 0


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
