"""A `spearctl chat` on a pseudo-terminal.

The process is forked from one that has loaded torch, so it stands at its first prompt in a moment. Its terminal is its
controlling one: Ctrl-C typed into it is a signal there.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import pty
import signal
import struct
import sys
import termios
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import pexpect
from pexpect import fdpexpect

from tests.cli import clean_environment

LIMIT_S = 60
SEED = 1
"""Of what the model says, unless a test chooses: by chance a second answer may be the first one again."""
ASK, JUDGE = "\r\n> ", "\r\n+/- > "

_CONTEXT: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")


@dataclass
class Chat:
    """A running chat, as somebody in front of it sees it."""

    process: Any
    screen: Any

    def wait_for(self, *texts: str) -> str:
        """Waits until the texts were shown, in this order; returns all that was shown on the way."""
        shown = ""
        for text in texts:
            try:
                self.screen.expect_exact(text)
            except pexpect.TIMEOUT:
                raise AssertionError(f"{text!r} was not shown, but {self.screen.before!r}") from None
            shown += self.screen.before + text
        return shown

    def type(self, text: str) -> None:
        """Types a line."""
        self.screen.send(f"{text}\n")

    def press(self, key: str) -> None:
        """Presses Ctrl and a letter."""
        self.screen.send(chr(ord(key.upper()) - 64))

    def end(self) -> tuple[int, str]:
        """Waits for the chat's end; returns its exit code and what else it showed."""
        with contextlib.suppress(OSError):  # how Linux tells that the other end was closed
            self.screen.expect(pexpect.EOF)
        self.process.join(LIMIT_S)
        assert self.process.exitcode is not None, "the chat hangs"
        return int(self.process.exitcode), str(self.screen.before)

    def kill(self) -> None:
        """Kills it where it stands."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(LIMIT_S)


@contextlib.contextmanager
def chatting(folder: Path, *arguments: str, columns: int = 160, **environ: str) -> Iterator[Chat]:
    """Runs `spearctl chat` in a terminal.

    Args:
        folder: What `clean_environment` is made for.
        arguments: After `chat`.
        columns: Of the terminal.
        environ: Changes to the environment.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    opened, opened_end = _CONTEXT.Pipe(duplex=False)
    environment = {**clean_environment(folder), "TERM": "dumb", **environ}
    _CONTEXT.set_forkserver_preload(["torch", "peft", "spearctl.app", "spearctl.talk", "training.rounds"])
    command = ("chat", "--seed", str(SEED), *arguments)
    process = _CONTEXT.Process(target=_chat, args=(command, environment, os.ttyname(theirs), opened_end))
    process.start()
    opened_end.close()
    screen = fdpexpect.fdspawn(ours, encoding="utf-8", timeout=LIMIT_S)
    try:
        assert opened.poll(LIMIT_S), "the chat hangs"
        os.close(theirs)  # from here on it is the chat's alone, and ends with it
        yield Chat(process, screen)
    finally:
        process.kill()
        process.join()
        opened.close()
        screen.close()


def _chat(command: tuple[str, ...], environment: Mapping[str, str], terminal: str, opened: Connection) -> NoReturn:
    """What runs in the other process."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whatever the tests themselves were started with
        signal.signal(number, signal.SIG_DFL)
    handle = os.open(terminal, os.O_RDWR)  # the first that a session opens is its controlling one
    for stream in range(3):
        os.dup2(handle, stream)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # for as long as the process lives
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    opened.send(True)

    from spearctl.main import main

    sys.exit(main(command))
