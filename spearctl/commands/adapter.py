"""`spearctl adapter`: the versions that this device has learned, and which one is in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column

from spearctl import shapes, sharing, swarm
from spearctl.command import command, group
from spearctl.errors import UsageError
from spearctl.output import Page, Result
from spearctl.run import Run
from spearctl.text import ago, count, size

if TYPE_CHECKING:
    from training.history import History

commands = group("adapter", "Lists adapter versions and switches between them.")


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One adapter version, as it is listed; the base model itself is the first."""

    name: str
    current: bool
    present: bool = True
    created_at: str | None = None
    parent: str | None = None
    round: int | None = None
    wins: int | None = None
    sha256: str | None = None
    bytes: int | None = None
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class AdapterList(Result):
    """All adapter versions, oldest first.

    Attributes:
        rows: The versions.
        head_round: Of the swarm's state that is used instead of any of them, in a swarm.
        is_ahead: Whether something that was learned here is used on top of that.
        train_line: How to make one.
    """

    rows: tuple[VersionRow, ...]
    head_round: int | None
    is_ahead: bool
    train_line: str

    def data(self) -> Mapping[str, Any]:
        current = next((row.name for row in self.rows if row.current), None)
        if self.head_round is not None:
            current = f"round:{self.head_round}"
        return {"current": current, "adapters": self.rows}

    def render(self, console: Page) -> None:
        right = {"justify": "right"}
        console.rows(
            ["", "NAME", "TRAINED", "FROM", Column("ROUND", **right), Column("WINS", **right), Column("SIZE", **right)],  # type: ignore[arg-type]
            [_cells(row) for row in self.rows],
        )
        imported = [row for row in self.rows if row.origin]
        if imported:
            console.print()
        for row in imported:
            console.print(f"{row.name} was imported: {row.origin}")
        if self.head_round is not None:
            console.print()
            console.print(f"In use: {in_swarm(self.head_round, is_ahead=self.is_ahead)}")
        if len(self.rows) == 1:
            console.print()
            console.print("Nothing was learned yet.")
            console.next_steps(self.train_line)


@dataclass(frozen=True, slots=True)
class AdapterSwitch(Result):
    """Which version is in use now, and which was before."""

    current: str
    before: str

    def data(self) -> Mapping[str, Any]:
        return {"current": self.current, "before": self.before}

    def render(self, console: Page) -> None:
        if self.current == self.before:
            console.print(f"{self.current} was in use already; nothing was changed")
        else:
            console.print(f"Now in use: {self.current} (before: {self.before})")


@command(commands, "list")
def list_(run: Run) -> AdapterList:
    """Lists the adapter versions, oldest first."""
    from training.history import BASE, History

    with History(run.home.history_path) as history:
        current, versions, origins = history.current, history.versions(), history.origins()
    head_round, is_ahead = None, False
    if _swarm_name(run) is not None:
        current = ""
        with swarm.view(run) as view:
            head_round, is_ahead = view.context.replica.head, sharing.is_ahead(run, view.outbox.wins)
    names = ("name", "present", "created_at", "parent", "round", "wins", "sha256", "bytes")
    rows = [VersionRow(BASE, current == BASE)]
    for version in versions:
        known = {name: getattr(version, name) for name in names}
        rows.append(VersionRow(current=version.name == current, origin=origins.get(version.name), **known))
    return AdapterList(tuple(rows), head_round, is_ahead, run.spell("train"))


@command(commands, "use")
def use(
    run: Run,
    name: Annotated[str, typer.Argument(help="A name from `adapter list`: base, local:3.", metavar="NAME")],
) -> AdapterSwitch:
    """Puts an adapter version to use; the others stay. In a swarm, there is nothing to choose."""
    from training.history import History

    _check_choice(run)

    with run.home.training_lock("adapter use"), History(run.home.history_path) as history:
        before = history.current
        history.use(name)
        return AdapterSwitch(history.current, before)


@command(commands, "rollback")
def rollback(
    run: Run,
    steps: Annotated[int, typer.Argument(help="How many versions to go back.", min=1, metavar="N")] = 1,
) -> AdapterSwitch:
    """Goes back to an earlier version; nothing is deleted.

    Each step leads to the version that the one in use was trained from, and in the end to the base model. In a swarm,
    there is nothing to go back to.
    """
    from training.history import BASE, History
    from training.store import rollback as go_back

    _check_choice(run)

    with run.home.training_lock("adapter rollback"), History(run.home.history_path) as history:
        before = history.current
        possible, first = _steps_back(history)
        if steps > possible:
            end = "the base model" if first == BASE else f"what was taken over from a swarm ({first})"
            lead = f"only {count(possible, 'step')} lead from {before} to {end}" if possible else f"{end} is in use"
            raise UsageError(
                f"cannot go back {count(steps, 'step')}: {lead}", f"see the versions: {run.spell('adapter', 'list')}"
            )
        go_back(history, steps)
        return AdapterSwitch(history.current, before)


def in_swarm(head_round: int, *, is_ahead: bool) -> str:
    """What a member uses, in words.

    Args:
        head_round: Of the swarm's state.
        is_ahead: Whether something that was learned here is used on top of it.
    """
    return f"round {head_round} of the swarm{', with what was learned here on top' if is_ahead else ''}"


def _swarm_name(run: Run) -> str | None:
    """The swarm that decides what this home uses; none where it belongs to none, or to one with another model."""
    genesis = swarm.genesis(run)
    return genesis.name if genesis is not None and shapes.fits(genesis, run.config()) else None


def _check_choice(run: Run) -> None:
    """Refuses to switch where nobody would heed it.

    Raises:
        UsageError: This home uses what its swarm shares.
    """
    name = _swarm_name(run)
    if name is not None:
        raise UsageError(
            f"a version cannot be chosen here: this home belongs to the swarm {name}, and uses what its members share,"
            " with what was learned here on top",
            f"see what that is: {run.spell('status')}; eval and export take a version: --adapter NAME",
        )


def _steps_back(history: History) -> tuple[int, str]:
    """How many steps lead back from the version in use, and where to."""
    from training.history import BASE

    parents = {version.name: version.parent for version in history.versions()}
    name, steps = history.current, 0
    while name != BASE and not parents[name].startswith("round:"):
        name, steps = parents[name], steps + 1
    return steps, name


def _cells(row: VersionRow) -> list[str]:
    return [
        "*" if row.current else "",
        row.name if row.present else f"{row.name} (deleted)",
        ago(row.created_at, short=True) if row.created_at else "",
        row.parent or "",
        "" if row.round is None else str(row.round),
        "" if row.wins is None else str(row.wins),
        "" if row.bytes is None else size(row.bytes),
    ]
