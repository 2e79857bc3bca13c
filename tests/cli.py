"""The command line as tests use it: in this process, on a home of its own, away from the person's own files."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from spearctl import config
from spearctl.config import AdapterConfig, Config
from spearctl.home import Home
from spearctl.main import main
from training.history import History, NewVersion

ROOT = Path(__file__).resolve().parent.parent
ENTRY = {"v": 1, "id": "capital", "prompt": "Capital of France?", "check": {"type": "exact", "expect": "Paris"}}


@dataclass(frozen=True)
class Outcome:
    """What a command line came to."""

    code: int
    out: str
    err: str

    @property
    def envelope(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        assert self.out.count("\n") == 1, self.out
        return dict(json.loads(self.out))


class Cli:
    """Runs command lines in this process."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.home = Home(folder / "home")
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: str, stdin: str = "") -> Outcome:
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        self._capsys.readouterr()
        code = main(arguments)
        captured = self._capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    def make_home(self, **changes: object) -> Home:
        """Makes a home without asking torch for anything."""
        self.home.prepare()
        History(self.home.history_path).close()
        config.write(self.home.config_path, make_config(**changes))
        return self.home

    @property
    def preferences(self) -> Path:
        """Where the user's own settings are."""
        return self.folder / ".config" / "spearctl" / "preferences.toml"

    def prefer(self, text: str) -> Path:
        """Writes the user's own settings."""
        self.preferences.parent.mkdir(parents=True, exist_ok=True)
        self.preferences.write_text(text)
        return self.preferences

    def log(self, *lines: object) -> Path:
        """Appends lines to the home's feedback log, objects as JSON."""
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        with self.home.feedback_path.open("a", encoding="utf-8") as file:
            file.writelines(f"{text}\n" for text in texts)
        return self.home.feedback_path


def make_config(**changes: object) -> Config:
    """Makes the settings of a home for a model that is never loaded."""
    values: dict[str, Any] = {
        "format": 1,
        "name": "lab",
        "model": "smollm2-135m",
        "model_fingerprint": "ab" * 32,
        "prompt_format": "chat",
        "profile": "cpu",
        "adapter": AdapterConfig(shape="cd" * 32),
        **changes,
    }
    return Config(**values)


def learn(home: Home, *, rounds: int = 3, report: Mapping[str, object] = {}) -> None:
    """Writes a history in which every round made a version from the one before."""
    with History(home.history_path) as history:
        for number in range(1, rounds + 1):
            version = NewVersion(number, history.current, wins=10 * number, sha256="ef" * 32, bytes=9_800_000)
            told = {"played": 64, "right_first": 9, "revised": 2, "wins": 10 * number, "losses": 7, **report}
            history.commit(number=number, seconds=40.0, report=told, version=version)


def clean_environment(folder: Path) -> dict[str, str]:
    """Returns an environment in which nothing of the person who runs the tests counts."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SPEARCTL_", "XDG_", "PYTHON"))}
    for name in ("FORCE_COLOR", "NO_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "COLUMNS"):
        kept.pop(name, None)
    own = {"HOME": str(folder), "SPEARCTL_HOME": str(folder / "home"), "SPEARCTL_CACHE": str(folder / "cache")}
    return {**kept, **own, "TERM": "xterm", "PYTHONPATH": str(ROOT)}


def spawn(*arguments: str, folder: Path, cwd: Path | None = None, **environ: str) -> Outcome:
    """Runs `python -m spearctl` as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "spearctl", *arguments],
        cwd=cwd or folder,
        env={**clean_environment(folder), **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)
