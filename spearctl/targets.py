"""Files and folders that are written for others: under another name first, and there whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from spearctl.errors import HomeError, UsageError
from spearctl.text import tilde


def refuse_existing(path: Path) -> None:
    """Refuses a name that is taken.

    Raises:
        UsageError: Something is there.
    """
    if os.path.lexists(path):
        raise UsageError(f"{path} exists", "choose a new name: nothing is written over")


@contextmanager
def written(targets: Sequence[Path]) -> Iterator[list[Path]]:
    """Yields a folder or file name to write for each target; when the block is done, all are given their names.

    Args:
        targets: Absolute, and different; what each is in the end is up to the block.

    Raises:
        UsageError: Something has one of the names.
        HomeError: The disk is full, or the place cannot be written to.
    """
    from safetensors import SafetensorError

    scratch: list[Path] = []
    try:
        for target in targets:
            refuse_existing(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch.append(Path(tempfile.mkdtemp(dir=target.parent, prefix=".export.")))
        yield [folder / "written" for folder in scratch]
        for folder in scratch:
            _flush_all(folder / "written")
        for folder, target in zip(scratch, targets, strict=True):
            refuse_existing(target)
            os.rename(folder / "written", target)
            _flush(target.parent)
    except (OSError, SafetensorError) as error:
        place = getattr(error, "filename", None)
        if place and not any(str(place).startswith(str(target.parent)) for target in targets):
            raise  # something that is read
        reason = getattr(error, "strerror", None) or str(error)
        names = ", ".join(tilde(target) for target in targets)
        raise HomeError(
            f"{names}: cannot be written: {reason}", "free some disk space, or choose a place that you can write to"
        ) from error
    finally:
        for folder in scratch:
            shutil.rmtree(folder, ignore_errors=True)


def _flush_all(path: Path) -> None:
    for found in (*(path.rglob("*") if path.is_dir() else ()), path):
        found.chmod(0o755 if found.is_dir() else 0o644)  # some libraries make files for their owner alone
        _flush(found)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
