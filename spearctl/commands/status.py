"""`spearctl status`: this device at a glance, and what somebody should look at."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Column

from spearctl.command import command, group
from spearctl.config import Config
from spearctl.home import Holder, Home
from spearctl.output import Page, Result
from spearctl.run import Run
from spearctl.text import ago, count, tilde

if TYPE_CHECKING:
    from training.history import RoundRecord
    from training.log import Log
    from training.stats import Stats

commands = group()

SHOWN_ROUNDS = 5
COUNTED = ("played", "right_first", "revised", "wins", "losses")


@dataclass(frozen=True, slots=True)
class Learning:
    """What the training history says.

    Attributes:
        current: The adapter version in use.
        versions: How many versions were ever made.
        rounds: How many rounds were ever run.
        last: The last of them, oldest first.
    """

    current: str
    versions: int
    rounds: int
    last: tuple[RoundRecord, ...]


@dataclass(frozen=True, slots=True)
class StatusResult(Result):
    """What there is to know of this device."""

    home: Home
    config: Config
    learning: Learning
    log: Log
    counts: Stats
    holder: Holder | None
    health: tuple[str, ...]
    next_line: str | None

    def data(self) -> Mapping[str, Any]:
        config, counts = self.config, self.counts
        return {
            # Without a swarm a device has no identity and no address.
            "node": {"id": None, "name": config.name, "running": False, "address": None},
            "swarm": None,
            "peers": [],
            "home": self.home.root,
            "model": {
                "reference": config.model,
                "fingerprint": config.model_fingerprint,
                "prompt_format": config.prompt_format,
            },
            "profile": config.profile,
            "adapter": {"current": self.learning.current, "versions": self.learning.versions},
            "training": {
                "running": self.holder,
                "rounds": self.learning.rounds,
                "last": [_round_data(record) for record in self.learning.last],
            },
            "feedback": {
                "log": self.home.feedback_path,
                "entries": counts.entries,
                "checks": counts.checks,
                "right": counts.attempts_right,
                "wrong": counts.attempts_wrong,
                "unjudged": counts.attempts_unjudged,
                "contradictory": counts.contradictory,
                "bad_lines": len(self.log.problems),
            },
            "health": self.health,
        }

    def render(self, console: Page) -> None:
        console.title(self.config.name)
        console.fields(
            [
                ("home", tilde(self.home.root)),
                ("model", f"{self.config.model} ({self.config.prompt_format}, {self.config.model_fingerprint[:12]})"),
                ("profile", self.config.profile),
                ("adapter", self._adapter()),
                ("feedback", self._feedback()),
                ("training", self._training()),
            ]
        )
        if self.learning.last:
            console.print()
            _render_rounds(console, self.learning.last)
        if self.health:
            console.print()
            console.health(self.health)
        if self.next_line is not None:
            console.print()
            console.next_steps(self.next_line)

    def _adapter(self) -> str:
        made = (
            count(self.learning.versions, "version") + " learned" if self.learning.versions else "nothing learned yet"
        )
        return f"{self.learning.current} ({made})"

    def _feedback(self) -> str:
        if not self.counts.entries:
            return "none yet"
        checks = sum(self.counts.checks.values())
        parts = [count(self.counts.entries, "entry", "entries"), f"{checks:,} with a check" if checks else ""]
        if self.counts.attempts_right or self.counts.attempts_wrong:
            parts.append(f"answers judged {self.counts.attempts_right:,} right, {self.counts.attempts_wrong:,} wrong")
        return ", ".join(part for part in parts if part)

    def _training(self) -> str:
        done = count(self.learning.rounds, "round")
        if self.learning.last:
            done += f", the last one {ago(self.learning.last[-1].started_at)}"
        if self.holder is not None:
            return f"running in process {self.holder.pid} since {ago(self.holder.since)}; {done}"
        return done if self.learning.rounds else "none yet"


@command(commands, "status")
def status(run: Run) -> StatusResult:
    """Shows this device: model, profile, adapter, feedback, training."""
    from training.log import Log, read_log
    from training.stats import stats

    home, config = run.home, run.config()
    learning = _learning(home)
    log = read_log(home.feedback_path) if home.feedback_path.exists() else Log(home.feedback_path, (), (), 0, False)
    counts = stats(log)
    return StatusResult(
        home=home,
        config=config,
        learning=learning,
        log=log,
        counts=counts,
        holder=home.holder(),
        health=tuple(_health(run, home, learning, log, counts)),
        next_line=_next_line(run, learning, counts),
    )


def _learning(home: Home) -> Learning:
    from training.history import History

    with History(home.history_path) as history:
        last = history.rounds(SHOWN_ROUNDS)
        return Learning(history.current, len(history.versions()), last[-1].number if last else 0, last)


def _health(run: Run, home: Home, learning: Learning, log: Log, counts: Stats) -> list[str]:
    lines = [str(line) for record in learning.last[-1:] for line in record.report.get("health", ())]
    if log.problems:
        bad = count(len(log.problems), "line")
        lines.append(f"{bad} of the feedback log cannot be read: {run.spell('feedback', 'check')}")
    if counts.contradictory:
        answers = count(counts.contradictory, "answer was", "answers were")
        lines.append(f"{answers} judged both right and wrong; training leaves them out")
    exposed = home.open_permissions()
    if exposed:
        names = ", ".join(path.name for path in exposed)
        lines.append(f"others on this machine may read {names}: chmod -R go-rwx {shlex.quote(str(home.root))}")
    return lines


def _next_line(run: Run, learning: Learning, counts: Stats) -> str | None:
    if not counts.entries:
        return run.spell("feedback", "add", "--help")
    return None if learning.rounds else run.spell("train")


def _round_data(record: RoundRecord) -> dict[str, Any]:
    return {
        **record.report,
        "round": record.number,
        "started_at": record.started_at,
        "seconds": record.seconds,
        "adapter": record.version,
    }


def _render_rounds(console: Page, records: Sequence[RoundRecord]) -> None:
    numbers = [Column(name, justify="right") for name in ("PLAYED", "RIGHT", "REVISED", "WINS", "LOSSES", "TIME")]
    rows = []
    for record in records:
        counted = [str(record.report.get(key, "")) for key in COUNTED]
        made = record.version or "no change"
        rows.append([str(record.number), ago(record.started_at, short=True), *counted, f"{record.seconds:.0f} s", made])
    console.rows([Column("ROUND", justify="right"), "WHEN", *numbers, "ADAPTER"], rows)
