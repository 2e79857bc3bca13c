"""`train --follow`: learns from a log while it grows, again and again.

What was learned from is remembered in the home's history in the same transaction as the version it became part of, so
a restart goes on where a kill struck. Between updates nothing is locked: other commands may use the home meanwhile.

A log that is moved away (rotated) is read to its end first, and what it held stays to be learned from. One that is
replaced by a copy without some lines (`feedback forget`) or cut short is taken as it is now.

Not covered: lines that are cut off before they were read, and what a moved log held when the process is killed before
its next update; `train --feedback FILE` learns from such a file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from spearctl import signals
from spearctl.errors import HomeLockedError, UsageError
from spearctl.learner import Loaded, Phases
from spearctl.output import Page, Result, emit
from spearctl.pace import PaceWriter
from spearctl.rounds import Rounds
from spearctl.run import Run
from spearctl.supply import Supply
from spearctl.text import duration, seconds, tilde
from training.errors import Interrupted

if TYPE_CHECKING:
    from profiles import Profile
    from training.feedback import Entry
    from training.holdout import HoldOut
    from training.log import Log, Problem
    from training.pool import Pool
    from training.rounds import RoundReport

FollowOption = Annotated[
    bool, typer.Option("--follow", help="Stay, and learn again as more comes. What follows is for this.")
]
BatchOption = Annotated[
    int | None,
    typer.Option("--batch", min=1, max=100_000, metavar="N", help="Learn once so many answers are new. Default: 8."),
]
EveryOption = Annotated[
    str | None, typer.Option("--every", metavar="TIME", help="Or once anything new has waited so long. Default: 5m.")
]
HeldOutOption = Annotated[
    float | None,
    typer.Option(
        "--held-out", min=0, max=0.5, metavar="SHARE", help="Share of prompts that only judge updates. Default: 0.1."
    ),
]
MaxDropOption = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        min=0,
        max=1,
        metavar="SCORE",
        help="Discard an update if they score lower by more. Default: 0.05.",
    ),
]
ReplayOption = Annotated[
    float | None,
    typer.Option(
        "--replay", min=0, max=1, metavar="SHARE", help="Share of a round for earlier right answers. Default: 0.25."
    ),
]

PAUSE_S = 0.5
"""Between two looks at the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow:
    """When to learn, and what of it to keep.

    Attributes:
        batch: Learn once so many are new: attempts that people judged, and prompts with a check.
        every_s: Or once anything new has waited for so many seconds.
        held_out: Share of prompts that is kept from learning and judges every update; 0 for none.
        most_drop: By how much the mean score of those may fall, 0 to 1.
        replay: Share of an update that may be earlier right answers once more.
    """

    batch: int = 8
    every_s: float = 300.0
    held_out: float = 0.1
    most_drop: float = 0.05
    replay: float = 0.25

    def words(self) -> str:
        """Says when it learns."""
        return f"learns when {self.batch:,} are new, or {duration(self.every_s)} after the first"


def settings(given: Mapping[str, Any]) -> Follow:
    """Reads the options, by name; those that are None were not given.

    Raises:
        UsageError: ``every`` is no time.
    """
    named = {"batch": "batch", "held_out": "held_out", "max_drop": "most_drop", "replay": "replay"}
    values = {own: given[name] for name, own in named.items() if given[name] is not None}
    if given["every"] is not None:
        values["every_s"] = seconds(given["every"])
        if values["every_s"] is None:
            raise UsageError(f"--every {given['every']!r} is no time", "write it as 90s, 5m or 2h: --every 5m")
    return Follow(**values)


@dataclass(frozen=True, slots=True)
class RoundResult(Result):
    """A round that is told while the command goes on; a person was told on stderr."""

    report: Mapping[str, Any]

    def data(self) -> Mapping[str, Any]:
        return {"round": self.report}

    def render(self, console: Page) -> None:
        pass


class Feed:
    """What a log that grows has said so far.

    Args:
        path: The log; it need not exist yet.

    Attributes:
        log: As last read; None before there was one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log: Log | None = None
        self._file: BinaryIO | None = None
        self._seen: tuple[int, int] | None = None
        self._names = 1
        self._left: tuple[Entry, ...] = ()

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def look(self) -> bool:
        """Reads the log if it changed; whether it did.

        Raises:
            FeedbackError: It is no file that can be read.
        """
        from training.log import read_open_log

        changed = self._turn_to_new_file()
        if self._file is None:
            return changed
        status = os.fstat(self._file.fileno())
        seen = status.st_size, status.st_mtime_ns
        if seen == self._seen:
            return changed
        self._seen = seen
        self.log = read_open_log(self._file, self.path)
        return True

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What there is to learn from, that of moved files first."""
        return (*self._left, *(self.log.entries if self.log is not None else ()))

    def drop_moved(self, still: Pool) -> None:
        """Lets go of what moved files held, once nothing of it is new any more."""
        if not still.unseen:
            self._left = ()

    def _turn_to_new_file(self) -> bool:
        """Opens the file that the path names by now; whether that is another one."""
        from training.errors import FeedbackError
        from training.lines import failure, open_regular
        from training.log import read_open_log

        try:
            named = os.stat(self.path)
        except FileNotFoundError:
            named = None
        except OSError as error:
            raise failure(self.path, error) from error
        if self._file is not None and named is not None and os.path.samestat(named, os.fstat(self._file.fileno())):
            self._names = named.st_nlink
            return False
        turned = self._file is not None
        if self._file is not None:
            # A file that was moved has as many names as before; one that was replaced or deleted has lost one.
            if os.fstat(self._file.fileno()).st_nlink >= self._names:
                self._left += read_open_log(self._file, self.path).entries
            self.close()
            self.log = self._seen = None
        if named is not None:
            try:
                self._file = os.fdopen(open_regular(self.path, os.O_RDONLY), "rb")
                self._names = named.st_nlink
            except FeedbackError:
                if os.path.exists(self.path):
                    raise  # else it was moved away in this instant
        return turned or self._file is not None


class Pace:
    """Decides when to learn.

    Args:
        batch: Once so much is new.
        every_s: Or once anything new has waited so long.
    """

    def __init__(self, batch: int, every_s: float) -> None:
        self._batch, self._every_s = batch, every_s
        self._tried = 0
        self._since_s: float | None = None

    def is_due(self, unseen: int, now_s: float) -> bool:
        """Whether to learn now.

        Args:
            unseen: How much is new.
            now_s: By a clock that only goes forward.
        """
        self._tried = min(self._tried, unseen)
        if unseen == self._tried:
            self._since_s = None
            return False
        if self._since_s is None:
            self._since_s = now_s
        return unseen - self._tried >= self._batch or now_s - self._since_s >= self._every_s

    def learned(self, unseen: int, *, stepped: bool) -> None:
        """Takes note of a round. What it could not learn from does not count as new any more."""
        self._tried = 0 if stepped else unseen
        self._since_s = None


class Follower:
    """Follows one log.

    Args:
        run: Whose home.
        feed: The log.
        settings: When to learn, and what to keep.
        rounds: Runs them.
        most: Ends after so many; None for never.
    """

    def __init__(self, run: Run, feed: Feed, settings: Follow, rounds: Rounds, most: int | None) -> None:
        self._run, self._feed, self._settings, self._rounds, self._most = run, feed, settings, rounds, most
        self._pace = Pace(settings.batch, settings.every_s)
        self._loaded: Loaded | None = None
        self._unseen = 0
        self._told: set[Problem] = set()
        self._said = ""

    def follow(self) -> signals.Signalled | None:
        """Learns until it is stopped, or has run as many rounds as it should.

        Returns:
            The signal that stopped it.
        """

        def heard() -> None:
            self._run.say_at_once("stopping at the next safe point (again to stop at once)")

        with signals.deferred(heard) as stop, Phases(self._run, PaceWriter(self._run.home, None)) as phases:
            while not stop and (self._most is None or len(self._rounds.reports) < self._most):
                if self._feed.look():
                    self._tell_problems()
                    self._unseen = self.pool().unseen
                if not (self._is_due() and self._learn(stop, phases)):
                    time.sleep(PAUSE_S)
            return None if stop.number is None else signals.Signalled(stop.number)

    def _is_due(self) -> bool:
        if self._pace.is_due(self._unseen, time.monotonic()):
            return True
        if self._feed.log is None:
            self._say("no log", f"{tilde(self._feed.path)} is not there yet; waiting for it")
        else:
            self._say("waiting", f"following {tilde(self._feed.path)}: {self._settings.words()}")
        return False

    def _learn(self, stop: signals.Stop, phases: Phases) -> bool:
        """Runs one round on what there is, from what the swarm knows by now; whether it came to that."""
        try:
            with self._run.home.training_lock("train --follow"):
                pool = self.pool()
                report = self._round(pool, stop, phases) if pool.unseen else None
        except Interrupted:
            self._run.say("round dropped; what it would have learned from is still new")
            return False
        except HomeLockedError as error:
            self._say("locked", f"{error.message}; waiting for it to end")
            return False
        self._unseen = pool.unseen
        if report is None:  # somebody else learned from it meanwhile
            return False
        self._pace.learned(pool.unseen, stepped=report.steps > 0)
        self._feed.drop_moved(pool)
        self._said = ""
        if self._run.options.json:
            emit(self._run.command, RoundResult(report.as_dict()), None, as_json=True)
        return True

    def _round(self, pool: Pool, stop: signals.Stop, phases: Phases) -> RoundReport:
        entries = self._feed.entries
        with self._rounds.learner(entries, loaded=self._loaded) as ready:
            self._loaded = ready.loaded
            self._rounds.run(ready, pool, 0, 1, stop, phases, self._hold_out(entries, ready.profile))
            ready.store.tidy()
        return self._rounds.reports[-1]

    def supply(self) -> Supply:
        """What the log offers by now."""
        from training.holdout import is_held_out
        from training.log import Log

        log = self._feed.log or Log(self._feed.path, (), (), 0, False)
        held_out = sum(is_held_out(entry, self._settings.held_out) for entry in log.entries)
        return Supply.of(log, self.pool(), held_out=held_out)

    def pool(self) -> Pool:
        """All that is new, and all that can be used again."""
        from training.history import History
        from training.holdout import is_held_out
        from training.pool import Pool

        with History(self._run.home.history_path) as history:
            trained, played = history.trained(), history.plays()
        kept = [entry for entry in self._feed.entries if not is_held_out(entry, self._settings.held_out)]
        return Pool(kept, trained=trained, played=played, replay=self._settings.replay)

    def _hold_out(self, entries: Sequence[Entry], profile: Profile) -> HoldOut | None:
        from training.holdout import HoldOut

        if not self._settings.held_out:
            return None
        return HoldOut.of(
            entries,
            self._settings.held_out,
            most_drop=self._settings.most_drop,
            most_new_tokens=profile.new_tokens,
            batch=profile.rollout_batch,
        )

    def _tell_problems(self) -> None:
        for problem in self._feed.log.problems if self._feed.log is not None else ():
            if problem not in self._told:
                self._told.add(problem)
                self._run.say(f"{self._feed.path}:{problem.line}: {problem.reason}")

    def _say(self, state: str, text: str) -> None:
        """Tells the person when it comes to a state, not again and again while it stays there."""
        if state != self._said:
            self._said = state
            self._run.say(text)
