"""The completion files, in the shells that they are for."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli import ROOT, clean_environment

FILES = ROOT / "completions"
LIMIT_S = 60.0


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One in which `spearctl` is this checkout's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "spearctl").write_text(f'#!/bin/sh\nexec {sys.executable} -m spearctl "$@"\n')
    (folder / "spearctl").chmod(0o755)
    own = clean_environment(tmp_path)
    return {**own, "PATH": f"{folder}:{own['PATH']}", "XDG_DATA_DIRS": str(tmp_path / "share")}


def said(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    return done.stdout


@needs("bash")
@pytest.mark.parametrize(
    ("line", "answers"),
    [("spearctl tr", ["train"]), ("spearctl peers re", ["revoke"]), ("spearctl train --ro", ["--rounds"])],
)
def test_bash_completes(environment: dict[str, str], line: str, answers: list[str]) -> None:
    script = (
        f'source "{FILES / "spearctl"}"\nCOMP_WORDS=({line})\nCOMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n'
        '[[ "$(complete -p spearctl)" == *"-F _spearctl_completion spearctl" ]] || exit 1\n'
        '_spearctl_completion spearctl\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    assert said(environment, "bash", "--norc", "-c", script).split() == answers


@needs("fish")
@pytest.mark.parametrize(("line", "answer"), [("spearctl tr", "train"), ("spearctl peers re", "revoke")])
def test_fish_completes_from_where_packages_put_it(
    environment: dict[str, str], tmp_path: Path, line: str, answer: str
) -> None:
    folder = tmp_path / "share" / "fish" / "vendor_completions.d"
    folder.mkdir(parents=True)
    shutil.copy(FILES / "spearctl.fish", folder)
    found = said(environment, "fish", "--no-config", "-c", f'set fish_complete_path {folder}; complete -C "{line}"')
    assert [row.split("\t")[0] for row in found.splitlines()] == [answer]


@needs("zsh")
def test_zsh_completes_at_the_first_tab_from_where_packages_put_it(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "site-functions"
    folder.mkdir()
    shutil.copy(FILES / "_spearctl", folder)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("zsh", ["zsh", "-f", "-i"], {**environment, "TERM": "dumb", "ZDOTDIR": str(tmp_path)})
    try:
        begin = f"PS1=; fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D; print re''ady\n"
        os.write(terminal, begin.encode())
        wait_for(terminal, b"ready")
        os.write(terminal, b"spearctl tr\t")
        wait_for(terminal, b"train")
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)


def wait_for(terminal: int, wanted: bytes) -> None:
    shown, deadline = b"", time.monotonic() + LIMIT_S
    while wanted not in shown:
        ready, _, _ = select.select([terminal], [], [], deadline - time.monotonic())
        assert ready, shown
        shown += os.read(terminal, 4096)
