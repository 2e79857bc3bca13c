"""`spearctl log`: what this device has learned, round by round, and what its swarm has sealed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column

from spearctl import plotting, swarm
from spearctl.command import command, group
from spearctl.errors import UsageError
from spearctl.output import Page, Result
from spearctl.run import Run
from spearctl.snapshot import round_data
from spearctl.sparkline import levels_for, sparkline
from spearctl.text import clip, count, tilde

if TYPE_CHECKING:
    from training.history import EvaluationRecord, RoundRecord

commands = group()

SHOWN_ROUNDS = 20
SHOWN_EVALUATIONS = 5
SHOWN_SEALS = 5
MOST_SEALS = 1000
SPARK_CELLS = 48
DIGEST_CHARS = 8


@dataclass(frozen=True, slots=True)
class LogResult(Result):
    """A device's history.

    Attributes:
        name: Of the device.
        rounds: Oldest first.
        evaluations: Oldest first.
        seals: Oldest first; none outside of a swarm.
        plot: Where it was drawn, if it was.
        shown: The most rounds in the table.
        next_line: What comes next, where there is nothing yet.
    """

    name: str
    rounds: tuple[RoundRecord, ...]
    evaluations: tuple[EvaluationRecord, ...]
    seals: tuple[Mapping[str, Any], ...]
    plot: Path | None
    shown: int
    next_line: str

    def data(self) -> Mapping[str, Any]:
        return {
            "rounds": [
                {**round_data(record), "accuracy": accuracy}
                for record, accuracy in zip(self.rounds, self.accuracies(), strict=True)
            ],
            "evaluations": [
                {
                    "at": found.at,
                    "adapter": found.adapter,
                    "questions_sha256": found.log_sha256,
                    "n": found.n,
                    "right": found.right,
                    "formatted": found.formatted,
                    "accuracy": found.right / found.n,
                }
                for found in self.evaluations
            ],
            "seals": self.seals,
            "plot": self.plot,
        }

    @property
    def questions(self) -> EvaluationRecord | None:
        """The last evaluation, on whose questions adapters are compared."""
        return self.evaluations[-1] if self.evaluations else None

    def accuracies(self) -> list[float | None]:
        """Of the adapter that each round made, on the questions that were asked last."""
        asked = self.questions
        known = {
            found.adapter: found.right / found.n
            for found in self.evaluations
            if asked is not None and found.log_sha256 == asked.log_sha256
        }
        return [known.get(record.version) if record.version else None for record in self.rounds]

    def render(self, console: Page) -> None:
        if not (self.rounds or self.evaluations or self.seals):
            console.print("nothing was learned yet")
            console.next_steps(self.next_line)
            return
        is_all = not self.rounds or self.rounds[0].number == 1
        console.title(f"{self.name}: {'' if is_all else 'the last '}{count(len(self.rounds), 'round')}")
        if self.rounds:
            self._render_rounds(console)
            self._render_lines(console)
        if self.evaluations:
            console.print()
            self._render_evaluations(console)
        if self.seals:
            console.print()
            self._render_seals(console)
        if self.plot is not None:
            console.print()
            console.print(f"{tilde(self.plot)}: the same as a picture")

    def _render_rounds(self, console: Page) -> None:
        rows = []
        for record, accuracy in [*zip(self.rounds, self.accuracies(), strict=True)][-self.shown :]:
            report = record.report
            counted = [str(report.get(name, "")) for name in ("played", "wins", "losses")]
            losses = [_figure(report.get("loss_win")), _figure(accuracy, 2)]
            made = record.version or ("discarded" if report.get("discarded") else "no change")
            rows.append(
                [str(record.number), moment(record.started_at), *counted, *losses, f"{record.seconds:.0f} s", made]
            )
        names = ("PLAYED", "WINS", "LOSSES", "LOSS", "ACCURACY", "TIME")
        titles = [Column(name, justify="right") for name in names]
        console.rows([Column("ROUND", justify="right"), "WHEN", *titles, "ADAPTER"], rows)
        for record in self.rounds[-self.shown :]:
            if record.report.get("discarded"):
                console.print(f"  round {record.number} was discarded: {record.report['discarded']}")
        if len(self.rounds) > self.shown:
            console.print(f"  and {count(len(self.rounds) - self.shown, 'earlier round')}: -n {len(self.rounds)}")

    def _render_lines(self, console: Page) -> None:
        """A line for each figure that more than one round has, drawn."""
        levels, rows = levels_for(sys.stdout), []
        lines: list[tuple[str, Sequence[float | None], int, str]] = [
            ("loss", [record.report.get("loss_win") for record in self.rounds], 3, ""),
            ("wins", [record.report.get("wins") for record in self.rounds], 0, ""),
            ("accuracy", self.accuracies(), 2, self._asked()),
        ]
        width = min(SPARK_CELLS, console.width - 50)
        for name, values, digits, note in lines:
            known = [value for value in values if value is not None]
            if len(known) > 1 and width > 0:
                drawn = sparkline(values, width, levels=levels)
                rows.append((name, f"{drawn}  {_figure(known[0], digits)} to {_figure(known[-1], digits)}{note}"))
        if rows:
            console.print()
            console.fields(rows)

    def _asked(self) -> str:
        asked = self.questions
        return "" if asked is None else f", on questions {asked.log_sha256[:DIGEST_CHARS]}"

    def _render_evaluations(self, console: Page) -> None:
        rows = []
        for found in self.evaluations[-SHOWN_EVALUATIONS:]:
            in_form = f"{found.formatted / found.n:.2f}"
            accuracy = f"{found.right / found.n:.2f}"
            rows.append(
                [moment(found.at), found.adapter, accuracy, in_form, str(found.n), found.log_sha256[:DIGEST_CHARS]]
            )
        titles = [Column(name, justify="right") for name in ("ACCURACY", "IN FORM", "QUESTIONS")]
        console.rows(["MEASURED", "ADAPTER", *titles, "WHICH"], rows)

    def _render_seals(self, console: Page) -> None:
        rows = []
        for seal in self.seals[-SHOWN_SEALS:]:
            first, last = seal["from_round"], seal["to_round"]
            rounds = str(last) if first == last else f"{first} to {last}"
            when = "" if seal["at"] is None else moment(seal["at"])
            rows.append([when, str(seal["height"]), rounds, str(seal["deltas"]), clip(", ".join(seal["authors"]), 36)])
        columns = [Column(name, justify="right") for name in ("SEAL", "ROUNDS", "DELTAS")]
        console.rows(["SEALED", *columns, "FROM"], rows)


@command(commands, "log")
def log(
    run: Run,
    number: Annotated[
        int | None,
        typer.Option("-n", min=1, max=1_000_000, metavar="N", help="The last N rounds. Default: 20 in the table."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it, too: a file of .png, .svg or .pdf.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="With --plot: overwrite the file.")] = False,
) -> LogResult:
    """Shows what was learned, round by round: figures, measured accuracy, and what the swarm sealed.

    Accuracies are those of `eval`, on the questions that were asked last: only on the same ones they can be compared.
    """
    from training.history import History

    if force and plot is None:
        raise UsageError("--force goes with --plot", "leave it out, or name a file: --plot history.png")
    config = run.config()
    if plot is not None:
        plotting.check_target(plot, force=force)
    with History(run.home.history_path) as history:
        rounds, evaluations = history.rounds(number), history.evaluations()
    target = None if plot is None else plot.absolute()
    train_line = run.spell("train")
    found = LogResult(
        config.name, rounds, evaluations, _seals(run), target, number or SHOWN_ROUNDS, next_line=train_line
    )
    if target is not None:
        if not rounds:
            raise UsageError("nothing was learned yet, so there is nothing to draw", f"learn first: {train_line}")
        title = f"{config.name}: rounds {rounds[0].number} to {rounds[-1].number}"
        plotting.write_plot(target, title, rounds, found.accuracies())
    return found


def _seals(run: Run) -> tuple[Mapping[str, Any], ...]:
    """What the swarm sealed, if this home belongs to one."""
    from p2p.past import seals

    if not swarm.places(run).is_member:
        return ()
    with swarm.view(run) as view:
        found = seals(view.context, swarm.places(run).ledger, MOST_SEALS)
    for seal in found:
        written_s = seal.pop("written_s")
        seal["at"] = None if written_s is None else _iso(written_s)
    return tuple(found)


def moment(at: str) -> str:
    """Says when something was, by this device's clock: "23 Nov 10:00", with the year where that is another one."""
    try:
        then = datetime.fromisoformat(at).astimezone()
    except ValueError:
        return at
    return then.strftime("%d %b %H:%M" if then.year == datetime.now().year else "%d %b %Y")


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")


def _figure(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"
