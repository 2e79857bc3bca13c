"""The manual pages and completion files, from the command line itself: `make man`, or `python -m spearctl.manual .`.

One page for the program and one for each command or group, in mdoc(7). Names, synopses, descriptions and options are
those of `--help`, so they cannot go stale. What no command knows of itself is written by hand in `man/source/`:

    examples.toml       examples by command; there alone something has to be added for a new command
    COMMAND.mdoc        more about a command than its help has room for, where there is more
    spearctl.mdoc       what concerns more than one command
    environment.mdoc, files.mdoc, exit-status.mdoc    of the program's own page; the last one of all pages

Not covered: whether what is written by hand is true, but for command lines in the examples, which a test reads.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer import Context
from typer.main import get_command

from spearctl import app, completion, mdoc, options
from spearctl.command import told
from spearctl.config import write_text

DATE = "November 23, 2026"
"""Of the last change to what is written by hand. Not the day of a build, which would make every build another page."""

SUMMARY = "a language model that learns from its users' feedback, on their devices"


def pages(source: Path) -> dict[str, str]:
    """Returns the manual pages by file name.

    Args:
        source: The folder of what is written by hand.
    """
    root = get_command(app.build())
    root.name = "spearctl"
    examples = tomllib.loads((source / "examples.toml").read_text(encoding="utf-8"))
    commands = {name: command for name, command in root.commands.items() if not command.hidden}  # type: ignore[attr-defined]  # typer types groups as commands
    context = Context(root, info_name="spearctl")
    made = {"spearctl.1": _join(_program_page(context, commands, source, examples))}
    for name, command in commands.items():
        lines = _command_page(Context(command, parent=context, info_name=name), source, examples.get(name, []))
        made[f"spearctl-{name}.1"] = _join(lines)
    return made


def _program_page(context: Any, commands: dict[str, Any], source: Path, examples: dict[str, Any]) -> Iterator[str]:
    yield from _head("spearctl", SUMMARY)
    yield ".Sh SYNOPSIS"
    yield from _synopsis(context)
    yield from (".Sh DESCRIPTION", *_written(source, "spearctl-about"))
    yield '.Bl -tag -width "feedback"'
    for name, command in commands.items():
        yield from (f".It Xr spearctl-{name} 1", *mdoc.text(command.get_short_help_str(limit=1000)))
    yield ".El"
    yield from _written(source, "spearctl")
    yield ".Sh OPTIONS"
    yield from _options(context, with_globals=True)
    for section in ("environment", "files", "exit-status"):
        yield from (f".Sh {section.replace('-', ' ').upper()}", *_written(source, section))
    yield from _examples(examples["spearctl"])
    yield from _see_also([f"spearctl-{name}" for name in commands])


def _command_page(context: Any, source: Path, examples: list[dict[str, str]]) -> Iterator[str]:
    name = context.info_name
    leaves = [*_leaves(context)]
    help_text = context.command.help or ""
    yield from _head(f"spearctl-{name}", help_text.partition("\n\n")[0].rstrip("."))
    yield ".Sh SYNOPSIS"
    for leaf in leaves:
        yield from _synopsis(leaf)
    yield from (".Sh DESCRIPTION", *mdoc.paragraphs(help_text))
    if leaves != [context]:
        for leaf in leaves:
            yield from (f".Ss {leaf.command_path}", *mdoc.paragraphs(leaf.command.help or ""))
    yield from _written(source, name)
    yield ".Sh OPTIONS"
    for leaf in leaves:
        if leaves != [context] and _own(leaf):
            yield f".Ss {leaf.command_path}"
        yield from _options(leaf, with_globals=False)
    if leaves != [context]:
        yield ".Ss Global options"
    elif _own(context):
        yield ".Pp"
    yield from mdoc.text("The global options work here too:")
    yield from ((".Fl -home ,", ".Fl -json ,", ".Fl -debug ,", ".Fl -quiet", "and", ".Fl -verbose ;", "see"))
    yield ".Xr spearctl 1 ."
    yield from (".Sh ENVIRONMENT", *_written(source, "command-environment"))
    yield from (".Sh FILES", *_written(source, "command-files"))
    yield from (".Sh EXIT STATUS", *_written(source, "exit-status"))
    yield from _examples(examples)
    yield from _see_also(["spearctl"])


def _leaves(context: Any) -> Iterator[Any]:
    """The contexts of a command, or of all commands of a group."""
    children = getattr(context.command, "commands", None)
    if children is None:
        yield context
    for name, child in (children or {}).items():
        if not child.hidden:
            yield from _leaves(Context(child, parent=context, info_name=name))


def _head(name: str, summary: str) -> Iterator[str]:
    yield from (f".Dd {DATE}", f".Dt {name.upper()} 1", ".Os", ".Sh NAME", f".Nm {name}")
    yield f".Nd {mdoc.plain(summary[:1].lower() + summary[1:])}"


def _synopsis(context: Any) -> Iterator[str]:
    """How a command is typed: options first, then arguments, as everywhere."""
    path = context.command_path
    yield f".Nm {mdoc.word(path)}" if path != "spearctl" else ".Nm"
    for parameter in _own(context) if path != "spearctl" else _shown(context):
        is_argument = parameter.param_type_name == "argument"
        form = mdoc.argument(_metavar(parameter, context)) if is_argument else _form(parameter, context)
        form += " Ar ..." if parameter.nargs == -1 or parameter.multiple else ""
        yield f".{form}" if parameter.required else f".Op {form}"
    if path == "spearctl":
        yield from (".Ar command", ".Op Ar arguments")


def _options(context: Any, *, with_globals: bool) -> Iterator[str]:
    parameters = _shown(context) if with_globals else _own(context)
    if not parameters:
        return
    yield '.Bl -tag -width "verbose"'
    for parameter in parameters:
        is_argument = parameter.param_type_name == "argument"
        yield f".It {mdoc.argument(_metavar(parameter, context)) if is_argument else _names(parameter, context)}"
        yield from mdoc.text(told(parameter, context))
    yield ".El"


def _shown(context: Any) -> list[Any]:
    """Everything that can be typed behind a command's name, arguments first."""
    shown = [found for found in context.command.params if not getattr(found, "hidden", False)]
    return sorted(shown, key=lambda found: found.param_type_name != "argument")


def _own(context: Any) -> list[Any]:
    """The same without the global options; options first in a synopsis are sorted there."""
    return [found for found in _shown(context) if getattr(found, "rich_help_panel", None) != options.PANEL]


def _form(parameter: Any, context: Any) -> str:
    """An option as the synopsis shows it: its long name, and its value."""
    name = max(parameter.opts, key=len)
    metavar = "" if parameter.is_flag else f" {mdoc.argument(_metavar(parameter, context))}"
    return mdoc.flag(name) + metavar


def _names(parameter: Any, context: Any) -> str:
    """An option under all of its names, and its value."""
    names = " , ".join(mdoc.flag(name) for name in (*parameter.opts, *parameter.secondary_opts))
    return names if parameter.is_flag else f"{names} {mdoc.argument(_metavar(parameter, context))}"


def _metavar(parameter: Any, context: Any) -> str:
    return str(parameter.metavar or parameter.make_metavar(context)).strip("[]").lower()


def _examples(found: list[dict[str, str]]) -> Iterator[str]:
    if found:
        yield ".Sh EXAMPLES"
    for number, example in enumerate(found):
        yield from ([".Pp"] if number else [])
        yield from mdoc.text(example["what"])
        yield from (f".Dl {mdoc.words(line)}" for line in example["lines"].strip().splitlines())


def _see_also(names: list[str]) -> Iterator[str]:
    yield ".Sh SEE ALSO"
    names = sorted(names)
    yield from (f".Xr {name} 1{' ,' if name != names[-1] else ''}" for name in names)


def _written(source: Path, name: str) -> list[str]:
    """What is written by hand of something; nothing if there is no such file."""
    path = source / f"{name}.mdoc"
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _join(lines: Iterator[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def main(root: Path) -> None:
    """Writes all files below a checkout, and removes the pages of commands that are no more."""
    files = completion.files(get_command(app.build()))
    for folder, made in ((root / "man", pages(root / "man" / "source")), (root / "completions", files)):
        for path in folder.iterdir():
            if path.is_file() and path.name not in made:
                path.unlink()
        for name, text in made.items():
            write_text(folder / name, text)
            (folder / name).chmod(0o644)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
