"""`spearctl status`: this device at a glance, and what somebody should look at."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column

from spearctl.command import command, group
from spearctl.commands.adapter import in_swarm
from spearctl.commands.peers import render_peers
from spearctl.errors import UsageError
from spearctl.output import Page, Result
from spearctl.run import Run
from spearctl.snapshot import Observer, Snapshot
from spearctl.text import ago, count, duration, tilde
from spearctl.watching import DEFAULT_INTERVAL_S, LONGEST_INTERVAL_S, SHORTEST_INTERVAL_S, progress_line, watch

if TYPE_CHECKING:
    from training.history import RoundRecord

commands = group()

SHOWN_DROPS = 5
COUNTED = ("played", "right_first", "revised", "wins", "losses")


@dataclass(frozen=True, slots=True)
class StatusResult(Result):
    """What there is to know of this device."""

    now: Snapshot
    next_line: str | None

    @property
    def error(self) -> Exception | None:
        return self.now.error

    def data(self) -> Mapping[str, Any]:
        return self.now.data()

    def render(self, console: Page) -> None:
        now = self.now
        config, found = now.config, now.found
        console.title(config.name)
        console.fields(
            [
                ("home", tilde(now.home.root)),
                ("model", f"{config.model} ({config.prompt_format}, {config.model_fingerprint[:12]})"),
                ("profile", config.profile),
                ("adapter", self._adapter()),
                ("feedback", self._feedback()),
                ("training", self._training()),
                *self._swarm(),
            ]
        )
        if found.peers:
            console.print()
            render_peers(console, list(found.peers))
        if found.dropped:
            console.print()
            _render_drops(console, found.dropped)
        if now.learning.last:
            console.print()
            _render_rounds(console, now.learning.last)
        if now.health:
            console.print()
            console.health(now.health)
        if self.next_line is not None:
            console.print()
            console.next_steps(self.next_line)

    def _swarm(self) -> list[tuple[str, str]]:
        found = self.now.found
        swarm = found.swarm
        if swarm is None:
            return []
        pending = swarm["pending_wins"]
        sealed = f"sealed up to {swarm['sealed_round']}" if swarm["sealed_round"] else "none sealed yet"
        return [
            ("node", f"runs, {found.address or 'only dials others'}" if found.running else "stopped"),
            ("swarm", f"{swarm['name']} ({swarm['genesis'][:12]}), {count(swarm['members'], 'member')}"),
            ("round", f"{swarm['head_round']}, {sealed}"),
            ("state", swarm["state_hash"]),
            ("pending", f"{count(pending, 'win')} learned here and not shared yet" if pending else ""),
        ]

    def _adapter(self) -> str:
        now, learning = self.now, self.now.learning
        if now.takes_part and now.found.swarm is not None:
            return in_swarm(now.found.swarm["head_round"], is_ahead=now.is_ahead)
        made = count(learning.versions, "version") + " learned" if learning.versions else "nothing learned yet"
        return f"{learning.current} ({made})"

    def _feedback(self) -> str:
        counts = self.now.counts
        if not counts.entries:
            return "none yet" if self.now.unread is None else "cannot be read"
        checks = sum(counts.checks.values())
        parts = [count(counts.entries, "entry", "entries"), f"{checks:,} with a check" if checks else ""]
        if counts.attempts_right or counts.attempts_wrong:
            parts.append(f"answers judged {counts.attempts_right:,} right, {counts.attempts_wrong:,} wrong")
        return ", ".join(part for part in parts if part)

    def _training(self) -> str:
        learning, holder = self.now.learning, self.now.holder
        done = count(learning.rounds, "round")
        if learning.last:
            done += f", the last one {ago(learning.last[-1].started_at)}"
        if holder is not None:
            at = f", {progress_line(self.now)}" if self.now.pace is not None else ""
            return f"running in process {holder.pid} since {ago(holder.since)}{at}; {done}"
        return done if learning.rounds else "none yet"


@command(commands, "status")
def status(
    run: Run,
    watching: Annotated[bool, typer.Option("--watch", help="Go on showing it, until Ctrl-C.")] = False,
    interval: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="With --watch: time between two looks. Default: 2.")
    ] = None,
) -> StatusResult:
    """Shows this device: model, adapter, feedback, training, and its swarm.

    With --watch, a terminal also shows who contributed to the last rounds, how fast bytes move, and how long training
    will take; --json prints an object a line.
    """
    if interval is not None and not watching:
        raise UsageError("--interval goes with --watch", f"add it: {run.spell('status', '--watch')}")
    if watching:
        watch(run, _checked(interval))
        raise typer.Exit
    now = Observer(run).look()
    return StatusResult(now, _next_line(run, now))


def _checked(interval: float | None) -> float:
    if interval is None:
        return DEFAULT_INTERVAL_S
    if not (math.isfinite(interval) and SHORTEST_INTERVAL_S <= interval <= LONGEST_INTERVAL_S):
        allowed = f"a number of seconds from {SHORTEST_INTERVAL_S:g} to {LONGEST_INTERVAL_S:g}"
        raise UsageError(f"--interval {interval:g}: it must be {allowed}", "leave it out for 2 seconds")
    return interval


def _next_line(run: Run, now: Snapshot) -> str | None:
    if now.unread is not None:
        return None
    if not now.counts.entries:
        return run.spell("feedback", "add", "--help")
    return None if now.learning.rounds else run.spell("train")


def _render_drops(console: Page, dropped: Sequence[Mapping[str, Any]]) -> None:
    """A row for whose links were ended lately and why, newest first; with the address that this member tells."""
    times = Counter((drop["key"], drop["reason"]) for drop in dropped)
    newest = {(drop["key"], drop["reason"]): drop for drop in dropped}
    rows = []
    for of, drop in sorted(newest.items(), key=lambda item: item[1]["seconds_ago"])[:SHOWN_DROPS]:
        who = drop["name"] or f"somebody with key {drop['key'][:12]}"
        since = f"{duration(drop['seconds_ago'], short=True)} ago"
        rows.append([since, str(times[of]), who, drop["address"] or "", drop["reason"]])
    console.rows(["DROPPED", Column("TIMES", justify="right"), "WHO", "ADDRESS", "WHY"], rows)


def _render_rounds(console: Page, records: Sequence[RoundRecord]) -> None:
    numbers = [Column(name, justify="right") for name in ("PLAYED", "RIGHT", "REVISED", "WINS", "LOSSES", "TIME")]
    rows = []
    for record in records:
        counted = [str(record.report.get(key, "")) for key in COUNTED]
        made = record.version or "no change"
        rows.append([str(record.number), ago(record.started_at, short=True), *counted, f"{record.seconds:.0f} s", made])
    console.rows([Column("ROUND", justify="right"), "WHEN", *numbers, "ADAPTER"], rows)
