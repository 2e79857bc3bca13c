"""Named points at which a test can stop the process dead, to show that nothing acknowledged is lost."""

from __future__ import annotations

from collections.abc import Callable

FAULT_POINTS = (
    "place.after-write",
    "place.after-commit",
    "blob.after-write",
    "blob.after-rename",
    "partial.after-write",
    "ledger.before-commit",
    "ledger.after-commit",
    "blob.after-remove",
)

hook: Callable[[str], None] | None = None
"""Set by tests only."""


def reach(point: str) -> None:
    """Marks that execution has come to ``point``."""
    if hook is not None:
        hook(point)
