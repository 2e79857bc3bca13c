"""Between a device's own learning and the swarm's: what a home uses, what it takes along, what it hands to the node.

A member uses the swarm's state, plus what it has pending, plus what it has learned and the node has not taken yet.
Every version that it trains is handed over as an increment, the difference to the version it was trained from, named by
the version's own digest: handing one over twice counts once.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spearctl import swarm
from spearctl.config import Config
from spearctl.run import Run

if TYPE_CHECKING:
    from p2p.moving import Luggage
    from p2p.records import Genesis
    from training.adapters import Adapter, AdapterShape
    from training.history import History
    from training.store import AdapterStore

Flat = npt.NDArray[np.float32]

_MARKER = ".handed-over"
_KEPT = "kept"


def flat(adapter: Mapping[str, Flat]) -> Flat:
    """All tensors in order of their names, row by row."""
    return np.concatenate([adapter[name].ravel() for name in sorted(adapter)])


def shaped(values: Flat, shape: AdapterShape) -> Adapter:
    """The opposite of `flat`."""
    sizes = [tensor.rows * tensor.columns for tensor in shape.tensors]
    parts = np.split(values, np.cumsum(sizes)[:-1])
    return {
        tensor.name: part.reshape(tensor.rows, tensor.columns).astype(np.float32)
        for tensor, part in zip(shape.tensors, parts, strict=True)
    }


def fits(genesis: Genesis, config: Config, shape: AdapterShape) -> bool:
    """Whether this home's adapters are the swarm's."""
    tensors = [(spec.name, spec.rows, spec.columns) for spec in genesis.tensors]
    return (
        genesis.fingerprint.hex() == config.model_fingerprint
        and (genesis.rank, genesis.alpha) == (shape.rank, shape.alpha)
        and tensors == [(tensor.name, tensor.rows, tensor.columns) for tensor in shape.tensors]
    )


@dataclass(frozen=True, slots=True)
class Shared:
    """What a member uses.

    Attributes:
        adapter: The swarm's state and everything of its own on top.
        head_round: The round that the state is of.
    """

    adapter: Adapter
    head_round: int


def shared(run: Run, config: Config, shape: AdapterShape) -> Shared | None:
    """What this home uses as a member; None if it belongs to no swarm, or to one of another model.

    Raises:
        LedgerError: The ledger is damaged.
        IdentityError: The keys are missing, damaged or locked.
    """
    from p2p import increments
    from training.adapters import initial_adapter

    places = swarm.places(run)
    if not places.is_member:
        return None
    with swarm.view(run) as view:
        if not fits(view.genesis, config, shape):
            return None
        values = view.learned().astype(np.float64)
        for folder in (places.outbox, places.outbox / _KEPT):
            for increment in increments.read_increments(folder, view.genesis.parameters):
                if not view.outbox.knows(increment.id):
                    values += increment.values
        head = view.context.replica.head
    start = flat(initial_adapter(config.model_fingerprint, shape)).astype(np.float64)
    return Shared(shaped((start + values).astype(np.float32), shape), head)


def take_over(store: AdapterStore, history: History, found: Shared) -> None:
    """Makes what the swarm knows a version of this home, and the current one, unless it is already."""
    from training.adapters import adapter_digest

    current = history.current
    known = adapter_digest(store.load("base")) if current == "base" else history.version(current).sha256
    if known != adapter_digest(found.adapter):
        history.adopt(store.write(found.adapter, parent=f"round:{found.head_round}", wins=0))


def hand_over(run: Run, store: AdapterStore, history: History, *, keep: bool) -> int:
    """Leaves every version that was not handed over yet for the node; how many wins that was.

    Args:
        run: Whose home.
        store: The home's versions.
        history: The home's history.
        keep: Leave them where the node does not take them.
    """
    from p2p.increments import write_increment

    places, wins = swarm.places(run), 0
    folder = places.outbox / _KEPT if keep else places.outbox
    places.outbox.mkdir(mode=0o700, exist_ok=True)
    done = _marker(places.outbox)
    parents = {version.name: version.parent for version in history.versions()}
    for version in history.versions():
        if version.number <= done or version.parent.startswith("round:"):
            continue
        if version.present:
            values = flat(store.load(version.name)) - flat(store.load(version.parent))
            write_increment(folder, version.sha256, values, version.wins, _base(version.parent, parents))
            wins += version.wins
        _mark(places.outbox, version.number)
    return wins


def _base(name: str, parents: Mapping[str, str]) -> int:
    """The head round of the state that a version goes back to; 0 for the beginning."""
    while name in parents:
        name = parents[name]
    return int(name.removeprefix("round:")) if name.startswith("round:") else 0


def kept(run: Run) -> tuple[Path, ...]:
    """What was learned with `--no-share` and is still kept."""
    from p2p.increments import waiting

    return waiting(swarm.places(run).outbox / _KEPT)


def share_kept(run: Run) -> int:
    """Leaves what was kept for the node; how many increments that was."""
    found = kept(run)
    for path in found:
        os.replace(path, path.parent.parent / path.name)
    return len(found)


def wake(run: Run) -> None:
    """Tells the node, if it runs, that something waits for it."""
    from p2p.errors import P2PError

    with suppress(P2PError):  # it looks by itself, only a little later
        swarm.ask(run, "wake")


def waiting(run: Run) -> int:
    """How many increments wait for the node."""
    from p2p import increments

    return len(increments.waiting(swarm.places(run).outbox))


def waiting_wins(run: Run) -> int:
    """How many wins wait for the node."""
    from p2p import increments

    return sum(increments.read_wins(path) for path in increments.waiting(swarm.places(run).outbox))


def luggage(run: Run) -> Luggage | None:
    """What this home has learned so far, for the swarm that it enters; from then on versions are handed over."""
    from p2p.moving import Luggage
    from training.adapters import adapter_digest, initial_adapter
    from training.history import History
    from training.store import AdapterStore

    config = run.config()
    with History(run.home.history_path) as history:
        versions = history.versions()
        outbox = swarm.places(run).outbox
        outbox.mkdir(mode=0o700, exist_ok=True)
        if history.current == "base":
            _mark(outbox, versions[-1].number if versions else 0)
            return None
        own_shape = shape(run, config)
        store = AdapterStore(
            run.home.adapters_path,
            history,
            base_model=config.model,
            fingerprint=config.model_fingerprint,
            shape=own_shape,
            dropout=config.adapter.dropout,
        )
        adapter = store.load(history.current)
        values = flat(adapter) - flat(initial_adapter(config.model_fingerprint, own_shape))
        wins = sum(version.wins for version in versions)
        _mark(outbox, versions[-1].number)
    return Luggage(adapter_digest(adapter), values, max(1, wins))


def has_learned(run: Run) -> bool:
    """Whether this home uses something else than the base model."""
    from training.history import History

    with History(run.home.history_path) as history:
        return history.current != "base"


def shape(run: Run, config: Config) -> AdapterShape:
    """The shape of this home's adapters, from the model's own files.

    Raises:
        ModelError: The model cannot be found or read.
    """
    from training.adapters import AdapterShape, tensor_shapes

    found = swarm.tensors(run, config)
    return AdapterShape(
        config.adapter.rank,
        config.adapter.alpha,
        tensor_shapes((name, (rows, columns)) for name, rows, columns in found),
    )


def _marker(folder: Path) -> int:
    try:
        return int((folder / _MARKER).read_text())
    except FileNotFoundError:
        return 0


def _mark(folder: Path, number: int) -> None:
    handle, scratch = tempfile.mkstemp(dir=folder, prefix=_MARKER)
    with open(handle, "w") as file:
        file.write(str(number))
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, folder / _MARKER)
