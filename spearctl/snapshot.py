"""What there is to know of a device at one moment: what `status` shows once, and `status --watch` again and again."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spearctl import pace, sharing, swarm
from spearctl.config import Config
from spearctl.errors import StoppedError
from spearctl.home import Holder, Home
from spearctl.pace import Pace
from spearctl.run import Run
from spearctl.text import count, duration

if TYPE_CHECKING:
    from training.history import RoundRecord
    from training.log import Log
    from training.stats import Stats

SHOWN_ROUNDS = 5
AWAY_S = 600.0
"""A member that was not heard for so long is named."""
WATCHED_PATIENCE_S = 2.0
"""Who looks again and again does not wait longer for a node that is busy."""


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
        pid: Its process.
        address: Where it can be reached, best first.
        uptime_s: For how long it has run.
        swarm: The swarm, as this node sees it.
        peers: All other members.
        contributions: Who has a delta in the last rounds, newest first.
        dropped: Links that were ended lately, with their reasons, newest last.
        turned_away: How often somebody got no link at all, by reason.
        transfers: Blobs on their way here.
        health: What somebody should look at.
        note: Why this is not what the node says now, if it is not.
    """

    id: str | None = None
    running: bool = False
    pid: int | None = None
    address: str | None = None
    uptime_s: float = 0.0
    swarm: Mapping[str, Any] | None = None
    peers: Sequence[dict[str, Any]] = ()
    contributions: Sequence[Mapping[str, Any]] = ()
    dropped: Sequence[Mapping[str, Any]] = ()
    turned_away: Mapping[str, int] = field(default_factory=dict)
    transfers: Sequence[Mapping[str, Any]] = ()
    health: Sequence[str] = ()
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A device at one moment.

    Attributes:
        home: Its home.
        config: Its settings.
        learning: Its training history.
        log: Its feedback.
        unread: Why that cannot be read, if it cannot.
        counts: The feedback, in numbers.
        holder: The process that trains.
        pace: How far that is.
        found: Its swarm.
        takes_part: Whether it can use what the swarm shares.
        is_ahead: Whether it uses more than that.
        health: What somebody should look at.
        start_line: What starts its node.
    """

    home: Home
    config: Config
    learning: Learning
    log: Log
    unread: str | None
    counts: Stats
    holder: Holder | None
    pace: Pace | None
    found: Found
    takes_part: bool
    is_ahead: bool
    health: tuple[str, ...]
    start_line: str

    @property
    def error(self) -> Exception | None:
        """What is wrong if it belongs to a swarm and its node does not run."""
        if self.found.swarm is None or self.found.running:
            return None
        return StoppedError("the node does not run, so nothing is shared", f"start it: {self.start_line}")

    @property
    def left_s(self) -> float | None:
        """How long the training that goes on will take, if that can be told."""
        past = [record.seconds for record in self.learning.last]
        return None if self.pace is None else pace.left_s(self.pace, past)

    @property
    def adapter(self) -> str:
        """Name of what is in use."""
        if self.takes_part and self.found.swarm is not None:
            return f"round:{self.found.swarm['head_round']}"
        return self.learning.current

    def data(self) -> dict[str, Any]:
        """The fields that `status` has for scripts."""
        config, counts, found = self.config, self.counts, self.found
        return {
            "node": {"id": found.id, "name": config.name, "running": found.running, "address": found.address},
            "swarm": found.swarm,
            "peers": found.peers,
            "contributions": found.contributions,
            "dropped": found.dropped,
            "turned_away": found.turned_away,
            "transfers": found.transfers,
            "home": self.home.root,
            "model": {
                "reference": config.model,
                "fingerprint": config.model_fingerprint,
                "prompt_format": config.prompt_format,
            },
            "profile": config.profile,
            "adapter": {"current": self.adapter, "versions": self.learning.versions},
            "training": {
                "running": self.holder,
                "progress": self._progress(),
                "rounds": self.learning.rounds,
                "last": [round_data(record) for record in self.learning.last],
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

    def _progress(self) -> dict[str, Any] | None:
        if self.pace is None:
            return None
        names = ("round", "rounds", "phase", "done", "total")
        return {**{name: getattr(self.pace, name) for name in names}, "left_s": self.left_s}


def round_data(record: RoundRecord) -> dict[str, Any]:
    """A round of the training history, for scripts."""
    return {
        **record.report,
        "round": record.number,
        "started_at": record.started_at,
        "seconds": record.seconds,
        "adapter": record.version,
    }


class Observer:
    """Looks at a device, once or again and again. What takes long to read is read again only when it has changed.

    Args:
        run: Whose home.
        stays: Whether it will look again: then a node that is busy, or about to start or stop, is no error.
    """

    def __init__(self, run: Run, *, stays: bool = False) -> None:
        self._run = run
        self._stays = stays
        self._log: tuple[object, Log, str | None, Stats] | None = None
        self._ledger: tuple[object, Found] | None = None
        self._last: tuple[float, Found] | None = None

    def look(self) -> Snapshot:
        """Looks once.

        Raises:
            ConfigError: There is no home, or a setting is wrong.
            HomeError: The home is damaged or newer.
            StoreError: The training history is damaged.
            NetworkError: The node runs, and does not answer; not raised by one who stays.
            LedgerError: The ledger is damaged; not raised by one who stays.
        """
        run, home, config = self._run, self._run.home, self._run.config()
        learning = _learning(home)
        log, unread, counts = self._feedback(home.feedback_path)
        found, takes_part, holder = self._found(), sharing.takes_part(run, config), home.holder()
        health = (
            *([f"{unread}; nothing can be learned from it"] if unread is not None else []),
            *_health(run, home, learning, log, counts),
            *_swarm_health(run, found, takes_part),
            *absences(found),
            *found.health,
        )
        return Snapshot(
            home=home,
            config=config,
            learning=learning,
            log=log,
            unread=unread,
            counts=counts,
            holder=holder,
            pace=pace.read(home, holder),
            found=found,
            takes_part=takes_part,
            is_ahead=found.swarm is not None and sharing.is_ahead(run, found.swarm["pending_wins"]),
            health=health,
            start_line=run.spell("up", "--detach"),
        )

    def _feedback(self, path: Path) -> tuple[Log, str | None, Stats]:
        from training.errors import FeedbackError
        from training.log import Log, read_log
        from training.stats import stats

        mark = _mark(path)
        if self._log is None or self._log[0] != mark or self._log[2] is not None:
            log, unread = Log(path, (), (), 0, False), None
            if mark is not None:
                try:
                    log = read_log(path)
                except FeedbackError as error:
                    unread = error.message
            self._log = mark, log, unread, stats(log)
        return self._log[1:]

    def _found(self) -> Found:
        from p2p.errors import LedgerError, NetworkError

        now = time.monotonic()
        try:
            found = self._look()
        except (LedgerError, NetworkError) as error:
            if not self._stays:
                raise
            return self._stale(error.message, now)
        self._last = now, found
        return found

    def _stale(self, reason: str, now: float) -> Found:
        """What was known last, with the reason why it is not known better."""
        if self._last is None:
            return Found(id=swarm.node_id(self._run), note=reason)
        at, found = self._last
        return replace(found, note=f"{reason}; this is from {duration(now - at)} ago")

    def _look(self) -> Found:
        """What the running node says of the swarm, or its ledger where none runs."""
        run = self._run
        if not swarm.places(run).is_member:
            return Found(id=swarm.node_id(run))
        if swarm.is_running(run):
            patience = {"patience_s": WATCHED_PATIENCE_S} if self._stays else {}
            return _from_node(swarm.ask(run, "status", **patience))
        folder = swarm.places(run).ledger
        mark = tuple(_mark(folder / name) for name in ("ledger.db", "ledger.db-wal"))
        if self._ledger is None or self._ledger[0] != mark:
            with swarm.view(run) as view:
                said = view.overview
            self._ledger = (
                mark,
                Found(id=said["id"], swarm=said["swarm"], peers=said["peers"], contributions=said["contributions"]),
            )
        found = self._ledger[1]
        assert found.swarm is not None
        waiting = found.swarm["pending_wins"] + sharing.waiting_wins(run)
        return replace(found, swarm={**found.swarm, "pending_wins": waiting})


def _from_node(said: Mapping[str, Any]) -> Found:
    addresses = said["addresses"]
    names = ("swarm", "peers", "dropped", "turned_away", "transfers", "health", "pid", "uptime_s")
    return Found(
        id=said["id"],
        running=True,
        address=addresses[0] if addresses else None,
        contributions=said.get("contributions", ()),  # a node that was started before an upgrade does not know them
        **{name: said[name] for name in names},
    )


def absences(found: Found) -> list[str]:
    """Says which members have not been heard of for long.

    Not in a swarm so large that a node is linked to some of the others only.
    """
    from p2p.limits import MAX_DIALLED

    if not found.running or found.swarm is None or found.swarm["members"] > MAX_DIALLED + 1:
        return []
    lines = []
    for peer in found.peers:
        seen_s = peer["last_seen_s"]
        if peer["state"] != "away" or (found.uptime_s if seen_s is None else seen_s) < AWAY_S:
            continue
        since = f"for {duration(seen_s)}" if seen_s is not None else "since this node started"
        lines.append(f"{peer['name']} has not been seen {since}; learning goes on meanwhile")
    return lines


def _mark(path: Path) -> object:
    """What changes when a file does; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


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
