"""`spearctl import`: takes in an adapter that was made elsewhere, as if it had been learned here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spearctl import card, shapes, sharing, swarm
from spearctl.command import command, group
from spearctl.config import Config
from spearctl.errors import UsageError
from spearctl.output import Page, Result
from spearctl.run import Run
from spearctl.text import clip, printable, tilde

if TYPE_CHECKING:
    from training.adapters import Adapter
    from training.history import History
    from training.incoming import Incoming
    from training.store import AdapterStore

commands = group()

WINS = 1
"""What an imported adapter weighs among the members of a swarm: nobody here has judged it."""


@dataclass(frozen=True, slots=True)
class ImportResult(Result):
    """What became of an adapter.

    Attributes:
        adapter: The version that it is now.
        before: What was in use.
        sha256: Over its tensors.
        origin: Where it came from, as it is recorded.
        changed: Whether anything was done.
        share: What a swarm gets of it, for a person.
        next_lines: Commands that come next.
    """

    adapter: str
    before: str
    sha256: str
    origin: str
    changed: bool
    share: str | None
    next_lines: tuple[str, ...]

    def data(self) -> Mapping[str, Any]:
        names = ("adapter", "before", "sha256", "origin", "changed", "share")
        return {name: getattr(self, name) for name in names}

    def render(self, console: Page) -> None:
        if not self.changed:
            console.print(f"this adapter is {self.adapter} here already; nothing was changed")
        else:
            console.print(f"Now in use: {self.adapter}, imported (before: {self.before})")
        if self.share:
            console.print(self.share)
        if self.next_lines:
            console.next_steps(*self.next_lines)


@command(commands, "import")
def import_(
    run: Run,
    path: Annotated[Path, typer.Argument(help="A PEFT adapter folder.", metavar="PATH")],
    same_base: Annotated[
        bool, typer.Option("--same-base", help="It was made for this home's model, under another name.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> ImportResult:
    """Takes in an adapter made elsewhere.

    It becomes the next version of this home and is put to use; `adapter rollback` goes back. In a swarm, the difference
    to what is in use is shared like a round of training that had one win.
    """
    from training.adapters import adapter_digest
    from training.history import History
    from training.incoming import read_incoming

    config = run.config()
    folder = Path(os.path.abspath(path))
    with run.home.training_lock("import"):
        shape = sharing.shape(run, config)
        found = read_incoming(folder, shape)
        _check_base(run, config, folder, found, same_base)
        sha256 = adapter_digest(found.adapter)
        with History(run.home.history_path) as history:
            store = sharing.open_store(run, config, history, shape)
            used = sharing.shared(run, config)
            is_member = used is not None
            known = _known(store, history, sha256, used)
            if known is not None:
                is_idle = not is_member and history.current != known
                steps = (run.spell("adapter", "use", known),) if is_idle else ()
                origin = history.origins().get(known, "")
                return ImportResult(known, history.current, sha256, origin, False, None, steps)
            run.confirm(_question(folder, history.current, is_member), yes=yes)
            made_for = card.base_name(found.base_model) if found.base_model else "a model without a name"
            origin = f"{printable(clip(folder.name, 80))}, a PEFT folder for {clip(made_for, 80)}"
            name, before = _take_in(run, config, store, history, found.adapter, origin)
    share = _share(run) if is_member else None
    return ImportResult(name, before, sha256, origin, True, share, (f"{run.spell('eval')} --data LOG",))


def _check_base(run: Run, config: Config, folder: Path, found: Incoming, same_base: bool) -> None:
    """Refuses an adapter of another base model.

    Raises:
        UsageError: It says that it is for another one.
    """
    wanted = config.model_fingerprint
    if found.fingerprint is not None:
        if found.fingerprint == wanted:
            return
        raise UsageError(
            f"{folder} is for another base model: its fingerprint is {printable(clip(found.fingerprint, 12))}, this"
            f" home's is {wanted[:12]}",
            "import it into a home of that model: spearctl --home DIR init --model MODEL",
        )
    named = found.base_model
    if same_base or (named and named in {config.model, card.base_name(config.model)}):
        return
    said = f"is for the base model {printable(clip(named, 80))}" if named else "names no base model"
    raise UsageError(
        f"{folder} {said}, and this home's is {config.model}",
        f"if that is the same model under another name: {run.spell('import', str(folder), '--same-base')}",
    )


def _known(store: AdapterStore, history: History, sha256: str, used: sharing.Shared | None) -> str | None:
    """What has just these tensors, if anything has.

    In a swarm that may be a version that was deleted to save space: what it was shared as counts once.
    """
    from training.adapters import adapter_digest
    from training.history import BASE

    if used is not None and adapter_digest(used.adapter) == sha256:
        return f"round:{used.head_round}"
    for version in reversed(history.versions()):
        if version.sha256 == sha256 and (version.present or used is not None):
            return version.name
    return BASE if adapter_digest(store.load(BASE)) == sha256 else None


def _question(folder: Path, current: str, is_member: bool) -> str:
    name = printable(clip(str(tilde(folder)), 80))
    if is_member:
        return (
            f"{name} replaces what this device uses in the swarm, and the difference to that goes to all members,"
            " weighing one win. Import it?"
        )
    return f"{name} is put to use instead of {current}, which is kept. Import it?"


def _take_in(
    run: Run, config: Config, store: AdapterStore, history: History, adapter: Adapter, origin: str
) -> tuple[str, str]:
    """Makes it the current version, by the same steps as a round of training; its name, and the one before."""
    is_member = sharing.takes_part(run, config)
    if swarm.places(run).is_member and not is_member:
        run.say(sharing.UNFIT)
    before = history.current
    if is_member:
        sharing.hand_over(run, store, history, keep=False)
        found = sharing.shared(run, config)
        if found is not None:
            sharing.take_over(store, history, found)
            before = f"round:{found.head_round}"
            _check_reach(found.adapter, adapter)
    history.adopt(store.write(adapter, parent=history.current, wins=WINS), origin)
    name = history.current
    if is_member:
        sharing.hand_over(run, store, history, keep=False)
        sharing.wake(run)
    store.tidy()
    return name, before


def _check_reach(used: Adapter, adapter: Adapter) -> None:
    """Refuses a difference that no node takes.

    Raises:
        UsageError: A value is too far from what is in use.
    """
    import numpy as np

    from p2p.grid import FURTHEST

    furthest = float(np.abs(shapes.flat(adapter) - shapes.flat(used)).max())
    if furthest > FURTHEST:
        raise UsageError(
            f"a value of the adapter is {furthest:g} away from what the swarm uses, where {FURTHEST:g} is the limit",
            "import it into a home that belongs to no swarm",
        )


def _share(run: Run) -> str:
    return sharing.say_where(run, WINS, kept=False, running=swarm.is_running(run))
