"""A trainer in a process of its own, which stops at a named fault point until it is told to go on, or killed.

Every wait ends: at what is waited for, at the trainer's death, or at a limit that only a hanging trainer reaches.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from spearctl.home import Home
from tests.cli import clean_environment

LIMIT_S = 120
KEPT_VERSIONS = 1
"""In the trainer, so that two rounds are enough for one to be deleted."""

# A process forked from one that has loaded torch starts in milliseconds; where forking is not safe, it takes seconds.
_CONTEXT: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")


@dataclass
class Trainer:
    """A running `spearctl train`, as the test sees it."""

    process: Any
    channel: Connection
    folder: Path
    _errors: Connection
    _said: str = ""

    def wait_for(self, point: str) -> None:
        """Waits until the trainer stands at a fault point."""
        assert self.channel.poll(LIMIT_S), "the trainer hangs"
        assert self.channel.recv() == point

    def go_on(self) -> None:
        """Lets a trainer that stands at a fault point go on."""
        self.channel.send("go on")

    def signal(self, number: int) -> None:
        """Sends a signal to the trainer alone."""
        os.kill(self.process.pid, number)

    def wait_for_line(self, part: str) -> None:
        """Waits until the trainer has said a line on stderr; forgets that one and those before it."""
        while not (found := re.search(f".*{re.escape(part)}.*\n", self._said)):
            assert self._read(), f"never said {part!r}, but {self._said!r}"
        self._said = self._said[found.end() :]

    def end(self) -> int:
        """Waits for the trainer's end; returns its exit code, negative for a signal that killed it."""
        self.process.join(LIMIT_S)
        assert self.process.exitcode is not None, "the trainer hangs"
        return int(self.process.exitcode)

    def kill(self) -> int:
        """Kills the trainer where it stands; returns its exit code."""
        self.process.kill()
        return self.end()

    @property
    def errors(self) -> str:
        """What an ended trainer said on stderr after what `wait_for_line` found."""
        while self._read():
            pass
        return self._said

    @property
    def envelope(self) -> dict[str, Any]:
        """What an ended trainer with `--json` printed."""
        return dict(json.loads((self.folder / "out").read_text()))

    def _read(self) -> bool:
        assert select.select([self._errors], [], [], LIMIT_S)[0], "the trainer hangs"
        piece = os.read(self._errors.fileno(), 65_536)
        self._said += piece.decode()
        return bool(piece)


@contextlib.contextmanager
def training(
    home: Home, *arguments: str, point: str | None = None, times: int = 1, ignored: int | None = None
) -> Iterator[Trainer]:
    """Runs `spearctl train` on a home.

    Args:
        home: Of `tests.homes`.
        arguments: After `train`.
        point: The fault point to stop at.
        times: At which reach of it.
        ignored: A signal that the trainer is started to ignore.
    """
    folder = home.root.parent
    ours, theirs = _CONTEXT.Pipe()
    errors, errors_end = _CONTEXT.Pipe(duplex=False)
    command = ("train", "--home", str(home.root), *arguments)
    streams = (folder / "out", errors_end)
    _CONTEXT.set_forkserver_preload(
        ["training", "torch", "peft", "spearctl.app", "spearctl.learner", "training.rounds"]
    )
    stop = (point, times, theirs)
    process = _CONTEXT.Process(target=_train, args=(command, clean_environment(folder), streams, stop, ignored))
    process.start()
    theirs.close()
    errors_end.close()
    with ours, errors:
        try:
            yield Trainer(process, ours, folder, errors)
        finally:
            process.kill()
            process.join()


def _train(
    command: tuple[str, ...],
    environment: Mapping[str, str],
    streams: tuple[Path, Connection],
    stop: tuple[str | None, int, Connection],
    ignored: int | None,
) -> NoReturn:
    """What runs in the other process."""
    os.environ.clear()
    os.environ.update(environment)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whatever the tests themselves were started with
        signal.signal(number, signal.SIG_IGN if number == ignored else signal.SIG_DFL)
    _redirect(*streams)

    import training.faults
    import training.store
    from spearctl.main import main

    training.faults.hook = _stopping_at(*stop)
    training.store.KEPT_VERSIONS = KEPT_VERSIONS
    sys.exit(main(command))


def _redirect(out: Path, errors: Connection) -> None:
    with out.open("wb") as file:
        os.dup2(file.fileno(), 1)
    os.dup2(errors.fileno(), 2)
    errors.close()
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # for as long as the process lives
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115


def _stopping_at(point: str | None, times: int, channel: Connection) -> Callable[[str], None]:
    reached: list[str] = []

    def hook(name: str) -> None:
        reached.append(name)
        if name == point and reached.count(name) == times:
            channel.send(name)
            channel.recv()

    return hook
