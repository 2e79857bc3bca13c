"""What a wheel of this brings besides Python: manual pages, completion files, and a service for systemd."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from typer.main import get_command

from spearctl import completion, errors, manual
from spearctl.app import build
from tests.cli import ROOT

UNIT = ROOT / "systemd" / "spearctl.service"
PARTS = ("spearctl", "p2p", "training", "profiles", "man", "completions", "systemd")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """All files of a wheel, built as pip builds it, by name."""
    folder = tmp_path_factory.mktemp("build")
    for name in PARTS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    built = subprocess.run([*command, folder / "dist", folder], cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (path,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def shared(wheel: dict[str, bytes], folder: str) -> dict[str, str]:
    """What an install puts into a folder below `share/`."""
    mark = f".data/data/share/{folder}/"
    return {name.partition(mark)[2]: raw.decode() for name, raw in wheel.items() if mark in name}


def test_a_wheel_brings_all_manual_pages(wheel: dict[str, bytes]) -> None:
    assert shared(wheel, "man/man1") == manual.pages(ROOT / "man" / "source")


def test_a_wheel_brings_completion_files_where_shells_look(wheel: dict[str, bytes]) -> None:
    made = completion.files(get_command(build()))
    assert shared(wheel, "bash-completion/completions") == {"spearctl": made["spearctl"]}
    assert shared(wheel, "zsh/site-functions") == {"_spearctl": made["_spearctl"]}
    assert shared(wheel, "fish/vendor_completions.d") == {"spearctl.fish": made["spearctl.fish"]}


def test_a_wheel_brings_the_service_where_systemd_looks(wheel: dict[str, bytes]) -> None:
    assert shared(wheel, "systemd/user") == {"spearctl.service": UNIT.read_text()}


def test_a_wheel_brings_every_module_and_every_profile(wheel: dict[str, bytes]) -> None:
    for package in ("spearctl", "p2p", "training", "profiles"):
        files = [path for path in (ROOT / package).rglob("*") if path.suffix in {".py", ".toml"}]
        assert files
        assert {str(path.relative_to(ROOT)) for path in files} <= wheel.keys()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_nothing_wrong_with_the_service(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:  # a short one, for sockets of other services
        done = subprocess.run(
            ["systemd-analyze", "--user", "--man=no", "verify", UNIT],
            env={**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": runtime},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_service_is_not_started_again_where_only_a_person_can_mend_it() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    assert service["Restart"] == "on-failure"
    prevented = {int(code) for code in service["RestartPreventExitStatus"].split()}
    mended_by_people = {errors.USAGE, errors.CONFIG, errors.IDENTITY, errors.TRAINING, errors.FEEDBACK, errors.HOME}
    assert prevented == mended_by_people
    assert errors.NETWORK not in prevented
