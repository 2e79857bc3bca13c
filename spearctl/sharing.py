"""Between a device's own learning and the swarm's: what a home uses, what it takes along, what it hands to the node.

A member uses the swarm's state, plus what it has pending, plus what it has learned and the node has not taken yet.
Every version that it trains is handed over as an increment, the difference to the version it was trained from, named by
the version's own digest: handing one over twice counts once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spearctl import swarm
from spearctl.config import Config, write_text
from spearctl.errors import HomeLockedError, NodeFailedError
from spearctl.run import Run
from spearctl.shapes import fits, flat, shape_of, shaped
from spearctl.text import count

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from p2p.moving import Luggage
    from training.adapters import Adapter, AdapterShape
    from training.history import History
    from training.store import AdapterStore

    Flat = npt.NDArray[np.float32]

UNFIT = "the swarm has another model or adapter than this home: its node passes on what others learn, and no more"

BASE = "base"

NO_MEMBER = "this device is no member of the swarm any more, so what it learns stays here"

_MARKER = ".handed-over"
_KEPT = "kept"


def takes_part(run: Run, config: Config) -> bool:
    """Whether this home belongs to a swarm that can use what it learns.

    Raises:
        LedgerError: The ledger is damaged.
    """
    genesis = swarm.genesis(run)
    return genesis is not None and fits(genesis, config)


@dataclass(frozen=True, slots=True)
class Shared:
    """What a member uses.

    Attributes:
        adapter: The swarm's state and everything of its own on top.
        head_round: The round that the state is of.
    """

    adapter: Adapter
    head_round: int


def shared(run: Run, config: Config) -> Shared | None:
    """What this home uses as a member; None if it belongs to no swarm, or to one that cannot use what it learns.

    Raises:
        LedgerError: The ledger is damaged.
    """
    import numpy as np

    from p2p.increments import read_increments
    from training.adapters import initial_adapter

    genesis, places = swarm.genesis(run), swarm.places(run)
    if genesis is None or not fits(genesis, config):
        return None
    # Read before the ledger: what the node takes meanwhile is in there, and known to be.
    folders = (places.outbox, places.outbox / _KEPT)
    waiting = {found.id: found for folder in folders for found in read_increments(folder, genesis.parameters)}
    with swarm.view(run, waiting) as view:
        values = view.learned().astype(np.float64)
        taken, head = view.taken, view.context.replica.head
    for id, increment in waiting.items():
        if id not in taken:
            values += increment.values
    shape = shape_of(genesis)
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

    What a run left undone that was killed is dealt with as that run meant to. A version that is damaged is passed over.

    Args:
        run: Whose home.
        store: The home's versions.
        history: The home's history.
        keep: Whether this run's versions stay where the node does not take them.
    """
    from p2p.increments import write_increment
    from training.errors import StoreError

    outbox, wins = swarm.places(run).outbox, 0
    outbox.mkdir(mode=0o700, exist_ok=True)
    versions, marker = history.versions(), _read_marker(outbox)
    last = versions[-1].number if versions else 0
    if marker.done > last:  # a history that was put aside took its numbers along
        marker = _mark(outbox, _Marker(last, marker.keep))
    folder = outbox / _KEPT if marker.keep else outbox
    parents = {version.name: version.parent for version in versions}
    for version in versions:
        if version.number <= marker.done or version.parent.startswith("round:"):
            continue
        try:
            values = flat(store.load(version.name)) - flat(store.load(version.parent))
        except StoreError as error:
            run.say(f"{version.name} is not shared: {error.message}")
        else:
            write_increment(folder, version.sha256, values, version.wins, _base(version.parent, parents))
            wins += version.wins
        marker = _mark(outbox, _Marker(version.number, marker.keep))
    if marker.keep != keep:
        _mark(outbox, _Marker(marker.done, keep))
    return wins


def catch_up(run: Run, config: Config) -> None:
    """Hands over what a run left undone that was killed. Not while one goes on, nor from a history that is damaged.

    Raises:
        LedgerError: The ledger is damaged, or the disk is full.
    """
    from training.errors import StoreError
    from training.history import History

    genesis = swarm.genesis(run)
    if genesis is None or not fits(genesis, config):
        return
    with suppress(HomeLockedError, StoreError), run.home.training_lock("up"), History(run.home.history_path) as history:
        store = open_store(run, config, history, shape_of(genesis))
        hand_over(run, store, history, keep=_read_marker(swarm.places(run).outbox).keep)


def pass_over(run: Run, number: int) -> None:
    """Takes note that a version which is about to be made is never handed over, as all before it are by now."""
    outbox = swarm.places(run).outbox
    _mark(outbox, _Marker(number, _read_marker(outbox).keep))


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

    with suppress(P2PError, NodeFailedError):  # it looks by itself, only a little later
        swarm.ask(run, "wake")


def say_where(run: Run, wins: int, *, kept: bool, running: bool) -> str:
    """Says where the wins of a run are now.

    Args:
        run: Whose home.
        wins: How many; not 0.
        kept: Whether they are kept on this device.
        running: Whether the node runs.
    """
    what = count(wins, "win")
    with swarm.view(run) as view:
        is_member = view.overview["swarm"]["member"]
    if not is_member:
        return f"{what} shared with nobody: {NO_MEMBER}"
    if kept:
        return f"{what} kept on this device; to share later: {run.spell('train', '--share-kept')}"
    if running:
        return f"{what} handed to the node, which shares what was learned"
    return f"{what} waiting for the node, which does not run; to share them: {run.spell('up', '--detach')}"


def waiting(run: Run) -> int:
    """How many increments wait for the node."""
    from p2p import increments

    return len(increments.waiting(swarm.places(run).outbox))


def waiting_wins(run: Run, *, with_kept: bool = False) -> int:
    """How many wins wait for the node; on request, with those that are kept on this device."""
    from p2p import increments

    paths = (*increments.waiting(swarm.places(run).outbox), *(kept(run) if with_kept else ()))
    return sum(increments.read_wins(path) for path in paths)


def is_ahead(run: Run, pending_wins: int) -> bool:
    """Whether this member uses more than its swarm shares: something is pending, waits for the node, or is kept."""
    return bool(pending_wins or waiting(run) or kept(run))


def in_use(run: Run, config: Config, current: str) -> str:
    """What this home uses: the swarm's state for a member, else the version that its history names."""
    if not takes_part(run, config):
        return current
    with swarm.view(run) as view:
        return f"round:{view.context.replica.head}"


def luggage(run: Run, config: Config, shape: AdapterShape) -> Luggage | None:
    """What this home has learned so far, for the swarm that it enters; from then on versions are handed over.

    Only for the holder of the training lock.
    """
    from p2p.moving import Luggage
    from training.adapters import adapter_digest, initial_adapter
    from training.history import History

    with History(run.home.history_path) as history:
        current, versions = history.current, history.versions()
        stay_behind(run, history)
        if current == "base":
            return None
        adapter = open_store(run, config, history, shape).load(current)
    values = flat(adapter) - flat(initial_adapter(config.model_fingerprint, shape))
    made = {version.name: version for version in versions}
    wins = 0
    while current in made:
        wins, current = wins + made[current].wins, made[current].parent
    return Luggage(adapter_digest(adapter), values, max(1, wins))


def bring_back(run: Run, config: Config, shape: AdapterShape, known: str) -> bool:
    """Leaves what this home has learned since a version for the node of the swarm that has that one already.

    Only for the holder of the training lock. What does not come from that version stays behind, and so does everything
    if that was deleted to save space.

    Args:
        run: Whose home.
        config: Its settings.
        shape: Of its adapters.
        known: The version.

    Returns:
        Whether there is anything.
    """
    from p2p.increments import write_increment
    from training.adapters import adapter_digest
    from training.history import History

    with History(run.home.history_path) as history:
        current, versions = history.current, history.versions()
        stay_behind(run, history)
        made = {version.name: version for version in versions if version.present or version.name != known}
        name, wins = current, 0
        while name in made and name != known:
            name, wins = made[name].parent, wins + made[name].wins
        if name != known or known not in {BASE, *made} or current == known:
            return False
        store = open_store(run, config, history, shape)
        adapter = store.load(current)
        values = flat(adapter) - flat(store.load(known))
    base = _base(known, {version.name: version.parent for version in versions})
    write_increment(swarm.places(run).outbox, adapter_digest(adapter), values, max(1, wins), base)
    return True


def stay_behind(run: Run, history: History) -> None:
    """Takes note that no version that there is now is ever handed over, and none that an earlier try left is taken."""
    from p2p.increments import waiting

    versions, outbox = history.versions(), swarm.places(run).outbox
    outbox.mkdir(mode=0o700, exist_ok=True)
    for path in waiting(outbox):
        path.unlink()
    _mark(outbox, _Marker(versions[-1].number if versions else 0, keep=False))


def has_learned(run: Run) -> bool:
    """Whether this home uses something else than the base model."""
    from training.history import History

    with History(run.home.history_path) as history:
        return history.current != "base"


def shape(run: Run, config: Config) -> AdapterShape:
    """The shape of this home's adapters: its swarm's where that fits, else from the model's own files, by torch.

    Raises:
        ModelError: The model cannot be found or read.
    """
    genesis = swarm.genesis(run)
    if genesis is not None and fits(genesis, config):
        return shape_of(genesis)

    from training.models import LoraSettings
    from training.models import shape_of as shape_of_model
    from training.sources import resolve

    size = config.adapter
    source = resolve(config.model, run.cache, say=run.say)
    return shape_of_model(source, LoraSettings(size.rank, size.alpha, size.dropout))


def open_store(run: Run, config: Config, history: History, shape: AdapterShape) -> AdapterStore:
    """The home's adapter versions."""
    from training.store import AdapterStore

    return AdapterStore(
        run.home.adapters_path,
        history,
        base_model=config.model,
        fingerprint=config.model_fingerprint,
        shape=shape,
        dropout=config.adapter.dropout,
    )


@dataclass(frozen=True, slots=True)
class _Marker:
    """How far versions were handed over.

    Attributes:
        done: Number of the last one.
        keep: Whether the run that makes those above keeps them on this device.
    """

    done: int = 0
    keep: bool = False


def _read_marker(folder: Path) -> _Marker:
    try:
        words = (folder / _MARKER).read_text().split()
    except FileNotFoundError:
        return _Marker()
    return _Marker(int(words[0]), _KEPT in words)


def _mark(folder: Path, marker: _Marker) -> _Marker:
    write_text(folder / _MARKER, f"{marker.done} {_KEPT}" if marker.keep else str(marker.done))
    return marker
