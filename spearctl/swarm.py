"""What the commands of a swarm share: this home's keys, its ledger as anybody may read it, and the node that runs."""

from __future__ import annotations

import getpass
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from spearctl.errors import NoSwarmError, UsageError
from spearctl.run import Run

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from p2p.context import Context
    from p2p.identity import Identity
    from p2p.outbox import Outbox
    from p2p.places import Places
    from p2p.records import Genesis
    from p2p.state import State
    from p2p.storage import Storage
    from spearctl.config import Config

PASSPHRASE_FILE = "SPEARCTL_PASSPHRASE_FILE"
MOST_PASSPHRASE_BYTES = 1023


def places(run: Run) -> Places:
    """Where this home keeps what the swarm needs."""
    from p2p.places import Places

    return Places(run.home.root)


def identity(run: Run, *, make: bool = False) -> Identity:
    """This home's keys.

    Args:
        run: Whose home.
        make: Whether to draw new ones where there are none.

    Raises:
        IdentityError: They are missing, damaged or locked.
    """
    from p2p.identity import FILE_NAME, generate, load, save

    if make and not (run.home.root / FILE_NAME).exists():
        save(run.home.root, generate())
    return load(run.home.root, _passphrase)


def _passphrase() -> bytes:
    """The passphrase of the keys: from the file that the environment names, else typed in."""
    named = os.environ.get(PASSPHRASE_FILE)
    if named:
        with open(named, "rb") as file:
            return file.readline(MOST_PASSPHRASE_BYTES + 2).rstrip(b"\r\n")
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "the keys of this home are locked, and nobody can be asked for the passphrase here",
            f"put it into a file that only you can read and name that: {PASSPHRASE_FILE}=FILE",
        )
    return getpass.getpass("passphrase: ", sys.stderr).encode()


def new_passphrase() -> bytes:
    """A passphrase for new keys, typed twice or from the file that the environment names."""
    first = _passphrase()
    if not os.environ.get(PASSPHRASE_FILE) and getpass.getpass("again: ", sys.stderr).encode() != first:
        raise UsageError("the two passphrases differ, so nothing was made", "try again")
    if not first:
        raise UsageError("an empty passphrase locks nothing", "type one, or leave --lock out")
    return first


@dataclass(frozen=True, slots=True)
class View:
    """A member's ledger as it is on the disk.

    Attributes:
        genesis: The swarm's.
        context: The replica and what belongs to it; nothing in it can be written.
        state: The shared state.
        outbox: What is pending.
    """

    genesis: Genesis
    context: Context
    state: State
    outbox: Outbox

    @property
    def overview(self) -> dict[str, Any]:
        """The same that a running node says of itself."""
        from p2p.overview import overview

        return overview(self.context, self.state.hash, self.outbox, now=0.0)

    def learned(self) -> npt.NDArray[np.float32]:
        """State and pending ``[parameters]``, relative to the adapter's start."""
        from p2p.grid import from_fine

        return from_fine(self.state.vector + self.outbox.pending.values, self.genesis)


@contextmanager
def view(run: Run) -> Iterator[View]:
    """Reads this home's ledger, whether its node runs or not.

    Raises:
        NoSwarmError: This home belongs to no swarm.
        LedgerError: It is damaged.
    """
    from p2p.founding import genesis_of
    from p2p.ledger import Ledger
    from p2p.opening import open_context
    from p2p.outbox import Author, Outbox
    from p2p.state import State

    found = places(run)
    if not found.is_member:
        raise no_swarm(run)
    who = identity(run)
    with Ledger.open_readonly(found.swarm) as reader:
        storage = cast("Storage", reader)  # nothing below writes
        genesis = genesis_of(storage)
        certificate = storage.get("certificate") or b""
        author = Author(who.key, who.node_id, certificate)
        context = open_context(genesis, author, storage, random.Random(0), 0.0, int(time.time()))
        state = State(context.replica, storage)
        state.refresh()
        yield View(genesis, context, state, Outbox(genesis, storage))


def no_swarm(run: Run) -> NoSwarmError:
    """The error for a command that needs a swarm where there is none."""
    found = f"{run.spell('invite')}, or join one: {run.spell('join', 'TICKET')}"
    return NoSwarmError("this home belongs to no swarm", f"found one: {found}")


def ask(run: Run, command: str, timeout_s: float = 10.0, **arguments: Any) -> dict[str, Any]:
    """Asks this home's running node.

    Raises:
        NetworkError: None runs, or it does not answer.
        P2PError: What it says is wrong.
    """
    from p2p import control

    return control.ask(places(run).control, command, arguments, timeout_s)


def is_running(run: Run) -> bool:
    """Whether a node of this home runs."""
    from p2p import control

    return control.is_running(places(run).control)


def tensors(run: Run, config: Config) -> list[tuple[str, int, int]]:
    """Names and dimensions of this home's adapter, from the model's own files.

    Raises:
        ModelError: The model cannot be found or read.
    """
    from training.models import LoraSettings, shape_of
    from training.sources import resolve

    source = resolve(config.model, run.cache, say=run.say)
    size = config.adapter
    shape = shape_of(source, LoraSettings(size.rank, size.alpha, size.dropout))
    return [(tensor.name, tensor.rows, tensor.columns) for tensor in shape.tensors]
