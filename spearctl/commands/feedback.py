"""`spearctl feedback`: what people said of the model's answers, and the log it is kept in."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from spearctl import swarm
from spearctl.command import command, group
from spearctl.entries import make_attempt, make_check, make_entry
from spearctl.errors import UsageError
from spearctl.output import Page, Result
from spearctl.run import Run
from spearctl.text import count, tilde

if TYPE_CHECKING:
    from training.feedback import Entry
    from training.log import Log, Problem
    from training.stats import Stats

commands = group("feedback", "Adds to the feedback log, checks, converts and prunes it.")

CheckType = Literal["choice", "yes_no", "number", "exact", "regex", "json"]
LogArgument = Annotated[Path | None, typer.Argument(help="A feedback log; this home's if not given.", metavar="[LOG]")]


@dataclass(frozen=True, slots=True)
class Added(Result):
    """An entry that is in the log now."""

    log: Path
    entry: Entry
    is_new: bool
    train_line: str

    def data(self) -> Mapping[str, Any]:
        return {"log": self.log, "id": self.entry.id, "new": self.is_new}

    def render(self, console: Page) -> None:
        what = "Added" if self.is_new else "Extended"
        console.print(f"{what} {self.entry.id} in {tilde(self.log)}")
        console.next_steps(self.train_line)


@dataclass(frozen=True, slots=True)
class Checked(Result):
    """What can be read of a log, and every line that cannot."""

    log: Log

    def data(self) -> Mapping[str, Any]:
        return {
            "log": self.log.path,
            "lines": self.log.lines,
            "entries": len(self.log.entries),
            "unfinished": self.log.unfinished,
            "problems": self.log.problems,
        }

    def render(self, console: Page) -> None:
        _render_problems(console, self.log.path, self.log.problems)
        console.print(f"{count(self.log.lines, 'line')}, {count(len(self.log.entries), 'entry', 'entries')}")
        if self.log.unfinished:
            console.print("the last line has no newline yet; it is left unread until it has")

    @property
    def error(self) -> Exception | None:
        return _problem_error(self.log.problems, "line", "mend or delete them in an editor; training leaves them out")


@dataclass(frozen=True, slots=True)
class Converted(Result):
    """What became of another program's data."""

    source: Path
    target: Path | None
    entries: int
    problems: tuple[Problem, ...]

    def data(self) -> Mapping[str, Any]:
        return {"in": self.source, "out": self.target, "entries": self.entries, "problems": self.problems}

    def render(self, console: Page) -> None:
        if self.target is None:
            return  # stdout is the log itself
        _render_problems(console, self.source, self.problems)
        console.print(f"Wrote {count(self.entries, 'entry', 'entries')} to {tilde(self.target)}")

    @property
    def error(self) -> Exception | None:
        return _problem_error(self.problems, "row", "mend them and convert again; the good rows were written")


@dataclass(frozen=True, slots=True)
class Counted(Result):
    """What a log amounts to."""

    log: Log
    stats: Stats

    def data(self) -> Mapping[str, Any]:
        import dataclasses

        return {"log": self.log.path, **dataclasses.asdict(self.stats), "bad_lines": len(self.log.problems)}

    def render(self, console: Page) -> None:
        stats = self.stats
        checks = ", ".join(f"{number:,} {kind}" for kind, number in stats.checks.items())
        console.title(tilde(self.log.path))
        console.fields(
            [
                ("entries", f"{stats.entries:,}"),
                ("with a check", checks or "0"),
                ("judged right", f"{stats.attempts_right:,}"),
                ("judged wrong", f"{stats.attempts_wrong:,}"),
                ("not judged", f"{stats.attempts_unjudged:,}"),
                ("with comments", f"{stats.with_feedback:,}"),
                ("with a hint", f"{stats.with_hint:,}"),
                ("contradictory", f"{stats.contradictory:,}"),
                ("people", f"{stats.users:,}"),
                ("bad lines", f"{len(self.log.problems):,}"),
            ]
        )


@dataclass(frozen=True, slots=True)
class Forgotten(Result):
    """What is no longer in the log."""

    log: Path
    ids: tuple[str, ...]
    lines: int
    rollback_line: str | None

    def data(self) -> Mapping[str, Any]:
        return {"log": self.log, "ids": self.ids, "lines": self.lines}

    def render(self, console: Page) -> None:
        console.print(f"Forgot {', '.join(self.ids)}: {count(self.lines, 'line')} removed from {tilde(self.log)}")
        back = f"; to go back: {self.rollback_line}" if self.rollback_line is not None else ""
        console.print(f"What was learned from it already stays in the adapters{back}")


@command(commands, "add")
def add(
    run: Run,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the model was asked; - reads it from stdin.")
    ] = None,
    completion: Annotated[str | None, typer.Option(metavar="TEXT", help="What it answered.")] = None,
    verdict: Annotated[
        Literal["right", "wrong"] | None, typer.Option(metavar="right|wrong", help="Whether that was right.")
    ] = None,
    feedback: Annotated[str | None, typer.Option(metavar="TEXT", help="What was wrong with it, in your words.")] = None,
    hint: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What would help to answer, but not the answer.")
    ] = None,
    check: Annotated[
        CheckType | None,
        typer.Option(
            metavar="TYPE", help="How answers can be judged without you: choice, yes_no, number, exact, regex or json."
        ),
    ] = None,
    expect: Annotated[
        str | None, typer.Option(metavar="ANSWER", help="The right answer, for --check; for regex, its pattern.")
    ] = None,
    form: Annotated[
        Literal["bare", "answer_line", "any"] | None,
        typer.Option("--format", metavar="bare|answer_line|any", help="The form answers must have."),
    ] = None,
    options: Annotated[
        int | None, typer.Option(metavar="N", help="How many options there are, for --check choice.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(metavar="X", help="How far off is still right, for --check number.")
    ] = None,
    words: Annotated[
        int | None, typer.Option(metavar="N", help="The most words an answer in form has, for --check exact.")
    ] = None,
    unit: Annotated[
        str | None, typer.Option(metavar="UNIT", help="A unit that may follow, for --check number.")
    ] = None,
    id: Annotated[
        str | None, typer.Option(metavar="ID", help="An entry to extend or correct, or the name of a new one.")
    ] = None,
    user: Annotated[str | None, typer.Option(metavar="NAME", help="Who says so.")] = None,
) -> Added:
    """Adds an entry, or extends one.

    Judge an answer:  --prompt ... --completion ... --verdict wrong --feedback "too long"

    Or let answers be judged by a rule:  --prompt ... --check exact --expect Paris
    """
    from training.log import append

    details = {"options": options, "tolerance": tolerance, "unit": unit, "words": words}
    made_check = make_check(check, {"expect": expect, "format": form, **details})
    attempt = make_attempt(completion, verdict, feedback)
    known = _known_entry(run, id)
    entry = make_entry(known, id, _stdin_if_dash(run, prompt), attempt, made_check, hint=hint, user=user)
    append(run.home.feedback_path, [entry])
    return Added(run.home.feedback_path, entry, known is None, run.spell("train"))


@command(commands, "check")
def check(run: Run, log: LogArgument = None) -> Checked:
    """Names every line that cannot be used.

    Exits 8 if there are any. Training leaves such lines out; they are never lost.
    """
    from training.log import read_log

    return Checked(read_log(_log_path(run, log)))


@command(commands, "stats")
def stats(run: Run, log: LogArgument = None) -> Counted:
    """Counts what a feedback log holds."""
    from training.log import read_log
    from training.stats import stats as count_up

    found = read_log(_log_path(run, log))
    return Counted(found, count_up(found))


@command(commands, "convert")
def convert(
    run: Run,
    source: Annotated[
        Path, typer.Argument(help="Rows in one of TRL's formats, as JSON Lines or an array.", metavar="IN")
    ],
    target: Annotated[Path, typer.Argument(help="The feedback log to write; - for stdout.", metavar="OUT")],
    append: Annotated[bool, typer.Option("--append", help="Add to OUT if there is one already.")] = False,
) -> Converted:
    """Converts TRL preference data to a feedback log."""
    from training.convert import convert as read_rows
    from training.errors import FeedbackError
    from training.log import append as append_entries

    to_stdout = str(target) == "-"
    if to_stdout and run.options.json:
        raise UsageError("--json and OUT - both want stdout", "name a file for OUT, or leave out --json")
    if not to_stdout and target.exists():
        if source.exists() and target.samefile(source):
            raise UsageError(f"IN and OUT are the same file: {target}", "name another file for OUT")
        if not append:
            raise UsageError(f"{target} exists already", "name a new file for OUT, or add to it: --append")
    found = read_rows(source)
    if not (found.entries or found.problems):
        raise FeedbackError(f"{source}: there is no row in it", "give a file in one of TRL's formats")
    if to_stdout:
        _print_log(run, found)
        return Converted(source, None, len(found.entries), found.problems)
    append_entries(target, found.entries)
    return Converted(source, target.absolute(), len(found.entries), found.problems)


@command(commands, "forget")
def forget(
    run: Run,
    ids: Annotated[list[str], typer.Argument(help="Entries to forget.", metavar="ID")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> Forgotten:
    """Removes entries from the feedback log for good."""
    from training.log import forget as remove
    from training.log import read_log

    log = run.home.feedback_path
    known = {entry.id for entry in read_log(log).entries}
    unknown = [name for name in ids if name not in known]
    if unknown:
        raise UsageError(
            f"no entry of {tilde(log)} has the id {unknown[0]!r}", "nothing was removed; ids are in the log"
        )
    run.confirm(f"Forget {count(len(ids), 'entry', 'entries')} for good?", yes=yes)
    return Forgotten(log, tuple(ids), remove(log, ids), swarm.way_back(run))


def _known_entry(run: Run, name: str | None) -> Entry | None:
    from training.log import read_log

    if name is None:
        return None
    return next((entry for entry in read_log(run.home.feedback_path).entries if entry.id == name), None)


def _stdin_if_dash(run: Run, prompt: str | None) -> str | None:
    if prompt != "-":
        return prompt
    if sys.stdin.isatty():
        run.say("Type the prompt; Ctrl-D on a line of its own ends it.")
    return sys.stdin.read().strip("\n")


def _log_path(run: Run, log: Path | None) -> Path:
    return run.home.feedback_path if log is None else log


def _print_log(run: Run, log: Log) -> None:
    from training.parsing import encode_entry

    for entry in log.entries:
        # Bytes, because a log is UTF-8 whatever the terminal is.
        sys.stdout.buffer.write(encode_entry(entry) + b"\n")
    sys.stdout.flush()
    _render_problems(run.stderr, log.path, log.problems)


def _render_problems(console: Page, path: Path, problems: tuple[Problem, ...]) -> None:
    for problem in problems:
        console.print(f"{os.fspath(path)}:{problem.line}: {problem.reason}", soft_wrap=True)


def _problem_error(problems: tuple[Problem, ...], noun: str, hint: str) -> Exception | None:
    from training.errors import FeedbackError

    if not problems:
        return None
    return FeedbackError(f"{count(len(problems), noun)} cannot be used", hint)
