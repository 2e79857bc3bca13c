"""The global options, which may stand before or after a command's name.

Every group and every command declares the same five. Each level hands what it was given to `Invocation.add`; a later
level wins over an earlier one.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

PANEL = "Global options"

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="The home to work in, instead of SPEARCTL_HOME.", rich_help_panel=PANEL),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object instead of text.", rich_help_panel=PANEL)
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show a traceback on errors.", rich_help_panel=PANEL)]
QuietOption = Annotated[
    bool, typer.Option("-q", "--quiet", help="Print the result and errors only.", rich_help_panel=PANEL)
]
VerboseOption = Annotated[
    bool, typer.Option("-v", "--verbose", help="Say more about what happens.", rich_help_panel=PANEL)
]


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalOptions:
    """The global options of one run, as typed."""

    home: Path | None = None
    json: bool = False
    debug: bool = False
    quiet: bool = False
    verbose: bool = False


@dataclass(slots=True)
class Invocation:
    """What is known of a run while its command line is being read; an error may end that anywhere."""

    command: str = ""  # its words without the program's name: "adapter list"
    options: GlobalOptions = field(default_factory=GlobalOptions)

    def add(self, context: typer.Context, given: Mapping[str, Any]) -> None:
        """Takes over the global options of one level of the command line."""
        self.command = context.command_path.partition(" ")[2]
        set_here = {name.removeprefix("global_"): value for name, value in given.items() if value}
        self.options = replace(self.options, **set_here)


def parameters() -> list[inspect.Parameter]:
    """Returns the parameters that declare the global options to typer."""
    # The prefix keeps them apart from a command's own parameters.
    declared = {
        "global_home": (HomeOption, None),
        "global_json": (JsonOption, False),
        "global_debug": (DebugOption, False),
        "global_quiet": (QuietOption, False),
        "global_verbose": (VerboseOption, False),
    }
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in declared.items()
    ]


def wants_json(arguments: list[str]) -> bool:
    """Whether a command line that could not be read asked for JSON."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options
