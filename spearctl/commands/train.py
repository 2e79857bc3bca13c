"""`spearctl train`: rounds of SPEAR on a feedback log. A round is kept whole or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spearctl import following, sharing, signals, swarm
from spearctl.budget import BudgetOption, Taken, Watch, parse
from spearctl.command import command, group
from spearctl.config import Config
from spearctl.errors import UsageError
from spearctl.following import BatchOption, EveryOption, FollowOption, HeldOutOption, MaxDropOption, ReplayOption
from spearctl.learner import Phases
from spearctl.output import Page, Result
from spearctl.pace import PaceWriter
from spearctl.rounds import Rounds, render_rounds
from spearctl.run import Run
from spearctl.supply import Supply, advice
from spearctl.text import count, tilde
from training.errors import Interrupted

if TYPE_CHECKING:
    from training.log import Log
    from training.pool import Pool
    from training.rounds import RoundReport

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
    rounds: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, metavar="N", help=f"Rounds to run: {DEFAULT_ROUNDS}; with --follow, no end."),
    ] = None,
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
    follow: FollowOption = False,
    batch: BatchOption = None,
    every: EveryOption = None,
    held_out: HeldOutOption = None,
    max_drop: MaxDropOption = None,
    replay: ReplayOption = None,
) -> Result:
    """Learns from the feedback log.

    Each round plays prompts that have a check, takes in what people said of other answers, and keeps a new adapter
    version. Ctrl-C drops the round in progress and keeps those before it; a second Ctrl-C does not wait.

    With --follow it waits for more and learns again, each time from what the swarm knows by then.
    """
    given = {"batch": batch, "every": every, "held_out": held_out, "max_drop": max_drop, "replay": replay}
    settings = following.settings(given) if follow else None
    _check_flags(given, follow=follow, again=again, dry_run=dry_run, no_share=no_share, share_kept=share_kept)
    watch = Watch(run, parse(memory_budget))
    config = run.config(profile=profile, seed=seed)
    if (no_share or share_kept) and not swarm.places(run).is_member:
        raise swarm.no_swarm(run)
    if share_kept:
        return _share_kept(run)
    path = feedback or run.home.feedback_path
    if settings is not None:
        return _follow(run, config, path, settings, rounds, watch, keep=no_share)
    return _once(run, config, path, rounds or DEFAULT_ROUNDS, watch, keep=no_share, again=again, dry_run=dry_run)


def _check_flags(
    given: Mapping[str, Any], *, follow: bool, again: bool, dry_run: bool, no_share: bool, share_kept: bool
) -> None:
    if no_share and share_kept:
        raise UsageError("--no-share and --share-kept exclude each other", "leave one of them out")
    if follow:
        for flag, is_set in (("--again", again), ("--dry-run", dry_run), ("--share-kept", share_kept)):
            if is_set:
                raise UsageError(f"--follow and {flag} exclude each other", "leave one of them out")
    for name, value in given.items():
        if value is not None and not follow:
            raise UsageError(f"--{name.replace('_', '-')} says how to follow a log", "add --follow")


def _once(
    run: Run, config: Config, path: Path, most: int, watch: Watch, *, keep: bool, again: bool, dry_run: bool
) -> TrainResult:
    """Learns from a log as it is now."""
    from training.history import History
    from training.log import read_log
    from training.pool import Pool

    log = read_log(path)
    _tell_problems(run, log)
    with run.home.training_lock("train"):
        with History(run.home.history_path) as history:
            trained = frozenset[str]() if again else history.trained()
            pool = Pool(log.entries, trained=trained, played=history.plays())
            adapter = sharing.in_use(run, config, history.current)
        supply = Supply.of(log, pool)
        if dry_run or supply.is_empty:
            next_lines = (run.spell("train"),) if dry_run and not supply.is_empty else ()
            return TrainResult(log, supply, (), adapter, dry_run, None, next_lines, watch.taken())
        rounds = Rounds(run, config, watch, keep=keep)
        stopped = _run(run, rounds, log, pool, most)
    return _result(run, config, log, supply, rounds, stopped, watch, keep=keep)


def _run(run: Run, rounds: Rounds, log: Log, pool: Pool, most: int) -> signals.Signalled | None:
    """Runs the rounds; the signal that ended them early."""

    def heard() -> None:
        run.say_at_once("stopping at the next safe point (again to stop at once)")

    dropped = ""
    pace = PaceWriter(run.home, most)
    with rounds.learner(log.entries) as ready, signals.deferred(heard) as stop, Phases(run, pace) as phases:
        ready.store.tidy()
        try:
            for index in range(most):
                if stop or not (pool.playable or pool.waiting):
                    break
                ready = rounds.run(ready, pool, index, most, stop, phases)
            ready.store.tidy()
        except Interrupted:
            dropped = f"round {ready.history.next_round()} dropped; "
        if stop.number is None:
            return None
        run.say(f"{dropped}{count(len(rounds.reports), 'round')} kept")
        return signals.Signalled(stop.number)


def _follow(
    run: Run, config: Config, path: Path, settings: following.Follow, most: int | None, watch: Watch, *, keep: bool
) -> TrainResult:
    """Learns from a log while it grows."""
    from training.log import Log

    rounds = Rounds(run, config, watch, keep=keep)
    with closing(following.Feed(path)) as feed:
        follower = following.Follower(run, feed, settings, rounds, most)
        stopped = follower.follow()
        run.say(f"{count(len(rounds.reports), 'round')} kept")
        log, supply = feed.log or Log(path, (), (), 0, False), follower.supply()
    return _result(run, config, log, supply, rounds, stopped, watch, keep=keep)


def _result(
    run: Run,
    config: Config,
    log: Log,
    supply: Supply,
    rounds: Rounds,
    stopped: signals.Signalled | None,
    watch: Watch,
    *,
    keep: bool,
) -> TrainResult:
    from training.history import History

    reports = tuple(rounds.reports)
    next_lines = (f"{run.spell('eval')} --data LOG",) if any(report.steps for report in reports) else ()
    share = _share(run, rounds.handed, kept=keep) if sharing.takes_part(run, config) else None
    with History(run.home.history_path) as history:
        adapter = history.current
    return TrainResult(log, supply, reports, adapter, False, stopped, next_lines, watch.taken(), share)


def _share_kept(run: Run) -> ShareResult:
    with run.home.training_lock("train"):
        moved = sharing.share_kept(run)
    sharing.wake(run)
    running = swarm.is_running(run)
    return ShareResult(moved, running, () if running else (run.spell("up", "--detach"),))


def _share(run: Run, wins: int, *, kept: bool) -> Share:
    running = swarm.is_running(run)
    return Share(wins, kept, running, sharing.say_where(run, wins, kept=kept, running=running) if wins else "")


def _tell_problems(run: Run, log: Log) -> None:
    for problem in log.problems[:SHOWN_PROBLEMS]:
        run.say(f"{log.path}:{problem.line}: {problem.reason}")
    if len(log.problems) > SHOWN_PROBLEMS:
        more = len(log.problems) - SHOWN_PROBLEMS
        run.say(f"{log.path}: and {count(more, 'bad line')} more: {run.spell('feedback', 'check', str(log.path))}")
    if log.unfinished:
        run.say(f"{log.path}: the last line has no line end yet, so it was left unread")
