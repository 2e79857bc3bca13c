"""`spearctl train`: rounds of SPEAR on a feedback log. A round is kept whole or not at all."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column

from spearctl import sharing, signals, swarm
from spearctl.budget import BudgetOption, Taken, Watch, parse
from spearctl.command import command, group
from spearctl.config import Config
from spearctl.errors import UsageError
from spearctl.learner import Fit, Learner, Phases, learner
from spearctl.output import Page, Result
from spearctl.pace import PaceWriter
from spearctl.run import Run
from spearctl.supply import Supply, advice
from spearctl.text import count, tilde
from training.errors import Interrupted

if TYPE_CHECKING:
    from training.history import History
    from training.log import Log
    from training.pool import Pool
    from training.rounds import RoundConfig, RoundReport
    from training.store import AdapterStore

commands = group()

DEFAULT_ROUNDS = 8
SHOWN_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Share:
    """What became of learning in a swarm.

    Attributes:
        wins: Handed over by this run.
        kept: Whether they stay on this device.
        running: Whether a node runs that takes them.
        line: All that, for a person.
    """

    wins: int
    kept: bool
    running: bool
    line: str


@dataclass(frozen=True, slots=True)
class ShareResult(Result):
    """What `--share-kept` did."""

    increments: int
    running: bool
    next_lines: tuple[str, ...]

    def data(self) -> Mapping[str, Any]:
        return {"shared_increments": self.increments, "running": self.running}

    def render(self, console: Page) -> None:
        if not self.increments:
            console.print("nothing was kept, so nothing was changed")
            return
        when = "now" if self.running else "when the node runs again"
        console.print(f"what {count(self.increments, 'round')} learned is shared {when}")
        if self.next_lines:
            console.next_steps(*self.next_lines)


@dataclass(frozen=True, slots=True)
class TrainResult(Result):
    """The rounds that were run, and the adapter that is in use now."""

    log: Log
    supply: Supply
    rounds: tuple[RoundReport, ...]
    adapter: str
    dry_run: bool
    stopped: signals.Signalled | None
    next_lines: tuple[str, ...]
    taken: Taken
    share: Share | None = None

    @property
    def error(self) -> Exception | None:
        return self.stopped  # type: ignore[return-value]  # explained like any other end of a run

    def data(self) -> Mapping[str, Any]:
        return {
            "feedback": self.log.path,
            "supply": self.supply,
            "problems": self.log.problems,
            "rounds": [
                {**report.as_dict(), **dataclasses.asdict(peak)}
                for report, peak in zip(self.rounds, self.taken.rounds, strict=True)
            ],
            **self.taken.data(),
            "adapter": self.adapter,
            "dry_run": self.dry_run,
            "advice": self._advice(),
            "shared": self.share,
        }

    def render(self, console: Page) -> None:
        if self.dry_run or not self.rounds:
            console.title(f"{tilde(self.log.path)}: {'nothing was trained' if not self.dry_run else 'a dry run'}")
            console.fields(self.supply.rows())
        else:
            render_rounds(console, self.rounds)
        console.print()
        console.print(f"adapter in use: {self.adapter}")
        if self.share is not None and self.share.line:
            console.print(self.share.line)
        if self.rounds:
            console.print(f"memory: {self.taken.line()}")
        console.health(self._advice())
        if self.next_lines:
            console.next_steps(*self.next_lines)

    def _advice(self) -> list[str]:
        return [*advice(self.supply, self.rounds, self.dry_run), *self.taken.health()]


@command(commands, "train")
def train(
    run: Run,
    feedback: Annotated[
        Path | None, typer.Option(metavar="LOG", help="Feedback log, instead of the home's own.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="Rounds to run.")] = DEFAULT_ROUNDS,
    profile: Annotated[
        str | None, typer.Option(metavar="PROFILE", help="Hardware profile, instead of the home's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Seed, instead of the home's.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Learn again from attempts already trained on.")] = False,
    no_share: Annotated[
        bool, typer.Option("--no-share", help="Keep what is learned on this device; --share-kept shares it later.")
    ] = False,
    share_kept: Annotated[
        bool, typer.Option("--share-kept", help="Train nothing; share what --no-share kept.")
    ] = False,
    memory_budget: BudgetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be learned from.")] = False,
) -> Result:
    """Learns from the feedback log.

    Each round plays prompts that have a check, takes in what people said of other answers, and keeps a new adapter
    version. Ctrl-C drops the round in progress and keeps those before it; a second Ctrl-C does not wait.
    """
    from training.history import History
    from training.log import read_log
    from training.pool import Pool

    if no_share and share_kept:
        raise UsageError("--no-share and --share-kept exclude each other", "leave one of them out")
    watch = Watch(run, parse(memory_budget))
    config = run.config(profile=profile, seed=seed)
    if (no_share or share_kept) and not swarm.places(run).is_member:
        raise swarm.no_swarm(run)
    if share_kept:
        return _share_kept(run)
    log = read_log(feedback or run.home.feedback_path)
    _tell_problems(run, log)
    with run.home.training_lock("train"):
        with History(run.home.history_path) as history:
            trained = frozenset[str]() if again else history.trained()
            pool = Pool(log.entries, trained=trained, played=history.plays())
            adapter = sharing.in_use(run, config, history.current)
        supply = Supply(
            len(log.entries), pool.playable, pool.waiting, pool.already_trained, pool.contradictory, len(log.problems)
        )
        if dry_run or supply.is_empty:
            next_lines = (run.spell("train"),) if dry_run and not supply.is_empty else ()
            return TrainResult(log, supply, (), adapter, dry_run, None, next_lines, watch.taken())
        fit = functools.partial(watch.fit, entries=log.entries)
        reports, stopped, adapter, handed = _train(run, config, pool, rounds, not no_share, watch, fit)
    next_lines = (f"{run.spell('eval')} --data LOG",) if any(report.steps for report in reports) else ()
    share = None if handed is None else _share(run, handed, kept=no_share)
    return TrainResult(log, supply, tuple(reports), adapter, False, stopped, next_lines, watch.taken(), share)


def _share_kept(run: Run) -> ShareResult:
    with run.home.training_lock("train"):
        moved = sharing.share_kept(run)
    sharing.wake(run)
    running = swarm.is_running(run)
    return ShareResult(moved, running, () if running else (run.spell("up", "--detach"),))


def _share(run: Run, wins: int, *, kept: bool) -> Share:
    running = swarm.is_running(run)
    return Share(wins, kept, running, sharing.say_where(run, wins, kept=kept, running=running) if wins else "")


def _train(
    run: Run, config: Config, pool: Pool, rounds: int, share: bool, watch: Watch, fit: Fit
) -> tuple[list[RoundReport], signals.Signalled | None, str, int | None]:
    """Runs the rounds.

    Returns:
        Their reports; the signal that ended them early; the adapter in use; wins handed over, for who takes part in a
        swarm.
    """
    reports: list[RoundReport] = []
    stopped, dropped = None, ""
    handed = 0 if sharing.takes_part(run, config) else None
    if handed is None and swarm.places(run).is_member:
        run.say(sharing.UNFIT)

    def heard() -> None:
        run.say("stopping at the next safe point (again to stop at once)")

    def hand_over(store: AdapterStore, history: History) -> None:
        nonlocal handed
        if handed is not None:
            handed += sharing.hand_over(run, store, history, keep=not share)
            sharing.wake(run)

    with (
        learner(run, config, hand_over=hand_over, fit=fit) as ready,
        signals.deferred(heard) as stop,
        Phases(run, PaceWriter(run.home, rounds)) as phases,
    ):
        ready.store.tidy()
        try:
            for index in range(rounds):
                if stop or not (pool.playable or pool.waiting):
                    break
                reports.append(train_round(ready, config, pool, index, rounds, stop, phases))
                hand_over(ready.store, ready.history)
                run.say(round_line(reports[-1]))
                ready = replace(ready, profile=watch.look(ready.lm, ready.profile))
            ready.store.tidy()
        except Interrupted:
            dropped = f"round {ready.history.next_round()} dropped; "
        if stop.number is not None:
            stopped = signals.Signalled(stop.number)
            run.say(f"{dropped}{count(len(reports), 'round')} kept")
        adapter = ready.history.current
    return reports, stopped, adapter, handed


def train_round(
    ready: Learner, config: Config, pool: Pool, index: int, rounds: int, stop: signals.Stop, phases: Phases
) -> RoundReport:
    """Runs round ``index`` (from 0) of ``rounds``, over which the learning rate falls.

    Args:
        ready: The model and where its versions go.
        config: The home's settings.
        pool: What there is to learn from.
        index: Which round.
        rounds: Of how many.
        stop: Whether somebody asked to stop.
        phases: Shows how far the round is.

    Raises:
        Interrupted: ``stop`` was set; nothing of the round is kept.
    """
    from training.rounds import annealed, run_round

    def notify(phase: str, done: int, total: int) -> None:
        phases.show(phase, done, total)
        if stop:
            raise Interrupted("stopped at a safe point")

    settings = round_config(ready, config)
    rate = annealed(settings.update.learning_rate, index, rounds)
    current = replace(settings, update=replace(settings.update, learning_rate=rate))
    phases.begin(f"round {index + 1} of {rounds}")
    report = run_round(ready.lm, ready.store, ready.history, pool, current, notify=notify)
    phases.end()
    return report


def round_config(ready: Learner, config: Config) -> RoundConfig:
    """What the profile, the model's calibration and the home's seed make of a round."""
    from training.catalogue import learning_rate
    from training.rounds import RoundConfig
    from training.selfplay import PlayConfig
    from training.update import UpdateConfig

    profile = ready.profile
    return RoundConfig(
        rollouts=profile.rollouts,
        play=PlayConfig(rollout_batch=profile.rollout_batch, most_new_tokens=profile.new_tokens),
        update=UpdateConfig(
            steps=profile.steps,
            batch=profile.batch,
            micro_batch=profile.micro_batch,
            learning_rate=learning_rate(config.model),
        ),
        seed=config.seed,
    )


def round_line(report: RoundReport) -> str:
    """One line about a round, for people who watch."""
    return f"round {report.round}: {round_figures(report)}"


def round_figures(report: RoundReport) -> str:
    """What a round brought, in words."""
    parts = []
    if report.played:
        parts.append(f"{report.played} played, {report.right_first} right at once, {report.revised} revised")
    if report.told:
        parts.append(f"{report.told} judged by people")
    parts.append(f"{count(report.wins, 'win')}, {count(report.losses, 'loss', 'losses')}")
    if report.loss_win is not None:
        parts.append(f"loss {report.loss_win:.3f}")
    return f"{'; '.join(parts)}; {report.seconds:.0f} s"


def render_rounds(console: Page, rounds: Sequence[RoundReport]) -> None:
    """Prints a table with a row a round."""
    names = ("PLAYED", "TOLD", "RIGHT", "REWRITTEN", "REVISED", "WINS", "LOSSES", "LOSS", "TIME")
    rows = [
        [
            str(report.round),
            *map(str, (report.played, report.told, report.right_first, report.reformatted, report.revised)),
            *map(str, (report.wins, report.losses)),
            "" if report.loss_win is None else f"{report.loss_win:.3f}",
            f"{report.seconds:.0f} s",
            report.adapter if report.steps else "no change",
        ]
        for report in rounds
    ]
    console.rows([Column(name, justify="right") for name in ("ROUND", *names)] + [Column("ADAPTER")], rows)


def _tell_problems(run: Run, log: Log) -> None:
    for problem in log.problems[:SHOWN_PROBLEMS]:
        run.say(f"{log.path}:{problem.line}: {problem.reason}")
    if len(log.problems) > SHOWN_PROBLEMS:
        more = len(log.problems) - SHOWN_PROBLEMS
        run.say(f"{log.path}: and {count(more, 'bad line')} more: {run.spell('feedback', 'check', str(log.path))}")
    if log.unfinished:
        run.say(f"{log.path}: the last line has no line end yet, so it was left unread")
