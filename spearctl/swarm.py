"""What the commands of a swarm share: this home's keys, its ledger as anybody may read it, and the node that runs."""

from __future__ import annotations

import getpass
import os
import random
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from spearctl.errors import NodeFailedError, NoSwarmError, UsageError
from spearctl.run import Run

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from p2p.context import Context
    from p2p.errors import P2PError
    from p2p.identity import Identity
    from p2p.outbox import Outbox
    from p2p.places import Places
    from p2p.records import Genesis
    from p2p.state import State
    from p2p.storage import Storage

PASSPHRASE_FILE = "SPEARCTL_PASSPHRASE_FILE"
MOST_PASSPHRASE_BYTES = 1023
VIEW_TRIES = 8
VIEW_PAUSE_S = 0.05


def places(run: Run) -> Places:
    """Where this home keeps what the swarm needs."""
    from p2p.places import Places

    return Places(run.home.root)


def identity(run: Run, *, make: bool = False) -> Identity:
    """This home's keys.

    Args:
        run: Whose home.
        make: Whether to draw new ones where there are none, and no swarm knows this home by others.

    Raises:
        IdentityError: They are missing, damaged or locked.
    """
    from p2p import leaving
    from p2p.identity import FILE_NAME, generate, load, save

    if make and not places(run).is_member:
        leaving.finish(places(run))
        if not (run.home.root / FILE_NAME).exists():
            save(run.home.root, generate())
    return load(run.home.root, lambda: _passphrase(run))


def unlock(run: Run) -> bytes | None:
    """Makes sure that this home's keys can be used; the passphrase that takes, if they are locked.

    Raises:
        IdentityError: They are missing, damaged or locked.
    """
    from p2p.identity import load

    given: list[bytes] = []

    def passphrase() -> bytes:
        given.append(_passphrase(run))
        return given[0]

    load(run.home.root, passphrase)
    return given[0] if given else None


def node_id(run: Run) -> str | None:
    """This home's id in hex, for who only looks: none without keys, or where they are locked.

    Raises:
        IdentityError: They are damaged.
    """
    from p2p.identity import FILE_NAME, load

    if not (run.home.root / FILE_NAME).exists():
        return None

    def locked() -> bytes:
        raise UsageError("locked")

    with suppress(UsageError):
        return load(run.home.root, locked).node_id.hex()
    return None


@lru_cache(maxsize=1)
def _passphrase(run: Run) -> bytes:
    """The passphrase of a home's keys, asked once a run: from the file that the environment names, else typed in."""
    named = os.environ.get(PASSPHRASE_FILE)
    if named:
        return _passphrase_in(named)
    return _typed("passphrase: ", "the keys of this home are locked, and nobody can be asked for the passphrase here")


def new_passphrase() -> bytes:
    """A passphrase for new keys, typed twice or from the file that the environment names."""
    named = os.environ.get(PASSPHRASE_FILE)
    if named:
        first = _passphrase_in(named)
    else:
        first = _typed("new passphrase: ", "nobody can be asked for a passphrase here")
        if _typed("again: ", "nobody can be asked for it again") != first:
            raise UsageError("the two passphrases differ, so nothing was made", "try again")
    if not first:
        raise UsageError("an empty passphrase locks nothing", "choose one, or leave --lock out")
    return first


def _passphrase_in(name: str) -> bytes:
    from p2p.errors import IdentityError

    try:
        with open(name, "rb") as file:
            return file.readline(MOST_PASSPHRASE_BYTES + 2).rstrip(b"\r\n")
    except OSError as error:
        hint = f"name a file whose first line is the passphrase: {PASSPHRASE_FILE}=FILE"
        raise IdentityError(f"{name}: the passphrase cannot be read: {error.strerror}", hint) from error


def _typed(prompt: str, nobody: str) -> bytes:
    hint = f"put it into a file that only you can read and name that: {PASSPHRASE_FILE}=FILE"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(nobody, hint)
    try:
        return getpass.getpass(prompt, sys.stderr).encode()
    except EOFError:
        raise UsageError("no passphrase was typed", hint) from None


@dataclass(frozen=True, slots=True)
class View:
    """A member's ledger as it is on the disk.

    Attributes:
        genesis: The swarm's.
        context: The replica and what belongs to it; nothing in it can be written, or signed.
        state: The shared state.
        outbox: What is pending.
        taken: Of the increments that were asked about, those that are in there.
    """

    genesis: Genesis
    context: Context
    state: State
    outbox: Outbox
    taken: frozenset[str]

    @property
    def overview(self) -> dict[str, Any]:
        """The same that a running node says of itself."""
        from p2p.bans import banned
        from p2p.overview import overview

        return overview(self.context, self.state.hash, self.outbox, now=0.0, banned=banned(self.context.storage))

    def shared(self) -> npt.NDArray[np.float32]:
        """The state alone ``[parameters]``, relative to the adapter's start."""
        from p2p.grid import from_fine

        return from_fine(self.state.vector, self.genesis)

    def learned(self) -> npt.NDArray[np.float32]:
        """State and pending ``[parameters]``, relative to the adapter's start.

        What is pending without wins is what deltas had no room for, as a rule less than a step of the grid. It is left
        out, so that members who hold the same state, and have shared all they learned, use the same to the last bit.
        """
        from p2p.grid import from_fine

        pending = self.outbox.pending
        return from_fine(self.state.vector + (pending.values if pending.wins else 0), self.genesis)


@contextmanager
def view(run: Run, asked: Collection[str] = (), *, leave_no_trace: bool = False) -> Iterator[View]:
    """Reads this home's ledger, whether its node runs or not. Needs no keys, so that none have to be unlocked.

    Args:
        run: Whose home.
        asked: Ids of increments, for `View.taken`.
        leave_no_trace: Not to change anything at all, not even files that hold nothing.

    Raises:
        NoSwarmError: This home belongs to no swarm.
        LedgerError: It is damaged.
    """
    from p2p.errors import LedgerError
    from p2p.ledger import Ledger

    if not places(run).is_member:
        raise no_swarm(run)
    for tries_left in reversed(range(VIEW_TRIES)):
        with ExitStack() as stack:
            try:
                reader = stack.enter_context(Ledger.open_readonly(places(run).ledger, leave_no_trace=leave_no_trace))
                storage = cast("Storage", reader)  # nothing below writes
                before = storage.keys("")
                found = _read(storage, asked)
                # A node beside this changes the keys whenever it takes, signs or seals something.
                if storage.keys("") != before and tries_left:
                    continue
            except LedgerError:  # or removes what was about to be read
                if not tries_left:
                    raise
                time.sleep(VIEW_PAUSE_S)
                continue
            yield found
            return


def _read(storage: Storage, asked: Collection[str]) -> View:
    from p2p.founding import genesis_of, reader_of_home
    from p2p.opening import open_context
    from p2p.outbox import Outbox
    from p2p.state import State

    genesis = genesis_of(storage)
    context = open_context(genesis, reader_of_home(storage), storage, random.Random(0), 0.0, int(time.time()))
    state = State(context.replica, storage)
    state.refresh()
    outbox = Outbox(genesis, storage)
    return View(genesis, context, state, outbox, frozenset(id for id in asked if outbox.knows(id)))


def genesis(run: Run) -> Genesis | None:
    """Of the swarm that this home belongs to, if it belongs to one.

    Raises:
        LedgerError: The ledger is damaged.
    """
    if not places(run).is_member:
        return None

    from p2p.founding import genesis_of
    from p2p.ledger import Ledger

    with Ledger.open_readonly(places(run).ledger) as reader:
        return genesis_of(cast("Storage", reader))


def no_swarm(run: Run) -> NoSwarmError:
    """The error for a command that needs a swarm where there is none."""
    found = f"{run.spell('invite', '--out', 'FILE')}, or join one: {run.spell('join', 'TICKET')}"
    return NoSwarmError("this home belongs to no swarm", f"found one: {found}")


def way_back(run: Run) -> str | None:
    """The command line that goes back to an earlier adapter version; none in a swarm, whose members share one."""
    return None if places(run).is_member else run.spell("adapter", "rollback")


def ask(run: Run, command: str, *, patience_s: float = 10.0, **arguments: Any) -> dict[str, Any]:
    """Asks this home's running node.

    Args:
        run: Whose home.
        command: What is asked.
        patience_s: How long to wait for the answer.
        arguments: Of the command.

    Raises:
        NetworkError: None runs, or it does not answer.
        P2PError: What it says is wrong.
        NodeFailedError: A bug in it.
    """
    from p2p import control
    from p2p.errors import P2PError

    try:
        return control.ask(places(run).control, command, arguments, patience_s)
    except P2PError as error:
        if type(error) is not P2PError:  # every error that the node foresaw has a class of its own
            raise
        raise _failed(run, error.message) from error


def error(run: Run, kind: str, message: str, hint: str | None) -> P2PError | NodeFailedError:
    """What went wrong in the node, as the class that it was there."""
    from p2p import errors

    found = getattr(errors, kind, None)
    if not (isinstance(found, type) and issubclass(found, errors.P2PError)):
        return _failed(run, message)
    return found(message, hint)


def _failed(run: Run, message: str) -> NodeFailedError:
    restart = f"{run.spell('down')}, then {run.spell('up', '--detach')}"
    log = f"report what {places(run).log} says (for a node in the foreground, what its terminal says)"
    return NodeFailedError(message, f"this is a bug in spearctl: {log}; to go on, restart the node: {restart}")


def is_running(run: Run) -> bool:
    """Whether a node of this home runs."""
    from p2p import control

    return control.is_running(places(run).control)
