"""A terminal in which a test runs commands, and of which it sees what a person sees and what programs wrote: tmux."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Terminal:
    """One terminal with a shell in it.

    Attributes:
        folder: Of its server; its socket's path has to be short.
        raw: Holds every byte that was written to it.
    """

    folder: Path
    raw: Path

    def tmux(self, *words: str) -> str:
        command = ["tmux", "-S", str(self.folder / "socket"), "-f", "/dev/null", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def type(self, *words: str) -> None:
        """Types a command line, and Enter."""
        self.tmux("send-keys", "-l", shlex.join(words))
        self.tmux("send-keys", "Enter")

    def key(self, name: str) -> None:
        """Presses a key: "C-c"."""
        self.tmux("send-keys", name)

    def screen(self) -> list[str]:
        """What is to be seen now, a string a line, without the empty ones at the end."""
        return self.tmux("capture-pane", "-p").rstrip("\n").split("\n")

    def resize(self, columns: int, rows: int) -> None:
        self.tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def state(self, name: str) -> str:
        """A variable of tmux: "alternate_on"."""
        return self.tmux("display-message", "-p", f"#{{{name}}}").strip()


@contextmanager
def terminal(environ: Mapping[str, str], cwd: Path, columns: int = 80, rows: int = 30) -> Iterator[Terminal]:
    """Opens a terminal; it and what runs in it end with the block.

    Args:
        environ: Of the shell, whole.
        cwd: Where it starts.
        columns: Of the terminal.
        rows: Of the terminal.
    """
    if shutil.which("tmux") is None:
        pytest.skip("needs tmux, which .ci/run installs")
    folder = Path(tempfile.mkdtemp(prefix="tmux", dir="/tmp"))
    made = Terminal(folder, folder / "raw")
    plain = ["env", "-i", *(f"{name}={value}" for name, value in environ.items() if name not in {"TMUX", "TMUX_PANE"})]
    shell = [*plain, "TERM=screen", "LC_ALL=C.UTF-8", "PS1=$ ", "bash", "--norc", "--noprofile"]
    try:
        made.tmux("new-session", "-d", "-x", str(columns), "-y", str(rows), "-c", str(cwd), shlex.join(shell))
        made.tmux("pipe-pane", "-o", shlex.join(["sh", "-c", f"cat > {shlex.quote(str(made.raw))}"]))
        yield made
    finally:
        subprocess.run(["tmux", "-S", str(folder / "socket"), "kill-server"], check=False, capture_output=True)
        shutil.rmtree(folder)
