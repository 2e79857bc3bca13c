"""`status --watch`: a device and its swarm as they change, on a terminal or as a stream of JSON.

On a terminal the view has a screen of its own. A frame is written at once, over the one before: nothing is cleared that
is not about to be overwritten, so nothing flickers. What does not fit is cut at the end, and said.

Not covered: Ctrl-Z, which leaves the view's screen up until `fg`; and what somebody types while it runs, which shows
until the next frame.
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.cells import cell_len
from rich.table import Column

from spearctl import signals
from spearctl.errors import UsageError, explain
from spearctl.output import Page, Result, emit
from spearctl.rates import Rates, Sample, rates
from spearctl.run import Run
from spearctl.snapshot import Observer, Snapshot
from spearctl.text import ago, clip, count, duration, size

DEFAULT_INTERVAL_S = 2.0
SHORTEST_INTERVAL_S = 0.2
LONGEST_INTERVAL_S = 3600.0
SETTLE_S = 0.5
COLUMNS, ROWS = 80, 24
"""Of a terminal that does not know its size, such as one on a serial line."""
BAR_CELLS = 16
NAME_CELLS = 16
STATES = {"linked": "linked", "away": "away", "banned": "banned", "revoked": "revoked", "equivocator": "shut out"}

_OWN_SCREEN, _BACK = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_TOP, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class WatchResult(Result):
    """One frame.

    Attributes:
        now: What there is to know.
        rates: How fast bytes moved since the frame before.
        at: When it was looked at, ISO 8601.
        interval_s: Until the next one.
    """

    now: Snapshot
    rates: Rates
    at: str
    interval_s: float

    @property
    def error(self) -> Exception | None:
        return self.now.error

    def data(self) -> Mapping[str, Any]:
        found, speed = self.now.found, self.rates
        peers = [
            {**peer, "sent_bytes_s": speed.sent.get(peer["id"]), "received_bytes_s": speed.received.get(peer["id"])}
            for peer in found.peers
        ]
        transfers = [
            {**blob, "bytes_s": speed.fetched.get(blob["blob"]), "left_s": _left_s(blob, speed)}
            for blob in found.transfers
        ]
        return {**self.now.data(), "peers": peers, "transfers": transfers, "at": self.at, "note": found.note}

    def render(self, console: Page) -> None:
        now, found = self.now, self.now.found
        clock = datetime.fromisoformat(self.at).astimezone().strftime("%H:%M:%S")
        console.title(f"{now.config.name}  {clock}, every {self.interval_s:g} s")
        console.fields([*self._fields(), ("training", self._training())])
        lines = [*([found.note] if found.note else []), *now.health]
        if now.error is not None:
            lines.append(f"the node does not run; what is shown is on the disk. To start it: {now.start_line}")
        console.health(lines)
        for draw in (self._contributions, self._transfers, self._peers, self._rounds):
            draw(console)

    def _fields(self) -> list[tuple[str, str]]:
        found = self.now.found
        swarm = found.swarm
        if swarm is None:
            adapter = "" if self.now.learning.versions == 0 else f", {count(self.now.learning.versions, 'version')}"
            return [("adapter", self.now.adapter + adapter)]
        pending = swarm["pending_wins"]
        sealed = f"sealed up to {swarm['sealed_round']}" if swarm["sealed_round"] else "none sealed yet"
        moved = ""
        if self.rates.sent or self.rates.received:
            sent, received = sum(self.rates.sent.values()), sum(self.rates.received.values())
            moved = f"{size(sent)}/s sent, {size(received)}/s received"
        return [
            ("node", f"runs, {found.address or 'only dials others'}" if found.running else "stopped"),
            ("swarm", f"{clip(swarm['name'], 40)}, {count(swarm['members'], 'member')}"),
            ("round", f"{swarm['head_round']}, {sealed}"),
            ("state", swarm["state_hash"][:32]),
            ("pending", f"{count(pending, 'win')} not shared yet" if pending else ""),
            ("traffic", moved),
        ]

    def _training(self) -> str:
        now = self.now
        if now.pace is not None:
            share = now.pace.done / now.pace.total if now.pace.total else 0.0
            return f"{bar(share)} {progress_line(now)}"
        if now.holder is not None:
            return f"process {now.holder.pid} ({now.holder.command}) has begun {ago(now.holder.since)}"
        if not now.learning.last:
            return "none yet"
        return f"none now; {count(now.learning.rounds, 'round')}, the last one {ago(now.learning.last[-1].started_at)}"

    def _contributions(self, console: Page) -> None:
        rows = []
        for round in self.now.found.contributions:
            authors = [f"{clip(author['name'], NAME_CELLS)} {author['wins']}" for author in round["authors"]]
            more = round["deltas"] - len(authors)
            idle = count(round["null"], "without wins", "without wins") if round["null"] else ""
            who = [*authors, *([f"{more} more"] if more else []), *([idle] if idle else [])]
            rows.append([str(round["round"]), str(round["wins"]), ", ".join(who)])
        _table(console, [_right("ROUND"), _right("WINS"), "FROM (WINS OF EACH)"], rows)

    def _transfers(self, console: Page) -> None:
        rows = []
        for blob in self.now.found.transfers:
            total = blob["total_bytes"]
            speed, left_s = self.rates.fetched.get(blob["blob"]), _left_s(blob, self.rates)
            rows.append(
                [
                    blob["blob"][:12],
                    bar(blob["bytes"] / total if total else 0.0),
                    f"{size(blob['bytes'])} of {size(total) if total else '?'}",
                    "" if speed is None else f"{size(speed)}/s",
                    "" if left_s is None else f"{duration(left_s, short=True)} left",
                ]
            )
        _table(console, ["FETCHING", "", _right("HERE"), _right("RATE"), _right("")], rows)

    def _peers(self, console: Page) -> None:
        rows = []
        for peer in self.now.found.peers:
            is_linked, seen = peer["state"] == "linked", peer["last_seen_s"]
            sent, received = self.rates.sent.get(peer["id"]), self.rates.received.get(peer["id"])
            rows.append(
                [
                    clip(peer["name"], NAME_CELLS),
                    STATES.get(peer["state"], peer["state"]),
                    "" if peer["head_round"] is None else str(peer["head_round"]),
                    "" if seen is None else f"{duration(seen, short=True)} ago",
                    size(peer["sent_bytes"]) if is_linked else "",
                    f"{size(sent)}/s" if is_linked and sent is not None else "",
                    size(peer["received_bytes"]) if is_linked else "",
                    f"{size(received)}/s" if is_linked and received is not None else "",
                ]
            )
        titles = [_right(title) for title in ("HEAD", "SEEN", "SENT", "NOW", "RECEIVED", "NOW")]
        _table(console, ["PEER", "STATE", *titles], rows)

    def _rounds(self, console: Page) -> None:
        rows = []
        for record in self.now.learning.last:
            counted = [str(record.report.get(name, "")) for name in ("played", "wins", "losses")]
            loss = record.report.get("loss_win")
            shown = "" if loss is None else f"{loss:.3f}"
            made = record.version or "no change"
            when = ago(record.started_at, short=True)
            rows.append([str(record.number), when, *counted, shown, f"{record.seconds:.0f} s", made])
        titles = [_right(name) for name in ("PLAYED", "WINS", "LOSSES", "LOSS", "TIME")]
        _table(console, [_right("TRAINED"), "WHEN", *titles, "ADAPTER"], rows)


def progress_line(now: Snapshot) -> str:
    """How far the training is that goes on, in words: "round 2 of 8, playing 12 of 64, about 3 minutes left"."""
    found = now.pace
    assert found is not None
    of = "" if found.rounds is None else f" of {found.rounds}"
    parts = [f"round {found.round}{of}"]
    if found.phase:
        parts.append(f"{found.phase} {found.done} of {found.total}")
    if now.left_s is not None:
        parts.append("about to end" if now.left_s < 1 else f"about {duration(now.left_s)} left")
    return ", ".join(parts)


def bar(share: float, cells: int = BAR_CELLS) -> str:
    """A bar that is full at a share of 1; in plain letters, which every terminal has."""
    full = round(min(1.0, max(0.0, share)) * cells)
    return f"[{'#' * full}{'.' * (cells - full)}]"


def watch(run: Run, interval_s: float) -> None:
    """Shows a device again and again, until Ctrl-C.

    Args:
        run: Whose home, and whether to print JSON.
        interval_s: Between two looks.

    Raises:
        UsageError: Stdout is no terminal, and JSON was not asked for.
        Signalled: Another signal than that of Ctrl-C.
    """
    page = Page(sys.stdout)
    if not run.options.json and (not page.is_terminal or page.is_dumb_terminal):
        stream = run.spell("status", "--watch", "--json")
        raise UsageError("--watch needs a terminal", f"for other programs, an object a line: {stream}")
    try:
        if run.options.json:
            _stream(run, interval_s)
        else:
            _view(run, page, interval_s)
    except signals.Signalled as signalled:
        if signalled.signal is not signal.SIGINT:  # Ctrl-C is how one leaves, as with watch and top
            raise


def _frames(run: Run, interval_s: float) -> Iterator[WatchResult]:
    """Looks, each time that somebody asks for the next frame."""
    observer, before = Observer(run, stays=True), None
    while True:
        now = observer.look()
        after = Sample.of(now.found, time.monotonic())
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        yield WatchResult(now, Rates() if now.found.note else rates(before, after), at, interval_s)
        if not now.found.note:
            before = after


def _stream(run: Run, interval_s: float) -> None:
    for frame in _frames(run, interval_s):
        began = time.monotonic()
        emit(run.command, frame, explain(frame.error) if frame.error is not None else None, as_json=True)
        time.sleep(max(0.0, began + interval_s - time.monotonic()))


def _view(run: Run, page: Page, interval_s: float) -> None:
    frames = _frames(run, interval_s)
    with _resizes() as resized, _own_screen():
        while True:
            began = time.monotonic()
            frame = next(frames)
            _paint(page, frame)
            unsettled = False
            while (rest_s := began + interval_s - time.monotonic()) > 0:
                told = bool(select.select([resized], [], [], min(rest_s, SETTLE_S) if unsettled else rest_s)[0])
                if told:
                    os.read(resized, 4096)
                elif not unsettled:
                    break
                # Painted once more a moment later: a terminal may tell its size before it has taken it on.
                _paint(page, frame)
                unsettled = told


def _paint(page: Page, frame: WatchResult) -> None:
    """Writes a frame over the one before."""
    # Not what LINES and COLUMNS say: a shell that exports them does so once.
    told = os.get_terminal_size(sys.stdout.fileno())
    page.size = columns, rows = told.columns or COLUMNS, told.lines or ROWS
    with page.capture() as capture:
        frame.render(page)
    lines = capture.get().rstrip("\n").split("\n")
    if len(lines) > rows:
        cut = count(len(lines) - rows + 1, "line")
        lines = [*lines[: rows - 1], clip(f"  {cut} more: a taller terminal shows them", columns)]
    # What reaches the last column fills its line; to erase the rest of it then would erase its last letter.
    painted = [line if _cells(line) >= columns else line + _REST_OF_LINE for line in lines]
    sys.stdout.write(_TOP + "\r\n".join(painted) + (_REST_OF_SCREEN if len(lines) < rows else ""))
    sys.stdout.flush()


def _cells(line: str) -> int:
    return cell_len(_STYLE.sub("", line))


@contextmanager
def _own_screen() -> Iterator[None]:
    """Gives the view a screen of its own, and the terminal back as it was, however the block ends."""
    sys.stdout.write(_OWN_SCREEN)
    sys.stdout.flush()
    try:
        yield
    finally:
        with signals.deferred():  # a second Ctrl-C must not come in between
            sys.stdout.write(_BACK)
            sys.stdout.flush()


@contextmanager
def _resizes() -> Iterator[int]:
    """Yields a descriptor that can be read after the terminal got another size."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    before = signal.signal(signal.SIGWINCH, lambda number, frame: None)
    # A handler in Python would run too late for a signal that comes just before the wait begins.
    woken = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    try:
        yield readable
    finally:
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGWINCH, before)
        os.close(readable)
        os.close(writable)


def _left_s(blob: Mapping[str, Any], speed: Rates) -> float | None:
    bytes_s = speed.fetched.get(blob["blob"])
    return (blob["total_bytes"] - blob["bytes"]) / bytes_s if bytes_s and blob["total_bytes"] else None


def _right(title: str) -> Column:
    return Column(title, justify="right", no_wrap=True)


def _table(console: Page, columns: Sequence[str | Column], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    made = [Column(title, no_wrap=True) if isinstance(title, str) else title for title in columns]
    console.print()
    console.rows(made, rows)
