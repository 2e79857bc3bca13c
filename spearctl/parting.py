"""What a home takes out of a swarm that it leaves, and what it takes back into it.

As a member it used the swarm's state with its own learning on top. Both become adapter versions here, one after the
other, so that what was the swarm's and what is its own can still be told apart: should the home join that swarm again,
only the second is news there.

    .left    a line a swarm that was left: its genesis hash and the version that is its state
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spearctl import shapes, sharing, swarm
from spearctl.config import Config, write_text
from spearctl.run import Run

if TYPE_CHECKING:
    from training.adapters import Adapter, AdapterShape

_FILE = ".left"


def settle(run: Run, config: Config) -> str | None:
    """Makes what this home uses as a member a version of its own, and the current one.

    Only for the holder of the training lock. Done again, it changes nothing.

    Returns:
        The version's name; None if the swarm cannot use what this home learns, so that nothing changes.

    Raises:
        LedgerError: The ledger is damaged.
        StoreError: So is the history, or the disk is full.
    """
    from training.adapters import adapter_digest
    from training.history import History

    genesis = swarm.genesis(run)
    if genesis is None or not shapes.fits(genesis, config):
        return None
    shape = shapes.shape_of(genesis)
    with History(run.home.history_path) as history:
        store = sharing.open_store(run, config, history, shape)
        sharing.hand_over(run, store, history, keep=False)
        found = sharing.shared(run, config)
        assert found is not None
        theirs, pending_wins = _theirs(run, config, shape)
        whole = adapter_digest(found.adapter)
        before = history.current
        is_done = before != sharing.BASE and history.version(before).sha256 == whole
        if is_done and known(run, genesis.hash) is not None:
            return before
        sharing.take_over(store, history, sharing.Shared(theirs, found.head_round))
        root = history.current
        _remember(run, genesis.hash, root)
        if adapter_digest(theirs) != whole:
            wins = pending_wins + sharing.waiting_wins(run, with_kept=True)
            own = store.write(found.adapter, parent=root, wins=wins)
            sharing.pass_over(run, own.number)  # should this be as far as it gets, the swarm has all of it already
            history.adopt(own)
        return history.current


def _theirs(run: Run, config: Config, shape: AdapterShape) -> tuple[Adapter, int]:
    """The swarm's state as an adapter, and how many wins of this device are pending on top of it."""
    import numpy as np

    from training.adapters import initial_adapter

    with swarm.view(run) as view:
        state, pending_wins = view.shared(), view.overview["swarm"]["pending_wins"]
    start = shapes.flat(initial_adapter(config.model_fingerprint, shape)).astype(np.float64)
    return shapes.shaped((start + state).astype(np.float32), shape), pending_wins


def known(run: Run, genesis: bytes) -> str | None:
    """The version that a swarm has already, because this home left it with that; None if it never was there."""
    return _read(run).get(genesis.hex())


def _read(run: Run) -> dict[str, str]:
    path = _path(run)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {words[0]: words[1] for line in lines if len(words := line.split()) == 2}


def _remember(run: Run, genesis: bytes, version: str) -> None:
    said = {**_read(run), genesis.hex(): version}
    write_text(_path(run), "".join(f"{name} {value}\n" for name, value in said.items()))


def _path(run: Run) -> Path:
    return run.home.root / _FILE
