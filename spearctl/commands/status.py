"""`spearctl status`: this device at a glance, and what somebody should look at."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.table import Column

from spearctl import sharing, swarm
from spearctl.command import command, group
from spearctl.commands.adapter import in_swarm
from spearctl.commands.peers import render_peers
from spearctl.config import Config
from spearctl.errors import StoppedError
from spearctl.home import Holder, Home
from spearctl.output import Page, Result
from spearctl.run import Run
from spearctl.text import ago, count, duration, tilde

if TYPE_CHECKING:
    from training.history import RoundRecord
    from training.log import Log
    from training.stats import Stats

commands = group()

SHOWN_ROUNDS = 5
SHOWN_DROPS = 5
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
class Found:
    """What is known of the swarm. Without one a device may have keys, and nothing else of this.

    Attributes:
        id: Of this node, in hex; none without keys, or where they are locked and no swarm knows them yet.
        running: Whether the node runs.
        address: Where it can be reached, best first.
        swarm: The swarm, as this node sees it.
        peers: All other members.
        dropped: Links that were ended lately, with their reasons, newest last.
        turned_away: How often somebody got no link at all, by reason.
        transfers: Blobs on their way here.
        health: What somebody should look at.
    """

    id: str | None = None
    running: bool = False
    address: str | None = None
    swarm: Mapping[str, Any] | None = None
    peers: Sequence[dict[str, Any]] = ()
    dropped: Sequence[Mapping[str, Any]] = ()
    turned_away: Mapping[str, int] = field(default_factory=dict)
    transfers: Sequence[Mapping[str, Any]] = ()
    health: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class StatusResult(Result):
    """What there is to know of this device."""

    home: Home
    config: Config
    learning: Learning
    log: Log
    counts: Stats
    holder: Holder | None
    found: Found
    takes_part: bool
    health: tuple[str, ...]
    next_line: str | None
    start_line: str

    @property
    def error(self) -> Exception | None:
        if self.found.swarm is None or self.found.running:
            return None
        return StoppedError("the node does not run, so nothing is shared", f"start it: {self.start_line}")

    def data(self) -> Mapping[str, Any]:
        config, counts = self.config, self.counts
        return {
            "node": {
                "id": self.found.id,
                "name": config.name,
                "running": self.found.running,
                "address": self.found.address,
            },
            "swarm": self.found.swarm,
            "peers": self.found.peers,
            "dropped": self.found.dropped,
            "turned_away": self.found.turned_away,
            "transfers": self.found.transfers,
            "home": self.home.root,
            "model": {
                "reference": config.model,
                "fingerprint": config.model_fingerprint,
                "prompt_format": config.prompt_format,
            },
            "profile": config.profile,
            "adapter": {"current": self._current(), "versions": self.learning.versions},
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
                *self._swarm(),
            ]
        )
        if self.found.peers:
            console.print()
            render_peers(console, list(self.found.peers))
        if self.found.dropped:
            console.print()
            _render_drops(console, self.found.dropped)
        if self.learning.last:
            console.print()
            _render_rounds(console, self.learning.last)
        if self.health:
            console.print()
            console.health(self.health)
        if self.next_line is not None:
            console.print()
            console.next_steps(self.next_line)

    def _swarm(self) -> list[tuple[str, str]]:
        swarm = self.found.swarm
        if swarm is None:
            return []
        pending = swarm["pending_wins"]
        sealed = f"sealed up to {swarm['sealed_round']}" if swarm["sealed_round"] else "none sealed yet"
        return [
            ("node", f"runs, {self.found.address or 'only dials others'}" if self.found.running else "stopped"),
            ("swarm", f"{swarm['name']} ({swarm['genesis'][:12]}), {count(swarm['members'], 'member')}"),
            ("round", f"{swarm['head_round']}, {sealed}"),
            ("state", swarm["state_hash"]),
            ("pending", f"{count(pending, 'win')} learned here and not shared yet" if pending else ""),
        ]

    def _current(self) -> str:
        if self.takes_part and self.found.swarm is not None:
            return f"round:{self.found.swarm['head_round']}"
        return self.learning.current

    def _adapter(self) -> str:
        if self.takes_part and self.found.swarm is not None:
            return in_swarm(self.found.swarm["head_round"])
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
    """Shows this device: model, adapter, feedback, training, and its swarm."""
    from training.log import Log, read_log
    from training.stats import stats

    home, config = run.home, run.config()
    learning = _learning(home)
    log = read_log(home.feedback_path) if home.feedback_path.exists() else Log(home.feedback_path, (), (), 0, False)
    counts = stats(log)
    found, takes_part = _found(run), sharing.takes_part(run, config)
    return StatusResult(
        home=home,
        config=config,
        learning=learning,
        log=log,
        counts=counts,
        holder=home.holder(),
        found=found,
        takes_part=takes_part,
        health=(*_health(run, home, learning, log, counts), *_swarm_health(run, found, takes_part), *found.health),
        next_line=_next_line(run, learning, counts),
        start_line=run.spell("up", "--detach"),
    )


def _found(run: Run) -> Found:
    """What the running node says of the swarm, or its ledger where none runs."""
    if not swarm.places(run).is_member:
        return Found(id=swarm.node_id(run))
    if swarm.is_running(run):
        said = swarm.ask(run, "status")
        addresses = said["addresses"]
        return Found(
            id=said["id"],
            running=True,
            address=addresses[0] if addresses else None,
            swarm=said["swarm"],
            peers=said["peers"],
            dropped=said["dropped"],
            turned_away=said["turned_away"],
            transfers=said["transfers"],
            health=said["health"],
        )
    with swarm.view(run) as view:
        said = view.overview
    said["swarm"]["pending_wins"] += sharing.waiting_wins(run)
    return Found(id=said["id"], swarm=said["swarm"], peers=said["peers"])


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


def _swarm_health(run: Run, found: Found, takes_part: bool) -> list[str]:
    if found.swarm is None:
        return []
    lines = [] if takes_part else [sharing.UNFIT]
    if not (found.running or found.swarm["member"]):  # a running node says so itself
        lines.append(sharing.NO_MEMBER)
    kept = sharing.kept(run)
    if kept:
        lines.append(f"{count(len(kept), 'round')} kept on this device; to share: {run.spell('train', '--share-kept')}")
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
