"""Standard streams that are closed, full or read by nobody: the exit code stays that of the command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import clean_environment

FULL = "/dev/full"


def run(folder: Path, line: str, redirected: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        f'"{sys.executable}" -m spearctl {line} {redirected}',
        shell=True,
        cwd=folder,
        env=clean_environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(not Path(FULL).exists(), reason="there is no /dev/full here")
def test_an_stderr_that_is_full_changes_no_exit_code(tmp_path: Path) -> None:
    assert run(tmp_path, "profile show nope", f"2>{FULL}").returncode == 4
    listed = run(tmp_path, "-v profile detect", f"2>{FULL}")
    assert listed.returncode == 0
    assert "cores" in listed.stdout


@pytest.mark.parametrize("redirected", ["2>&-", "2>&- <&-"])
def test_an_stderr_that_is_closed_changes_no_exit_code(tmp_path: Path, redirected: str) -> None:
    assert run(tmp_path, "profile show nope", redirected).returncode == 4
    assert run(tmp_path, "profile list", redirected).stdout.count("\n") > 5


@pytest.mark.parametrize("redirected", [">&-", ">&- <&-"])
def test_an_stdout_that_is_closed_is_told(tmp_path: Path, redirected: str) -> None:
    outcome = run(tmp_path, "profile list", redirected)
    assert outcome.returncode == 9
    assert outcome.stderr.startswith("error: standard output cannot be written to")
    assert "Traceback" not in outcome.stderr


def test_an_stderr_that_nobody_reads_changes_no_exit_code(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    line = [sys.executable, "-m", "spearctl", "profile", "show", "nope"]
    done = subprocess.run(line, cwd=tmp_path, env=clean_environment(tmp_path), stderr=writing, check=False)
    os.close(writing)
    assert done.returncode == 4
