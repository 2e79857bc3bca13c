"""The command line as a whole: the program's own options, and every command below it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

import spearctl
from spearctl import commands
from spearctl.command import Group, MissingCommand, with_global_options
from spearctl.output import Page, Result

HELP = "Your language model learns from your feedback, on your device."


@dataclass(frozen=True, slots=True)
class VersionResult(Result):
    """This program's version."""

    version: str

    def data(self) -> Mapping[str, Any]:
        return {"version": self.version}

    def render(self, console: Page) -> None:
        console.print(f"spearctl {self.version}")


def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print this program's version.")] = False,
) -> VersionResult | None:
    """The program without a command."""
    if context.invoked_subcommand is not None:
        return None
    if version:
        return VersionResult(spearctl.__version__)
    raise MissingCommand(context)


def build() -> typer.Typer:
    """Returns the command line with every command in it."""
    app = typer.Typer(name="spearctl", cls=Group, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback(invoke_without_command=True, help=HELP)(with_global_options(root))
    for command in commands.load():
        app.add_typer(command)
    return app
