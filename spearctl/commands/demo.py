"""`spearctl demo`: the whole of it in a few minutes, in a home that is thrown away."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column

from spearctl import sharing, signals
from spearctl.command import command, group
from spearctl.commands.eval import constant, figures, spread
from spearctl.commands.init import chosen_profile
from spearctl.learner import Learner, Loaded, Phases, learner
from spearctl.output import Page, Result
from spearctl.rehearsal import Device, agree, devices, learn_from
from spearctl.rounds import round_figures, train_round
from spearctl.run import Run
from spearctl.text import binary_size, clip, count
from training.errors import Interrupted

if TYPE_CHECKING:
    from training.evaluate import Answered, Evaluation
    from training.history import History
    from training.rounds import RoundReport
    from training.store import AdapterStore

commands = group()

NAMES = ("anna", "ben", "carol")
DEFAULT_ROUNDS = 6
TRAIN_QUESTIONS = 200
TEST_QUESTIONS = 120
SHOWN_QUESTIONS = 8


@dataclass(frozen=True, slots=True)
class Turn:
    """A round of one device."""

    device: str
    report: RoundReport


@dataclass(frozen=True, slots=True)
class NodeState:
    """Where a node of the demo ended."""

    name: str
    head_round: int
    state_hash: str


@dataclass(frozen=True, slots=True)
class DemoResult(Result):
    """Before and after, on questions that were not trained on."""

    model: str
    profile: str
    trained_on: int
    nodes: tuple[NodeState, ...]
    turns: tuple[Turn, ...]
    before: Evaluation
    after: Evaluation
    seconds: float
    peak_bytes: int

    def data(self) -> Mapping[str, Any]:
        return {
            "model": self.model,
            "profile": self.profile,
            "trained_on": self.trained_on,
            "nodes": self.nodes,
            "rounds": [{"device": turn.device, **turn.report.as_dict()} for turn in self.turns],
            "before": figures(self.before),
            "after": figures(self.after),
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
        }

    def render(self, console: Page) -> None:
        _render_turns(console, self.turns)
        console.print()
        questions = f"{len(self.after.answers)} questions it did not train on"
        console.title(f"{self.model} on {questions}, 95 % intervals")
        before, after = self.before, self.after
        console.rows(
            ["", "BEFORE", "AFTER"],
            [
                ["accuracy", spread(before.accuracy), spread(after.accuracy)],
                ["best constant answer", constant(before.best_constant), constant(after.best_constant)],
                ["one word, as asked", spread(before.format_rate), spread(after.format_rate)],
                ["contains the answer", spread(before.contains), spread(after.contains)],
            ],
        )
        console.print()
        pairs = _telling(before.answers, after.answers)
        console.rows(["ASKED", "BEFORE", "AFTER", ""], [_row(*pair) for pair in pairs])
        console.print()
        rows = [[node.name, str(node.head_round), node.state_hash] for node in self.nodes]
        console.rows(["NODE", Column("HEAD", justify="right"), "STATE HASH"], rows)
        console.print()
        learned = f"{count(self.trained_on, 'question')} to learn from, {count(len(self.turns), 'turn')}"
        console.print(f"{learned}, {self.seconds:.0f} s, {binary_size(self.peak_bytes)} of memory at most")
        if self.turns:
            console.health(self.turns[-1].report.health)
        console.next_steps("spearctl init", before="Your own device:")


@command(commands, "demo")
def demo(
    run: Run,
    rounds: Annotated[int, typer.Option(min=1, max=100, metavar="N", help="Rounds to run, by turns.")] = DEFAULT_ROUNDS,
    profile: Annotated[
        str | None, typer.Option(metavar="PROFILE", help="Hardware profile, instead of the one detected.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of questions and training.")] = 0,
) -> DemoResult:
    """Shows it all in a few minutes: three devices that learn from each other, in homes that are thrown away.

    Three nodes run as processes on this device and form a swarm. By turns, each lets the default model answer
    questions of its own with one word, is told when that was wrong, learns, and shares what it learned; then the model
    is asked others. Nothing is kept but the model in the cache.
    """
    chosen, reason = chosen_profile(run, profile)
    run.say(f"profile {chosen}{': ' if reason else ''}{reason}")
    with (
        tempfile.TemporaryDirectory(prefix="spearctl-demo-", ignore_cleanup_errors=True) as folder,
        devices(run, NAMES, chosen, seed, Path(folder)) as made,
    ):
        run.say(f"{', '.join(NAMES)} run a node each, in one swarm")
        return _demo(run, made, rounds, seed)


def _demo(run: Run, made: list[Device], rounds: int, seed: int) -> DemoResult:
    from spearctl.questions import demo_log
    from training.evaluate import evaluate

    train, test = demo_log(train=TRAIN_QUESTIONS, test=TEST_QUESTIONS, seed=seed)
    for index, device in enumerate(made):
        learn_from(device, train[index :: len(made)])
    turns: list[Turn] = []
    started = time.monotonic()

    def heard() -> None:
        run.say_at_once("stopping")

    def asked(ready: Learner, label: str) -> Evaluation:
        phases.begin(label)
        return evaluate(ready.lm, test, batch=ready.profile.rollout_batch, notify=notify)

    with signals.deferred(heard) as stop, Phases(run) as phases:

        def notify(phase: str, done: int, total: int) -> None:
            phases.show(phase, done, total)
            stop.raise_if_asked()

        first = made[0]
        with learner(first.run, first.config) as ready:
            run.say(f"asking {count(len(test), 'question')} before any training")
            before, loaded = asked(ready, "before"), ready.loaded
        try:
            for index in range(rounds):
                turns.append(_turn(run, made, index, rounds, loaded, stop, phases))
        except Interrupted:
            stop.raise_if_asked()
        with learner(made[-1].run, made[-1].config, loaded=loaded) as ready:
            after, profile = asked(ready, "after"), ready.profile.name
        nodes = tuple(_node(device.name, status) for device, status in zip(made, agree(made, 0), strict=True))
    seconds = time.monotonic() - started
    reference = made[0].config.model
    return DemoResult(reference, profile, len(train), nodes, tuple(turns), before, after, seconds, _peak_bytes())


def _turn(
    run: Run,
    made: list[Device],
    index: int,
    rounds: int,
    loaded: Loaded,
    stop: signals.Stop,
    phases: Phases,
) -> Turn:
    """Lets one device learn for a round from what all know so far, and waits until all know what it learned."""
    from training.history import History
    from training.log import read_log
    from training.pool import Pool

    device = made[index % len(made)]
    head = device.status()["swarm"]["head_round"]

    def hand_over(store: AdapterStore, history: History) -> None:
        sharing.hand_over(device.run, store, history, keep=False)
        sharing.wake(device.run)

    with History(device.run.home.history_path) as history:
        played = history.plays()
    pool = Pool(read_log(device.run.home.feedback_path).entries, trained=frozenset(), played=played)
    with learner(device.run, device.config, hand_over=hand_over, loaded=loaded) as ready:
        report = train_round(ready, device.config, pool, index, rounds, stop, phases)
        hand_over(ready.store, ready.history)
    run.say(f"turn {index + 1}, {device.name}: {round_figures(report)}")
    agree(made, head + bool(report.steps))
    return Turn(device.name, report)


def _node(name: str, status: Mapping[str, Any]) -> NodeState:
    return NodeState(name, status["swarm"]["head_round"], status["swarm"]["state_hash"])


def _render_turns(console: Page, turns: Sequence[Turn]) -> None:
    names = ("PLAYED", "RIGHT", "REWRITTEN", "REVISED", "WINS", "LOSSES", "LOSS", "TIME")
    rows = []
    for number, turn in enumerate(turns, 1):
        report = turn.report
        counts = (report.played, report.right_first, report.reformatted, report.revised, report.wins, report.losses)
        loss = "" if report.loss_win is None else f"{report.loss_win:.3f}"
        rows.append([str(number), turn.device, *map(str, counts), loss, f"{report.seconds:.0f} s"])
    columns = [Column(name, justify="right") for name in names]
    console.rows([Column("TURN", justify="right"), "DEVICE", *columns], rows)


def _telling(before: tuple[Answered, ...], after: tuple[Answered, ...]) -> list[tuple[Answered, Answered]]:
    """A few pairs of answers spread over the questions, not chosen by how they came out."""
    step = max(1, len(after) // SHOWN_QUESTIONS)
    return list(zip(before, after, strict=True))[::step][:SHOWN_QUESTIONS]


def _row(before: Answered, after: Answered) -> list[str]:
    asked = before.entry.conversation[-1].content.removesuffix(" Answer with one word only.")
    check = before.entry.check
    expected = "right" if after.judgement.verdict == "right" else f"wrong: {check.expect}" if check else ""
    return [clip(asked, 34), clip(before.completion, 26), clip(after.completion, 14), expected]


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
