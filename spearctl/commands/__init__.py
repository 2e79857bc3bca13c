"""One module a command, or a group of commands; each has a `commands` attribute made by `spearctl.command.group`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import typer

ORDER = (
    *("init", "invite", "join", "up", "status", "feedback", "train", "eval", "log"),
    *("adapter", "peers", "export", "profile", "demo"),
)
"""How help lists them: in the order of a first day. Modules that are not named here follow."""


def load() -> Iterator[typer.Typer]:
    """Yields the commands of every module in here."""
    found = [module.name for module in pkgutil.iter_modules(__path__)]
    for name in sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name)):
        yield importlib.import_module(f"{__name__}.{name}").commands
