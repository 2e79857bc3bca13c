"""Progress on stderr: a bar on a terminal, plain lines elsewhere, nothing with `-q`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from spearctl.output import Page
from spearctl.text import printable

LINES = 10
"""Plain lines a bar becomes, at most."""


class Meter:
    """How far some work is. This one shows nothing; the others show it on a bar or in lines."""

    def update(self, done: int, note: str = "") -> None:
        """Says that `done` of the total is done, and in a few words what was last."""

    def say(self, text: str) -> None:
        """Prints a line that stays."""


class _Bar(Meter):
    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def update(self, done: int, note: str = "") -> None:
        self._bar.update(self._task, completed=done, note=printable(note))

    def say(self, text: str) -> None:
        self._bar.console.print(text)


class _Lines(Meter):
    def __init__(self, page: Page, label: str, total: int | None) -> None:
        self._page = page
        self._label = label
        self._total = total
        self._shown = 0
        self._started_s = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        part = done * LINES // self._total if self._total else done
        if part > self._shown:
            self._shown = part
            amount = f"{done}/{self._total}" if self._total else str(done)
            elapsed_s = time.monotonic() - self._started_s
            self.say(f"{self._label} {amount} ({elapsed_s:.0f} s){'  ' if note else ''}{note}")

    def say(self, text: str) -> None:
        self._page.print(text)


@contextmanager
def progress(page: Page, label: str, total: int | None, *, quiet: bool) -> Iterator[Meter]:
    """Shows how far some work is while the block runs.

    Args:
        page: On stderr.
        label: What is being done: "Playing".
        total: How many steps there are; None if nobody knows.
        quiet: Show nothing.
    """
    if quiet:
        yield Meter()
    elif page.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
        note = TextColumn("{task.fields[note]}", style="dim", markup=False)
        with Progress(*columns, note, console=page, transient=True) as bar:
            yield _Bar(bar, bar.add_task(label, total=total, note=""))
    else:
        yield _Lines(page, label, total)
