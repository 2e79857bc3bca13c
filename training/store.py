"""Adapter versions on disk: immutable PEFT folders, one a version, known to the history.

A version is written beside the others, flushed, renamed into place and only then recorded. Folders that the history
does not know (a crash left them) are removed the next time something is trained. It does not defend against somebody
who can write into the home; it notices when a version's bytes are not the ones that were recorded.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from safetensors import SafetensorError

from training.adapters import (
    Adapter,
    AdapterShape,
    adapter_digest,
    initial_adapter,
    read_peft_folder,
    write_peft_folder,
)
from training.errors import StoreError
from training.faults import reach
from training.history import BASE, History, NewVersion

KEPT_VERSIONS = 20
"""Older versions are deleted, except the current one."""

_SCRATCH = "writing"


class AdapterStore:
    """The versions of one home.

    Args:
        folder: Holds a folder a version; created when missing.
        history: Knows which versions exist and which is current.
        base_model: Reference recorded in every version for other tools.
        fingerprint: The base model's; the start depends on it.
        shape: Of every adapter in here.
        dropout: LoRA dropout recorded in every version.
    """

    def __init__(
        self, folder: Path, history: History, *, base_model: str, fingerprint: str, shape: AdapterShape, dropout: float
    ) -> None:
        self._folder = folder
        self._history = history
        self._base_model = base_model
        self._fingerprint = fingerprint
        self._shape = shape
        self._dropout = dropout

    def path(self, name: str) -> Path:
        """The PEFT folder of a version.

        Raises:
            UnknownAdapterError: There is no such version; ``base`` has no folder.
        """
        return self._numbered(self._history.version(name).number)

    def load(self, name: str) -> Adapter:
        """A version's tensors; those of ``base`` are the specified start.

        Raises:
            UnknownAdapterError: There is no such version.
            StoreError: It is damaged, or made for another model.
        """
        if name == BASE:
            return initial_adapter(self._fingerprint, self._shape)
        version = self._history.version(name)
        adapter = read_peft_folder(self._numbered(version.number))
        if adapter_digest(adapter) != version.sha256:
            raise StoreError(
                f"adapter {name} is damaged: its bytes are not the ones that were saved",
                "choose another version (spearctl adapter list), or go back: spearctl adapter rollback",
            )
        self._shape.check(adapter)
        return adapter

    def write(self, adapter: Adapter, *, parent: str, wins: int) -> NewVersion:
        """Puts a new version on disk, flushed. It exists once :meth:`History.commit` has recorded what this returns."""
        number = self._history.next_version()
        target, scratch = self._numbered(number), self._folder / _SCRATCH
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for leftover in (scratch, target):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            scratch.mkdir()
            write_peft_folder(scratch, adapter, self._shape, base_model=self._base_model, dropout=self._dropout)
            for path in (*scratch.iterdir(), scratch):
                _flush(path)
            reach("store.after-write")
            os.rename(scratch, target)
            _flush(self._folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(scratch, ignore_errors=True)
            reason = getattr(error, "strerror", None) or str(error)
            raise StoreError(
                f"{target}: the adapter cannot be written: {reason}", "free some disk space, then train again"
            ) from error
        reach("store.after-rename")
        size = sum(path.stat().st_size for path in target.iterdir())
        return NewVersion(number, parent, wins, adapter_digest(adapter), size)

    def tidy(self) -> None:
        """Deletes what the history does not know and all but the newest versions. Only for the holder of the lock."""
        kept = {version.name: version.number for version in self._history.versions() if version.present}
        old = [name for name in list(kept)[:-KEPT_VERSIONS] if name != self._history.current]
        self._history.mark_deleted(old)
        reach("store.after-prune")
        wanted = {self._numbered(number) for name, number in kept.items() if name not in old}
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if path not in wanted:
                shutil.rmtree(path, ignore_errors=True)

    def _numbered(self, number: int) -> Path:
        return self._folder / f"local-{number}"


def rollback(history: History, steps: int = 1) -> str:
    """Makes the ``steps``-th ancestor of the current version current, and returns its name.

    Raises:
        StoreError: There are not so many ancestors.
        UnknownAdapterError: That ancestor was deleted.
    """
    parents = {version.name: version.parent for version in history.versions()}
    name = history.current
    for taken in range(steps):
        if name == BASE:
            raise StoreError(
                f"cannot go back {steps} versions: {taken} lead to the base model", "see them: spearctl adapter list"
            )
        name = parents[name]
        if name.startswith("round:"):
            raise StoreError(
                f"cannot go back {steps} versions: what lies before was taken over from a swarm",
                "see what there is: spearctl adapter list",
            )
    history.use(name)
    return name


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
