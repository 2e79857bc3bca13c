"""`spearctl eval`: how good an adapter is on a log."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spearctl.budget import BudgetOption, Taken, Watch, parse
from spearctl.command import command, group
from spearctl.learner import Learner, Phases, learner
from spearctl.output import Page, Result
from spearctl.run import Run
from spearctl.text import clip, count, tilde

if TYPE_CHECKING:
    from training.evaluate import Evaluation, Share
    from training.feedback import Entry

commands = group()

ENOUGH = 16
ONE_SIDED = 0.9


@dataclass(frozen=True, slots=True)
class EvalResult(Result):
    """What a model with an adapter did on a log."""

    log: Path
    adapter: str
    evaluation: Evaluation
    problems: int
    show_answers: bool
    taken: Taken

    def data(self) -> Mapping[str, Any]:
        found = figures(self.evaluation)
        return {
            "data": self.log,
            "adapter": self.adapter,
            "bad_lines": self.problems,
            **found,
            **self.taken.data(),
            "health": self._health(),
        }

    def render(self, console: Page) -> None:
        found = self.evaluation
        console.title(f"{tilde(self.log)} with adapter {self.adapter}")
        rows = []
        if found.answers:
            rows = [
                ("questions", f"{len(found.answers):,}"),
                ("accuracy", spread(found.accuracy)),
                ("best constant", constant(found.best_constant)),
                ("in the asked form", spread(found.format_rate)),
                ("right, if in form", spread(found.accuracy_formatted)),
                ("contains the answer", spread(found.contains)),
                ("most common answer", constant(found.common_answer)),
            ]
        if found.choice is not None:
            rows.append(("by likelihood", f"{spread(found.choice.acc)}; per byte {spread(found.choice.acc_norm)}"))
        if found.preference is not None:
            rows.append(("log-likelihood", _preference(found)))
        rows.append(("time", f"{found.seconds:.0f} s"))
        rows.append(("memory", self.taken.line()))
        console.fields(rows)
        console.health(self._health())
        if self.show_answers:
            console.print()
            console.rows(["ASKED", "ANSWERED", "", "EXPECTED"], [_row(answer) for answer in found.answers])

    def _health(self) -> list[str]:
        lines = [f"{count(self.problems, 'bad line')} left out"] if self.problems else []
        common, best = self.evaluation.common_answer, self.evaluation.best_constant
        if common and best and len(self.evaluation.answers) >= ENOUGH and common[1] > max(ONE_SIDED, best[1] + 0.1):
            lines.append(f'collapse: {common[1]:.0%} of the answers are "{clip(common[0], 30)}", whatever was asked')
        return [*lines, *self.taken.health()]


@command(commands, "eval")
def evaluate(
    run: Run,
    data: Annotated[Path, typer.Option(metavar="LOG", help="Log with checks, or with answers that people judged.")],
    adapter: Annotated[
        str | None, typer.Option(metavar="NAME", help='Adapter version; "base" for none. Default: the one in use.')
    ] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="PROFILE", help="Hardware profile, instead of the home's.")
    ] = None,
    memory_budget: BudgetOption = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first N entries.")] = None,
    answers: Annotated[bool, typer.Option("--answers", help="Print every question with its answer.")] = False,
) -> EvalResult:
    """Measures an adapter on a log.

    Questions with a check are answered greedily and judged; the best constant answer stands beside the accuracy, with
    95 % intervals. Where people judged answers, right ones are compared with wrong ones by likelihood.
    """
    from training.errors import FeedbackError
    from training.log import read_log

    watch = Watch(run, parse(memory_budget))
    config = run.config(profile=profile)
    log = read_log(data)
    entries = log.entries[:limit]
    if not any(entry.check or any(attempt.verdict for attempt in entry.attempts) for entry in entries):
        raise FeedbackError(
            f"{data}: nothing in it can be measured", "entries need a `check`, or attempts with a `verdict`"
        )
    fit = functools.partial(watch.fit, entries=entries, learns=False)
    with learner(run, config, adapter=adapter, fit=fit) as ready, Phases(run) as phases:
        from training.evaluate import evaluate as measure

        found = measure(
            ready.lm,
            entries,
            batch=ready.profile.rollout_batch,
            most_new_tokens=ready.profile.new_tokens,
            notify=phases.show,
        )
        _record(run, ready, entries, found)
        return EvalResult(data, ready.adapter, found, len(log.problems), answers, watch.taken())


def _record(run: Run, ready: Learner, entries: Sequence[Entry], found: Evaluation) -> None:
    """Keeps the figures for `log`. What was measured is worth more than that, so a failure is only told."""
    from training.errors import TrainingError
    from training.evaluate import questions_digest

    if not found.answers:
        return
    try:
        ready.history.add_evaluation(
            adapter=ready.adapter,
            log_sha256=questions_digest(entries),
            n=found.accuracy.n,
            right=found.accuracy.count,
            formatted=found.format_rate.count,
        )
    except TrainingError as error:
        run.say(f"`log` will not show these figures: {error.message}")


def figures(found: Evaluation) -> dict[str, Any]:
    """The figures of an evaluation, as scripts read them."""
    low, high = found.accuracy.interval or (None, None)
    result: dict[str, Any] = {
        "n": len(found.answers),
        "accuracy": found.accuracy.value,
        "low": low,
        "high": high,
        "format_rate": found.format_rate.value,
        "accuracy_formatted": found.accuracy_formatted.value,
        "contains": found.contains.value,
        "contains_interval": found.contains.interval,
        "best_constant": found.best_constant and found.best_constant[1],
        "best_constant_answer": found.best_constant and found.best_constant[0],
        "common_answer": found.common_answer and found.common_answer[0],
        "common_answer_share": found.common_answer and found.common_answer[1],
        "seconds": found.seconds,
    }
    if found.choice is not None:
        result["choice"] = {"acc": found.choice.acc.value, "acc_norm": found.choice.acc_norm.value}
    if found.preference is not None:
        shown = found.preference
        result["log_likelihood"] = {
            "right": shown.right,
            "wrong": shown.wrong,
            "margin": shown.margin,
            "right_n": shown.right_n,
            "wrong_n": shown.wrong_n,
        }
    return result


def spread(share: Share) -> str:
    """A share with its interval: "0.71 (0.62 to 0.78)"."""
    if share.value is None or share.interval is None:
        return "-"
    low, high = share.interval
    return f"{share.value:.2f} ({low:.2f} to {high:.2f})"


def constant(found: tuple[str, float] | None) -> str:
    """An answer with its share: '0.53 ("no")'."""
    return "-" if found is None else f'{found[1]:.2f} ("{clip(found[0], 30)}")'


def _preference(found: Evaluation) -> str:
    shown = found.preference
    assert shown is not None
    return f"a token of {shown.right_n} right answers {shown.right:.3f}, of {shown.wrong_n} wrong {shown.wrong:.3f}"


def _row(answer: Any) -> list[str]:
    asked = answer.entry.conversation[-1].content
    expected = str(answer.entry.check.expect)
    return [clip(asked, 44), clip(answer.completion, 40), str(answer.judgement.verdict), clip(expected, 20)]
