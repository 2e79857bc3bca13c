"""How far a training run is, for who looks on from another terminal: one small file that the trainer replaces.

The file may be lost at any moment, and nothing depends on it. It counts only while the process that wrote it holds the
training lock, as it did then, so that what a killed trainer left behind is never taken for one that runs.

Times are of the system's monotonic clock, which all processes share until the next start: a wall clock that is set
changes nothing. Not covered: a trainer in another container, whose clock may begin elsewhere.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from spearctl.home import Holder, Home

WRITE_S = 0.5
"""The file is replaced at most so often, but for a new round."""
MEANT_ROUNDS = 5
"""So many of the last rounds say how long the next ones take."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run is.

    Attributes:
        pid: Of the trainer.
        since: When that took the training lock, as it said there: another one may have had the same number.
        round: Which round of this run goes on, from 1.
        rounds: How many there are to be; None where that is open.
        phase: What goes on in it, in a word; empty before the first.
        done: How much of that is done.
        total: Of how much.
        began_s: When the round began, on the monotonic clock.
        seconds: How long the last rounds of this run took, oldest first.
    """

    pid: int
    since: str = ""
    round: int
    rounds: int | None
    phase: str = ""
    done: int = 0
    total: int = 0
    began_s: float
    seconds: tuple[float, ...] = ()


class PaceWriter:
    """Says how far the rounds of one run are. What cannot be written is left out: training goes on.

    Args:
        home: In which the run holds the training lock.
        rounds: How many there are to be; None where that is open.
    """

    def __init__(self, home: Home, rounds: int | None) -> None:
        self._home, self._path = home, home.progress_path
        self._pace = Pace(pid=os.getpid(), round=0, rounds=rounds, began_s=time.monotonic())
        self._written_s = 0.0

    def begin(self) -> None:
        """The next round begins."""
        now, last, holder = time.monotonic(), self._pace, self._home.holder()
        seconds = (*last.seconds, now - last.began_s)[-MEANT_ROUNDS:] if last.round else ()
        self._pace = msgspec.structs.replace(
            last,
            since=holder.since if holder is not None else "",
            round=last.round + 1,
            phase="",
            done=0,
            total=0,
            began_s=now,
            seconds=seconds,
        )
        self._write(now)

    def show(self, phase: str, done: int, total: int) -> None:
        """So much of a phase is done."""
        self._pace = msgspec.structs.replace(self._pace, phase=phase, done=done, total=total)
        now = time.monotonic()
        if now - self._written_s >= WRITE_S:
            self._write(now)

    def close(self) -> None:
        """The run is over."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _write(self, now: float) -> None:
        self._written_s = now
        scratch = self._path.with_name(f".{self._path.name}.new")
        with suppress(OSError):
            with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(msgspec.json.encode(self._pace))
            os.replace(scratch, self._path)


def read(home: Home, holder: Holder | None) -> Pace | None:
    """How far the run is that goes on in a home; None if none does, or it does not say.

    Args:
        home: Whose.
        holder: The process that holds its training lock.
    """
    if holder is None:
        return None
    try:
        found = msgspec.json.decode(home.progress_path.read_bytes(), type=Pace)
    except (OSError, msgspec.MsgspecError, ValueError):
        return None
    return found if (found.pid, found.since) == (holder.pid, holder.since) and found.round else None


def left_s(pace: Pace, past: Sequence[float], *, now: float | None = None) -> float | None:
    """How long a run will go on: the rounds that are left, each as long as the last ones were at the median.

    A round that takes longer than that is taken to be about to end.

    Args:
        pace: How far it is.
        past: Seconds that rounds of earlier runs took, for the first round of this one.
        now: Of the monotonic clock.

    Returns:
        Seconds; None where nobody knows.
    """
    known = [seconds for seconds in (pace.seconds or tuple(past))[-MEANT_ROUNDS:] if seconds > 0]
    if pace.rounds is None or not known:
        return None
    each = statistics.median(known)
    elapsed_s = max(0.0, (time.monotonic() if now is None else now) - pace.began_s)
    return max(0.0, each - elapsed_s) + max(0, pace.rounds - pace.round) * each
