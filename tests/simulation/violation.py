"""What the simulator is looking for."""

from __future__ import annotations


class Violation(Exception):  # it is what it is called everywhere else
    """Something that must hold does not.

    Attributes:
        invariant: Which.
        detail: What was seen.
    """

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
        self.detail = detail
