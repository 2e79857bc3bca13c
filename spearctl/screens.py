"""Where a chat is read from and shown: a terminal, a pipe, or lines of JSON.

    terminal   prompts, line editing, notes between the answers; an answer as it comes
    pipe       a line of stdin after the other; answers on stdout with an empty line between, all else on stderr
    JSON       the same input; an object a line for each piece of an answer, each whole answer, verdict and note

What was typed is kept nowhere: the arrow keys go back to the beginning of the chat, and no further.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from spearctl.errors import explain
from spearctl.output import Page, Result, emit, report, write
from spearctl.run import Run
from spearctl.text import printable

ASK, JUDGE, MORE = "> ", "+/- > ", "... "


@dataclass(frozen=True, slots=True)
class Event(Result):
    """Something that happened in a chat, for scripts: `event` says what."""

    fields: Mapping[str, Any]

    def data(self) -> Mapping[str, Any]:
        return self.fields

    def render(self, console: Page) -> None:
        raise NotImplementedError("people are told in words")


class Screen(ABC):
    """Where a chat is read from and shown.

    Args:
        run: Of the chat.

    Attributes:
        is_interactive: Somebody sits in front of it.
        mistakes: How often what was typed could not be done.
    """

    is_interactive = False

    def __init__(self, run: Run) -> None:
        self._run = run
        self.mistakes = 0

    def read(self, prompt: str) -> str | None:
        """Reads a line without its end; None at the end of the input."""
        line = sys.stdin.readline()
        return line.removesuffix("\n").removesuffix("\r") if line else None

    @abstractmethod
    def begin(self) -> None:
        """Makes room for an answer."""

    @abstractmethod
    def piece(self, text: str) -> None:
        """Shows more of an answer."""

    def end(self, note: str, **fields: Any) -> None:
        """Ends an answer.

        Args:
            note: How it ended, if that is to be told.
            fields: The answer, for scripts.
        """
        self.piece("\n")
        if note:
            self.tell("note", note)

    def tell(self, event: str, text: str, **fields: Any) -> None:
        """Tells what happened, in words and for scripts; silent with `-q`."""
        self._run.say(text)

    def show(self, text: str) -> None:
        """Shows what somebody asked for."""
        self._run.stderr.print(text)

    def wrong(self, error: Exception) -> None:
        """Tells why something that was typed cannot be done."""
        self.mistakes += 1
        report(self._run.command, explain(error), as_json=self._run.options.json)


class Pipe(Screen):
    """Lines in, answers out."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._answers = 0

    def begin(self) -> None:
        if self._answers:
            self.piece("\n")
        self._answers += 1

    def piece(self, text: str) -> None:
        write(printable(text))


class Lines(Screen):
    """JSON, an object a line."""

    def begin(self) -> None:
        """Nothing to do: every piece says what it is."""

    def piece(self, text: str) -> None:
        if text:
            self._emit(event="text", text=text)

    def end(self, note: str, **fields: Any) -> None:
        self._emit(event="answer", **fields)

    def tell(self, event: str, text: str, **fields: Any) -> None:
        self._emit(event=event, **(fields or {"text": text}))

    def show(self, text: str) -> None:
        self._emit(event="note", text=text)

    def _emit(self, **fields: Any) -> None:
        emit(self._run.command, Event(fields), None, as_json=True)


class Terminal(Screen):
    """Somebody who types and reads."""

    is_interactive = True

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._editing = _line_editing()

    def read(self, prompt: str) -> str | None:
        sys.stderr.flush()
        try:
            line = input(prompt)
        except EOFError:
            self.piece("\n")
            return None
        if self._editing is not None and len(line.strip()) > 1:  # a bare verdict is typed faster than looked for
            self._editing.add_history(line)
        return line

    def begin(self) -> None:
        """Nothing to do: what was typed ended its line."""

    def piece(self, text: str) -> None:
        write(printable(text))

    def tell(self, event: str, text: str, **fields: Any) -> None:
        if not self._run.options.quiet:
            self._run.stderr.print(text, style="dim")


def screen_for(run: Run) -> Screen:
    """Returns the screen that suits how the program was started."""
    with suppress(AttributeError):  # a stand-in of a test
        sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]  # bytes that are no text stop nothing
    if run.options.json:
        return Lines(run)
    if sys.stdin.isatty() and sys.stdout.isatty():
        return Terminal(run)
    if sys.stdin.isatty():
        run.say("Type a question a line, or a verdict; Ctrl-D ends it.")
    return Pipe(run)


def _line_editing() -> ModuleType | None:
    """Turns on line editing and the arrow keys, where Python was built with them."""
    try:
        import readline
    except ImportError:
        return None
    readline.set_auto_history(False)
    return readline
