"""Signals as exceptions, or as a flag where work must end at a safe point.

A command that does nothing special is stopped where it stands by SIGINT, SIGTERM or SIGHUP: `Signalled` unwinds it and
the process exits with 128 + the signal's number. A command that has something to finish first asks for `deferred`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Handler = Callable[[int, FrameType | None], None]


class Signalled(BaseException):
    """The process was asked to stop. Not an `Exception`, so that no handler for errors swallows it."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {self.signal.name}")

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as a shell reports it."""
        return 128 + self.signal.value


@dataclass(slots=True)
class Stop:
    """Whether somebody asked to stop, for work that looks at it at its safe points."""

    number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    def raise_if_asked(self) -> None:
        """Ends the deferral.

        Raises:
            Signalled: A signal came in while it was deferred.
        """
        if self.number is not None:
            raise Signalled(self.number)


@contextmanager
def raised() -> Iterator[None]:
    """Within the block, the stopping signals raise `Signalled` in the main thread."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Signalled(number)

    with _handled(handle):
        yield


@contextmanager
def deferred(on_first: Callable[[], None] = lambda: None) -> Iterator[Stop]:
    """Within the block, the first stopping signal only sets a flag; the second raises `Signalled`.

    Args:
        on_first: Called at the first signal, to tell the person that it was heard.

    Yields:
        The flag. The block ends by `stop.raise_if_asked()` once its work is safe.
    """
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop:
            raise Signalled(number)
        stop.number = number
        on_first()

    with _handled(handle):
        yield stop


@contextmanager
def _handled(handler: Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers there only
        yield
        return
    # A parent that had us ignore a signal (nohup) is obeyed.
    before = {number: signal.getsignal(number) for number in STOPPING}
    for number, previous in before.items():
        if previous is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
