"""What can go wrong in the learner, as one small tree.

TrainingError
 +- ModelError            a base model cannot be found, read or trusted
 +- MissingPackageError   a profile needs an optional package that is not installed
 +- FeedbackError         a feedback log or an entry of it is unusable
 |   +- CheckError        a check's definition is unusable
 +- AdapterError          an adapter from elsewhere is damaged, or of another shape
 +- StoreError            the adapter versions or the history are damaged
 |   +- UnknownAdapterError  no version has that name
 +- Interrupted           a caller asked to stop at a safe point; the round in progress is dropped
"""

from __future__ import annotations


class TrainingError(Exception):
    """Base of the learner's errors.

    Attributes:
        message: What happened, with the value and the place, for a person.
        hint: The command or edit that mends it, if there is one.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ModelError(TrainingError):
    """A base model cannot be found, read or trusted."""


class MissingPackageError(TrainingError):
    """An optional package is needed that is not installed."""


class FeedbackError(TrainingError):
    """A feedback log, or an entry of it, is unusable."""


class CheckError(FeedbackError):
    """A check's definition is unusable."""


class AdapterError(TrainingError):
    """An adapter from elsewhere is damaged, or of another shape."""


class StoreError(TrainingError):
    """The adapter versions or the training history are damaged."""


class UnknownAdapterError(StoreError):
    """No adapter version has that name."""


class Interrupted(TrainingError):
    """A caller asked to stop at a safe point; the round in progress is dropped."""
