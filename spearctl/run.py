"""What a command is given: its options, its home, its settings, and a way to talk to the person meanwhile."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from pathlib import Path

from spearctl import config as settings
from spearctl.config import Config, Preferences
from spearctl.errors import UsageError
from spearctl.home import Home, cache_root, home_root, no_home
from spearctl.options import GlobalOptions
from spearctl.output import Page
from spearctl.progress import Meter, progress


class Run:
    """One run of one command.

    Args:
        command: The command's words: "adapter list".
        options: The global options.
    """

    def __init__(self, command: str, options: GlobalOptions) -> None:
        self.command = command
        self.options = options

    @cached_property
    def place(self) -> Home:
        """The home that is meant, whether or not there is one."""
        return Home(home_root(self.options.home, os.environ))

    @cached_property
    def home(self) -> Home:
        """The home.

        Raises:
            ConfigError: There is none; the hint says how to make one.
            HomeError: It is damaged or newer.
        """
        if not self.place.is_initialised:
            raise no_home(self.place.root, self.spell("init"))
        self.place.check_format(settings.read_table(self.place.config_path))
        return self.place

    def config(self, *, profile: str | None = None, seed: int | None = None) -> Config:
        """Returns the home's settings.

        Args:
            profile: A flag's value, if there was one.
            seed: A flag's value, if there was one.

        Raises:
            ConfigError: There is no home, or a setting is wrong.
            HomeError: The home is damaged or newer.
        """
        path = self.home.config_path
        return settings.load(settings.read_table(path), path, {"profile": profile, "seed": seed}, os.environ)

    def preferences(self, **flags: object) -> Preferences:
        """Returns what flags, the environment and the user's own settings say.

        Raises:
            ConfigError: A value is wrong.
        """
        return settings.preferences(flags, os.environ)

    @property
    def cache(self) -> Path:
        """The folder of the model cache."""
        return cache_root(os.environ)

    @cached_property
    def stderr(self) -> Page:
        """A console on stderr, for what is no result."""
        return Page(sys.stderr)

    def say(self, text: str) -> None:
        """Tells the person what happens; silent with `-q`."""
        if not self.options.quiet:
            self.stderr.print(text)

    def say_at_once(self, text: str) -> None:
        """The same from a signal handler, which may have come in the middle of a buffered write."""
        if not self.options.quiet:
            clear = "\r\x1b[2K" if self.stderr.is_terminal else ""  # a progress bar may stand there
            with suppress(OSError, ValueError):  # nobody listens any more
                os.write(sys.stderr.fileno(), f"{clear}{text}\n".encode())

    def detail(self, text: str) -> None:
        """Tells what only `-v` wants to know."""
        if self.options.verbose and not self.options.quiet:
            self.stderr.print(text, style="dim")

    def progress(self, label: str, total: int | None = None) -> AbstractContextManager[Meter]:
        """Shows how far some work is while the block runs; see `spearctl.progress`."""
        return progress(self.stderr, label, total, quiet=self.options.quiet)

    def spell(self, *words: str) -> str:
        """Returns a command line of this program that works on the same home, for hints and next steps."""
        home = ["--home", str(self.place.root)] if self.options.home else []
        return shlex.join(["spearctl", *home, *words])

    def confirm(self, question: str, *, yes: bool) -> None:
        """Asks before something that cannot be undone.

        Args:
            question: Ends in a question mark.
            yes: The answer of a `--yes` flag: nothing is asked then.

        Raises:
            UsageError: The answer was not yes, or nobody can be asked.
        """
        if yes:
            return
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError(f"nobody can be asked here: {question}", "add --yes to do it without being asked")
        self.stderr.print(f"{question} [y/N] ", end="")
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            raise UsageError("not confirmed, so nothing was changed")
