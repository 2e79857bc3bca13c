"""`spearctl demo`: the whole of it in a few minutes, in a home that is thrown away."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spearctl import signals
from spearctl.command import command, group
from spearctl.commands.eval import constant, figures, spread
from spearctl.commands.init import chosen_profile, make_home
from spearctl.commands.train import render_rounds, run_rounds
from spearctl.config import Preferences
from spearctl.learner import Phases, learner
from spearctl.output import Page, Result
from spearctl.run import Run
from spearctl.text import binary_size, clip, count
from training.errors import Interrupted

if TYPE_CHECKING:
    from training.evaluate import Answered, Evaluation
    from training.rounds import RoundReport

commands = group()

DEFAULT_ROUNDS = 6
TRAIN_QUESTIONS = 200
TEST_QUESTIONS = 120
SHOWN_QUESTIONS = 8


@dataclass(frozen=True, slots=True)
class DemoResult(Result):
    """Before and after, on questions that were not trained on."""

    model: str
    profile: str
    trained_on: int
    rounds: tuple[RoundReport, ...]
    before: Evaluation
    after: Evaluation
    seconds: float
    peak_bytes: int

    def data(self) -> Mapping[str, Any]:
        return {
            "model": self.model,
            "profile": self.profile,
            "trained_on": self.trained_on,
            "rounds": [report.as_dict() for report in self.rounds],
            "before": figures(self.before),
            "after": figures(self.after),
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
        }

    def render(self, console: Page) -> None:
        render_rounds(console, self.rounds)
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
        learned = f"{count(self.trained_on, 'question')} to learn from, {count(len(self.rounds), 'round')}"
        console.print(f"{learned}, {self.seconds:.0f} s, {binary_size(self.peak_bytes)} of memory at most")
        if self.rounds and self.rounds[-1].health:
            console.health(self.rounds[-1].health)
        console.next_steps("spearctl init", before="Your own device:")


@command(commands, "demo")
def demo(
    run: Run,
    rounds: Annotated[int, typer.Option(min=1, max=100, metavar="N", help="Rounds to run.")] = DEFAULT_ROUNDS,
    profile: Annotated[
        str | None, typer.Option(metavar="PROFILE", help="Hardware profile, instead of the one detected.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of questions and training.")] = 0,
) -> DemoResult:
    """Shows it all in a few minutes, in a home that is thrown away.

    The default model answers made-up questions with one word, is told when it was wrong, and learns; then it is asked
    others. Nothing is kept but the model in the cache.
    """
    with tempfile.TemporaryDirectory(prefix="spearctl-demo-", ignore_cleanup_errors=True) as folder:
        own = Run("demo", replace(run.options, home=Path(folder)))
        own.place.prepare()
        chosen, reason = chosen_profile(own, profile)
        run.say(f"profile {chosen}{': ' if reason else ''}{reason}")
        make_home(own, own.place, Preferences(name="demo", seed=seed), chosen)
        return _demo(own, rounds, seed)


def _demo(run: Run, rounds: int, seed: int) -> DemoResult:
    from spearctl.questions import demo_log
    from training.log import append, read_log
    from training.pool import Pool

    train, test = demo_log(train=TRAIN_QUESTIONS, test=TEST_QUESTIONS, seed=seed)
    append(run.home.feedback_path, train)
    config = run.config()
    pool = Pool(read_log(run.home.feedback_path).entries, trained=frozenset(), played={})
    reports: list[RoundReport] = []
    started = time.monotonic()

    def heard() -> None:
        run.say("stopping")

    with learner(run, config) as ready, signals.deferred(heard) as stop, Phases(run) as phases:
        from training.evaluate import evaluate

        def notify(phase: str, done: int, total: int) -> None:
            phases.show(phase, done, total)
            stop.raise_if_asked()

        run.say(f"asking {count(len(test), 'question')} before any training")
        phases.begin("before")
        before = evaluate(ready.lm, test, batch=ready.profile.rollout_batch, notify=notify)
        try:
            run_rounds(ready, config, pool, rounds, stop, phases, reports, run)
        except Interrupted:
            stop.raise_if_asked()
        phases.begin("after")
        after = evaluate(ready.lm, test, batch=ready.profile.rollout_batch, notify=notify)
        profile = ready.profile.name
    seconds = time.monotonic() - started
    return DemoResult(config.model, profile, len(train), tuple(reports), before, after, seconds, _peak_bytes())


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
