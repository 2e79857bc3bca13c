"""What can go wrong with a profile: one error, made for a person to read."""

from __future__ import annotations


class ProfileError(Exception):
    """A profile does not exist, cannot be read, is not valid, or does not suit this machine.

    Attributes:
        message: What happened, with the value and the place; one line for each problem of a file.
        hint: The command or edit that mends it, if there is one.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
