"""How a command is written: a function that takes a `Run` and returns a frozen result.

    commands = group()

    @command(commands, "train")
    def train(run: Run, rounds: Annotated[int, typer.Option(help="Rounds to train.")] = 1) -> TrainResult:
        '''Learns from the feedback log.'''

The decorator adds the global options and hands the function its `Run`; it catches nothing. `spearctl.main` renders
what the function returns, or reports what it raised. A module in `spearctl/commands/` with a `commands` attribute is
found by itself.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from spearctl import options
from spearctl.options import Invocation
from spearctl.output import Result
from spearctl.run import Run

R = TypeVar("R", bound=Result)

SENTENCE = 500
"""No first sentence of a command's help is so long that a list of commands cuts it."""


_FACTS = re.compile(r"\s*\[((?:default: |required|[\d.]+<=x|x>=)[^\[\]]*)\]$")
_RANGE = re.compile(r"(?:([\d.]+)<=)?x(?:<=([\d.]+))?(?:>=([\d.]+))?")


def told(parameter: Any, context: Any) -> str:
    """What is said of an option or an argument: its help, then what typer knows of it, in words."""
    record = parameter.get_help_record(context)
    text = " ".join((record[1] if record is not None else parameter.help or "").split())
    facts = _FACTS.search(text)
    if facts is None:
        return text
    text = text[: facts.start()]
    for fact in facts[1].split("; "):
        if fact.startswith("default: ") and "Default: " not in text:
            text += f" Default: {_plain_number(fact.removeprefix('default: '))}."
        elif fact == "required" and parameter.param_type_name == "option":
            text += " Must be given."
        elif found := _RANGE.fullmatch(fact):
            low, high = _plain_number(found[1] or found[3]), found[2]
            limits = f"from {low} to {_plain_number(high)}." if high else f"at least {low}."
            has_default = "Default: " in text
            text = f"{text[:-1]}; {limits}" if has_default else f"{text} {limits.capitalize()}"
    return text


def _plain_number(text: str) -> str:
    return text.removesuffix(".0")


class MissingCommand(typer.TyperException):
    """A group was named without one of its commands.

    Attributes:
        help_text: The group's help, which says more than an error could.
    """

    exit_code = 2

    def __init__(self, context: Any) -> None:
        super().__init__("a command is missing")
        self.ctx = context
        self.help_text = context.get_help()


def _format_options(self: TyperCommand | TyperGroup, ctx: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in self.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            is_argument = parameter.param_type_name == "argument"
            # An argument's name says more than the type that typer puts behind it.
            name = record[0].partition(" <")[0] if is_argument else record[0]
            title = getattr(parameter, "rich_help_panel", None) or ("Arguments" if is_argument else "Options")
            sections.setdefault(title, []).append((name, told(parameter, ctx)))
    for title in ("Arguments", "Options", options.PANEL):
        if title in sections:
            with formatter.section(typer.style(title, bold=True)):
                formatter.write_dl(sections[title])


class Command(TyperCommand):
    """A command whose help shows the global options apart from its own."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Names the arguments as every manual does: NAME, [NAME], not typer's {NAME}, [[NAME]]."""
        brackets = (("{", ""), ("}", ""), ("[[", "["), ("]]", "]"))
        pieces = super().collect_usage_pieces(ctx)
        for theirs, ours in brackets:
            pieces = [piece.replace(theirs, ours) for piece in pieces]
        return pieces

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the options section by section."""
        _format_options(self, ctx, formatter)


class Group(TyperGroup):
    """A group whose help lists its commands first, and which prints it when no command is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the group's own options.

        Raises:
            MissingCommand: Nothing was typed after the group's name.
        """
        rest = super().parse_args(ctx, args)
        named = ctx._protected_args or ctx.args
        if not (named or self.invoke_without_command or ctx.resilient_parsing):
            raise MissingCommand(ctx)
        return rest

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the commands, then the options section by section."""
        rows = [
            (name, command.get_short_help_str(limit=SENTENCE))
            for name in self.list_commands(ctx)
            if (command := self.get_command(ctx, name)) is not None and not command.hidden
        ]
        with formatter.section(typer.style("Commands", bold=True)):
            formatter.write_dl(rows)
        _format_options(self, ctx, formatter)


def group(name: str | None = None, help: str | None = None) -> typer.Typer:
    """Makes a group of commands.

    Args:
        name: The group's name; None for commands that stand at the top level.
        help: One sentence for the list of commands.
    """
    if name is None:
        return typer.Typer(cls=Group)
    made = typer.Typer(name=name, help=help, cls=Group, rich_markup_mode=None)
    made.callback()(with_global_options(_nothing))
    return made


def _nothing(context: typer.Context) -> None:
    pass


def with_global_options(function: Callable[..., Any], *, takes_run: bool = False) -> Callable[..., Any]:
    """Returns a function with the global options added to its signature, as typer wants to see it.

    Args:
        function: Its first parameter is a `Run`, or typer's context.
        takes_run: Whether it is a `Run`.
    """
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    added = options.parameters()

    @functools.wraps(function)
    def wrapper(*, context: typer.Context, **values: Any) -> Any:
        invocation = context.ensure_object(Invocation)
        invocation.add(context, {parameter.name: values.pop(parameter.name) for parameter in added})
        return function(Run(invocation.command, invocation.options) if takes_run else context, **values)

    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    kept = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    everything = [context, *kept, *added]
    wrapper.__signature__ = inspect.Signature(everything)  # type: ignore[attr-defined]  # read by inspect.signature
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in everything}
    return wrapper


def command(app: typer.Typer, name: str, *, hidden: bool = False) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Adds a function that takes a `Run` and returns a `Result` as a command.

    Args:
        app: The group it belongs to, from `group`.
        name: What a person types.
        hidden: Whether the lists of commands leave it out.
    """

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        app.command(name, cls=Command, hidden=hidden)(with_global_options(function, takes_run=True))
        return function

    return decorate
