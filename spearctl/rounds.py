"""Rounds as `train`, `train --follow` and `demo` run them: each is handed over as soon as it is kept, and told."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.table import Column

from spearctl import sharing, signals, swarm
from spearctl.budget import Watch
from spearctl.config import Config
from spearctl.learner import Learner, Loaded, Phases, learner
from spearctl.output import Page
from spearctl.run import Run
from spearctl.text import count
from training.errors import Interrupted

if TYPE_CHECKING:
    from training.feedback import Entry
    from training.history import History
    from training.holdout import HoldOut
    from training.pool import Pool
    from training.rounds import RoundConfig, RoundReport
    from training.store import AdapterStore


class Rounds:
    """The rounds of one run of `train`.

    Args:
        run: Whose home.
        config: Its settings.
        watch: Keeps them within a memory budget.
        keep: Whether what they learn stays on this device.

    Attributes:
        reports: Of the rounds that were kept.
        handed: Wins handed over to the node.
    """

    def __init__(self, run: Run, config: Config, watch: Watch, *, keep: bool) -> None:
        self._run, self._config, self._watch, self._keep = run, config, watch, keep
        self.reports: list[RoundReport] = []
        self.handed = 0
        if swarm.places(run).is_member and not sharing.takes_part(run, config):
            run.say(sharing.UNFIT)

    def learner(self, entries: Sequence[Entry], *, loaded: Loaded | None = None) -> AbstractContextManager[Learner]:
        """The home's model, ready to learn from the current version; for the holder of the training lock.

        Args:
            entries: What there is to learn from.
            loaded: The home's model, if it is loaded already.
        """
        fit = functools.partial(self._watch.fit, entries=entries)
        return learner(self._run, self._config, hand_over=self._hand_over, fit=fit, loaded=loaded)

    def run(
        self,
        ready: Learner,
        pool: Pool,
        index: int,
        rounds: int,
        stop: signals.Stop,
        phases: Phases,
        hold_out: HoldOut | None = None,
    ) -> Learner:
        """Runs one round, hands over what it learned, and says so; see `train_round`.

        Returns:
            What the next round is run with.
        """
        report = train_round(ready, self._config, pool, index, rounds, stop, phases, hold_out=hold_out)
        self.reports.append(report)
        self._hand_over(ready.store, ready.history)
        self._run.say(round_line(report))
        return replace(ready, profile=self._watch.look(ready.lm, ready.profile))

    def _hand_over(self, store: AdapterStore, history: History) -> None:
        if sharing.takes_part(self._run, self._config):  # between rounds a swarm may be joined or left
            self.handed += sharing.hand_over(self._run, store, history, keep=self._keep)
            sharing.wake(self._run)


def train_round(
    ready: Learner,
    config: Config,
    pool: Pool,
    index: int,
    rounds: int,
    stop: signals.Stop,
    phases: Phases,
    *,
    hold_out: HoldOut | None = None,
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
        hold_out: Judges what was learned before it is kept.

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
    phases.begin(f"round {index + 1} of {rounds}" if rounds > 1 else "round")
    report = run_round(ready.lm, ready.store, ready.history, pool, current, hold_out=hold_out, notify=notify)
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
    if report.discarded is not None:
        parts.append(f"discarded: {report.discarded}")
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
            "discarded" if report.discarded else report.adapter if report.steps else "no change",
        ]
        for report in rounds
    ]
    console.rows([Column(name, justify="right") for name in ("ROUND", *names)] + [Column("ADAPTER")], rows)
