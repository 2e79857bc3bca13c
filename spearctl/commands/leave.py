"""`spearctl leave`: ends this device's part in its swarm; what it learned there stays."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from spearctl import parting, serving, swarm
from spearctl.command import command, group
from spearctl.output import Page, Result
from spearctl.run import Run
from spearctl.text import count, tilde

if TYPE_CHECKING:
    from p2p.storage import Storage

commands = group()

SEALING = (
    "it founded the swarm: without its keys no round is sealed any more, so nothing is pruned, newcomers fetch ever"
    " more, and {most} rounds after the last seal the swarm shares nothing new"
)


@dataclass(frozen=True, slots=True)
class Membership:
    """What this device is about to give up.

    Attributes:
        name: The swarm's; None where the ledger is too damaged to tell.
        genesis: Its hash.
        others: How many other members there are.
        founder: Whether this device founded it.
    """

    name: str | None = None
    genesis: bytes | None = None
    others: int = 0
    founder: bool = False


@dataclass(frozen=True, slots=True)
class LeaveResult(Result):
    """A swarm that this device does not belong to any more.

    Attributes:
        membership: What it was there.
        adapter: The version that has what it used there; None if that is none of this home's.
        left: Where the ledger and the old keys are; None if they were deleted.
        everything: Folders to delete, to be rid of all that spearctl ever wrote on this device.
    """

    membership: Membership
    adapter: str | None
    left: Path | None
    everything: tuple[Path, ...]

    def data(self) -> Mapping[str, Any]:
        genesis = self.membership.genesis
        return {
            "swarm": {"name": self.membership.name, "genesis": genesis.hex() if genesis else None},
            "founder": self.membership.founder,
            "adapter": self.adapter,
            "put_aside": self.left,
            "deleted": self.left is None,
            "everything": self.everything,
        }

    def render(self, console: Page) -> None:
        console.title(f"This device has left the swarm {self.membership.name or '(its ledger is damaged)'}")
        aside = f"the ledger and the old keys, in {tilde(self.left)}" if self.left else ""
        used = f"{self.adapter} has what it used there; " if self.adapter else ""
        console.fields(
            [
                ("kept", f"{used}feedback log, training history, adapter versions, settings"),
                ("put aside", aside),
                ("deleted", "" if self.left else "the ledger and the old keys"),
                ("new", "the keys of this device"),
            ]
        )
        if self.membership.founder and self.membership.others:
            console.health([_sealing()])
        lines = [f"rm -r {shlex.quote(str(path))}" for path in self.everything]
        before = "To be rid of all that spearctl wrote on this device (other homes use all but the first, too):"
        console.next_steps(*lines, before=before)


@command(commands, "leave")
def leave(
    run: Run,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete the ledger and the old keys, instead of putting them aside.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> LeaveResult:
    """Leaves the swarm: stops the node, and keeps what was learned there as an adapter version.

    Nobody is told; to the other members this device is one that is switched off. With a fresh ticket it may join
    again, as a new member. Asks first.
    """
    from p2p import leaving, moving
    from p2p.errors import LedgerError

    config, places = run.config(), swarm.places(run)
    done = leaving.finish(places)
    if not places.is_member:
        if done is None:
            raise swarm.no_swarm(run)
        return _result(run, *_earlier(run, done), done, delete=delete)
    with suppress(LedgerError):
        moving.finish(places)
    found = _membership(run)
    run.confirm(_question(run, found, delete=delete), yes=yes)
    passphrase = _passphrase(run)
    adapter = None
    with run.home.training_lock("leave"):  # first of all: where something is trained, the node goes on
        if swarm.is_running(run):
            run.say("stopping the node")
            serving.stop(run)
        if found.genesis is not None:
            adapter = parting.settle(run, config)
        left = leaving.leave(places, found.genesis, passphrase)
    return _result(run, found, adapter, left, delete=delete)


def _membership(run: Run) -> Membership:
    from p2p.errors import LedgerError

    try:
        with swarm.view(run) as view:
            said = view.overview
            others = [peer for peer in said["peers"] if peer["state"] != "revoked"]
            here = said["swarm"]
            return Membership(here["name"], view.genesis.hash, len(others), here["founder"])
    except LedgerError as error:
        run.say(error.message)
        return Membership()


def _earlier(run: Run, left: Path) -> tuple[Membership, str | None]:
    """What a leave gave up that was interrupted and is finished now, and the version that it made."""
    from p2p.errors import P2PError
    from p2p.founding import genesis_of, reader_of_home
    from p2p.ledger import Ledger
    from training.history import History

    try:
        with Ledger.open_readonly(left) as reader:
            storage = cast("Storage", reader)  # nothing here writes
            genesis, me = genesis_of(storage), reader_of_home(storage).node
    except P2PError as error:
        run.say(error.message)
        return Membership(), None
    with History(run.home.history_path) as history:
        adapter = history.current if parting.known(run, genesis.hash) else None
    return Membership(genesis.name, genesis.hash, founder=me == genesis.sealer), adapter


def _question(run: Run, found: Membership, *, delete: bool) -> str:
    """What happens, said before it does."""
    fate = "deleted for good" if delete else "put aside"
    if found.genesis is None:
        lines = [
            "the ledger of this home's swarm is damaged, so of what was learned there only adapter versions are left",
            f"the ledger and the keys of this device are {fate}",
        ]
    else:
        lines = [
            f"this device leaves the swarm {found.name}, of {count(found.others, 'other member')}; nobody is told",
            "kept: what it learned, as an adapter version; feedback log, training history, settings",
            f"{fate}: the swarm's ledger and the keys of this device, which gets new ones",
        ]
        lines += [_sealing()] if found.founder and found.others else []
    lines += ["the node is stopped"] if swarm.is_running(run) else []
    return "\n".join([*lines, "Leave?"])


def _sealing() -> str:
    from p2p.limits import MOST_UNSEALED_ROUNDS

    return SEALING.format(most=MOST_UNSEALED_ROUNDS)


def _passphrase(run: Run) -> bytes | None:
    """What locks the new keys: that of the old ones, if they are locked. Keys that are missing or damaged lock nothing.

    Raises:
        IdentityError: The passphrase is wrong.
    """
    from p2p.identity import FILE_NAME

    path = run.home.root / FILE_NAME
    return swarm.unlock(run) if path.exists() and b"ENCRYPTED" in path.read_bytes() else None


def _result(run: Run, found: Membership, adapter: str | None, left: Path, *, delete: bool) -> LeaveResult:
    if delete:
        shutil.rmtree(left)
    everything = (run.home.root, run.cache, swarm.places(run).control.parent)
    return LeaveResult(found, adapter, None if delete else left, tuple(path for path in everything if path.exists()))
