"""Named points at which a test can stop the process dead, to show that nothing acknowledged is lost."""

from __future__ import annotations

from collections.abc import Callable

FAULT_POINTS = (
    "round.before-play",
    "round.after-play",
    "round.after-update",
    "store.after-write",
    "store.after-rename",
    "history.before-commit",
    "history.after-commit",
    "store.after-prune",
)

hook: Callable[[str], None] | None = None
"""Set by tests only."""


def reach(point: str) -> None:
    """Marks that execution has come to ``point``."""
    if hook is not None:
        hook(point)
