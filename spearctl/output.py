"""What a command prints: its result on stdout as text or one JSON object, its errors on stderr.

Text off a terminal has no colours, no wrapping and no trailing spaces. Strings that are printed have their control
characters replaced, so that what a file says cannot steer the terminal.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from spearctl.errors import Failure, StdoutError
from spearctl.text import printable

VERSION = 1
"""Of the JSON envelope; a change that breaks a script makes it 2."""

WIDE = 10_000
"""Columns off a terminal: nothing is wrapped."""


class Page(Console):
    """A console with the few shapes that results are made of."""

    def __init__(self, file: TextIO) -> None:
        super().__init__(file=file, highlight=False, markup=False, emoji=False)
        if not self.is_terminal:
            self._width = WIDE
            self.soft_wrap = True

    def render_str(self, text: str, **arguments: Any) -> Text:
        """Makes a printable `Text` of a plain string."""
        return super().render_str(printable(text), **arguments)

    def title(self, text: str) -> None:
        """Prints a line in bold."""
        self.print(text, style="bold")

    def fields(self, rows: Sequence[tuple[str, str]]) -> None:
        """Prints labels and values in two aligned columns; rows with an empty value are left out."""
        grid = Table.grid(Column(style="dim", no_wrap=True), Column(overflow="fold"), padding=(0, 2, 0, 0))
        for label, value in rows:
            if value:
                grid.add_row(label, value)
        self._indented(grid)

    def rows(self, columns: Sequence[str | Column], rows: Sequence[Sequence[str | Text]]) -> None:
        """Prints a table without lines, its header dim; a `Column(..., justify="right")` suits numbers."""
        table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for row in rows:
            table.add_row(*row)
        self._indented(table)

    def health(self, lines: Sequence[str]) -> None:
        """Prints what somebody should look at, a paragraph each."""
        for line in lines:
            grid = Table.grid(Column(style="yellow"), Column(overflow="fold"), padding=(0, 1, 0, 0))
            grid.add_row("!", line)
            self._indented(grid)

    def next_steps(self, *lines: str, before: str = "Next:") -> None:
        """Prints the command lines that come next, so that they can be copied whole."""
        self.print(before, style="dim")
        for line in lines:
            self.print(f"  {line}", soft_wrap=True)

    def _indented(self, table: Table) -> None:
        self.print(Padding(table, (0, 0, 0, 2), expand=False))


class Result(ABC):
    """What a command returns: a frozen record that can be told as text and as data."""

    @abstractmethod
    def data(self) -> Mapping[str, Any]:
        """Returns the result's fields for scripts; `plain` says what may be in there."""

    @abstractmethod
    def render(self, console: Page) -> None:
        """Prints the result for a person."""

    @property
    def error(self) -> Exception | None:
        """What is wrong although there is a result; it decides the exit code."""
        return None


def plain(value: Any) -> Any:
    """Makes JSON values of dataclasses, mappings, sequences, enums and paths; numbers that JSON lacks become null."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def emit(command: str, result: Result, failure: Failure | None, *, as_json: bool) -> None:
    """Writes a result to stdout, whole.

    Args:
        command: The command's words, for the envelope.
        result: What it returned.
        failure: What `result.error` comes to.
        as_json: Whether to print the envelope instead of text.
    """
    if as_json:
        write(_envelope(command, result.data(), failure))
        return
    page = Page(sys.stdout)
    with page.capture() as capture:
        result.render(page)
    text = capture.get()
    if text and not page.is_terminal:
        text = "".join(f"{line.rstrip()}\n" for line in text.removesuffix("\n").split("\n"))
    write(text)
    if failure is not None:
        _tell(failure)


def report(command: str, failure: Failure, *, as_json: bool) -> None:
    """Writes a failure to stderr, or as an envelope to stdout."""
    if as_json:
        write(_envelope(command, {}, failure))
    elif failure.help_text is not None:
        typer.echo(failure.help_text, err=True)  # drops the styles off a terminal
    else:
        _tell(failure)


def _envelope(command: str, data: Mapping[str, Any], failure: Failure | None) -> str:
    errors = [{name: getattr(failure, name) for name in ("code", "kind", "message", "hint")}] if failure else []
    document = {"spearctl": VERSION, "command": command, "ok": not errors, "data": plain(data), "errors": errors}
    return json.dumps(document, allow_nan=False) + "\n"


def _tell(failure: Failure) -> None:
    page = Page(sys.stderr)
    for label, text, style in (("error:", failure.message, "bold red"), ("hint:", failure.hint, "bold cyan")):
        if text:
            page.print(Text.assemble((label, style), " ", printable(text)), soft_wrap=True)


def write(text: str) -> None:
    """Writes to stdout at once.

    Raises:
        BrokenPipeError: Nobody reads it any more.
        StdoutError: It cannot be written to.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        hint = "look at the free space where it goes, and run the command again"
        raise StdoutError(f"standard output cannot be written to: {error.strerror}", hint) from error
