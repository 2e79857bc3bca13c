"""Files and folders that are written for others: under another name first, and there whole or not at all.

What is being written lies in a folder `.spearctl-export.*` beside its target, which the process that writes holds a
lock on. One that nobody holds was left by a process that was killed; whoever writes beside it next removes it.

Not covered: a file system without `flock`, where such folders stay; and a name that somebody takes in the instant
between the last look and the rename.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import permutations
from pathlib import Path

from spearctl.errors import HomeError, UsageError
from spearctl.text import tilde

PREFIX = ".spearctl-export."


def refuse_existing(path: Path) -> None:
    """Refuses a name that is taken.

    Raises:
        UsageError: Something is there.
    """
    if os.path.lexists(path):
        raise UsageError(f"{path} exists", "choose a new name: nothing is written over")


def refuse_conflicts(targets: Sequence[Path]) -> None:
    """Refuses names that are taken, equal, or within each other.

    Raises:
        UsageError: One is.
    """
    for one, other in permutations(targets, 2):
        if one == other:
            raise UsageError("two targets have the same name", "give each a name of its own")
        if one.is_relative_to(other):
            raise UsageError(f"{one} lies within {other}", "name places that are apart: each is written whole")
    for target in targets:
        refuse_existing(target)


@contextmanager
def written(targets: Sequence[Path]) -> Iterator[list[Path]]:
    """Yields a folder or file name to write for each target; when the block is done, all are given their names.

    Args:
        targets: Absolute, and without conflicts; what each is in the end is up to the block.

    Raises:
        UsageError: Something has one of the names.
        HomeError: The disk is full, or the place cannot be written to.
    """
    from safetensors import SafetensorError

    with ExitStack() as stack:
        try:
            folders = [stack.enter_context(_scratch(target.parent)) for target in targets]
            yield [folder / "written" for folder in folders]
            for folder in folders:
                _flush_all(folder / "written")
            for folder, target in zip(folders, targets, strict=True):
                refuse_existing(target)
                os.rename(folder / "written", target)
                _flush(target.parent)
        except (OSError, SafetensorError) as error:
            place = getattr(error, "filename", None)
            if place and not _is_written(Path(str(place)), targets):
                raise
            reason = getattr(error, "strerror", None) or str(error)
            names = ", ".join(tilde(target) for target in targets)
            raise HomeError(
                f"{names}: cannot be written: {reason}", "free some disk space, or choose a place that you can write to"
            ) from error


def _is_written(place: Path, targets: Sequence[Path]) -> bool:
    """Whether a file or folder is one that is written here, not one that is read."""
    return any(part.startswith(PREFIX) for part in place.parts) or any(t.is_relative_to(place) for t in targets)


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A folder to write in, locked while the block runs, and gone after it."""
    parent.mkdir(parents=True, exist_ok=True)
    _remove_left(parent)
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=PREFIX))
        with suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # no locks here; then nobody finds it unlocked either
                fcntl.flock(handle, fcntl.LOCK_EX)
            if folder.exists():
                break
            os.close(handle)  # somebody took it for one that was left, before it was locked
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _remove_left(parent: Path) -> None:
    """Removes what processes that were killed left unfinished."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # somebody's who still writes, or not ours to remove
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(handle).st_uid == os.geteuid():
                    shutil.rmtree(folder)
            finally:
                os.close(handle)


def _flush_all(path: Path) -> None:
    mask = os.umask(0o077)
    os.umask(mask)
    for found in (*(path.rglob("*") if path.is_dir() else ()), path):
        # Some libraries make files for their owner alone; what others may read is the person's to say.
        found.chmod((0o777 if found.is_dir() else 0o666) & ~mask)
        _flush(found)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
