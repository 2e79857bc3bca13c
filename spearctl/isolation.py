"""Keeps whatever lies in the user's folders from being imported in place of this project.

`training` and `profiles` are everyday names: a folder that somebody works in may well hold packages called so, and
`python -m spearctl` or `PYTHONPATH=.` puts that folder first in the search path. `isolate` therefore ties the sibling
packages to the folder that holds `spearctl`, and takes the current folder out of the search path.

Not covered: a module that shadows the standard library (`typing.py`) or this package itself (`spearctl/`) in a folder
that Python was told to search, because it is loaded before any line here runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

SIBLINGS = frozenset({"p2p", "profiles", "training"})
ROOT = Path(__file__).resolve().parent.parent


class SiblingFinder:
    """Finds the sibling packages beside this one, and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the spec of a sibling package, None for every other name."""
        return PathFinder.find_spec(fullname, [str(ROOT)]) if fullname in SIBLINGS else None


def isolate() -> None:
    """Ties the sibling packages to their place and drops the current folder from the search path."""
    if not any(isinstance(finder, SiblingFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, SiblingFinder())
    for name in SIBLINGS:
        # A start-up hook may have imported a namesake already.
        origin = getattr(sys.modules.get(name), "__file__", None)
        if origin is not None and Path(origin).resolve().parent != ROOT / name:
            del sys.modules[name]
    sys.path[:] = [entry for entry in sys.path if not _is_current_folder(entry)]


def _is_current_folder(entry: str) -> bool:
    try:
        current = Path.cwd()
    except FileNotFoundError:  # the current folder was removed: nothing can be read from it
        return entry == ""
    folder = Path(entry).resolve()
    # Somebody who stands in the checkout, or in site-packages, still needs what is there.
    return folder == current and folder != ROOT and folder.name not in {"site-packages", "dist-packages"}
