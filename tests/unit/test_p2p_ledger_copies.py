"""Copies and backups: a ledger knows when it is not the one that was written last."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p.ledger import Ledger
from tests.ledgers import always, make_ledger


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """The folder of a ledger that no process has open."""
    return make_ledger(tmp_path / "ledger")


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, timeout=60)


# Restoring.


def in_a_new_folder(backup: Path, folder: Path) -> Path:
    return backup


def into_an_emptied_folder(backup: Path, folder: Path) -> Path:
    run("tar", "-C", backup, "-cf", backup.parent / "backup.tar", ".")
    shutil.rmtree(folder)
    folder.mkdir()
    run("tar", "-C", folder, "-xpf", backup.parent / "backup.tar")
    return folder


def over_what_is_there(backup: Path, folder: Path) -> Path:
    run("cp", "-a", f"{backup}/.", folder)
    return folder


def unpacked_over_what_is_there(backup: Path, folder: Path) -> Path:
    run("tar", "-C", backup, "-cf", backup.parent / "backup.tar", ".")
    run("tar", "-C", folder, "-xpf", backup.parent / "backup.tar")
    return folder


def the_database_alone(backup: Path, folder: Path) -> Path:
    run("cp", "-a", backup / "ledger.db", folder / "ledger.db")
    return folder


def all_as_it_was(backup: Path, folder: Path) -> Path:
    """As `rsync --delete` does it."""
    run("cp", "-a", f"{backup}/.", folder)
    for path in folder.iterdir():
        if not (backup / path.name).is_symlink() and not (backup / path.name).exists():
            path.unlink()
    return folder


RESTORING = [
    in_a_new_folder, into_an_emptied_folder, over_what_is_there, unpacked_over_what_is_there, the_database_alone,
    all_as_it_was,
]  # fmt: skip


@pytest.mark.parametrize("while_running", [False, True])
@pytest.mark.parametrize("restore", RESTORING)
def test_a_copy_or_a_backup_is_suspect_until_it_is_accepted(
    closed: Path, restore: Callable[[Path, Path], Path], while_running: bool
) -> None:
    backup = closed.parent / "backup"
    with Ledger(closed) as ledger:
        if while_running:
            run("cp", "-a", closed, backup)
        ledger.put("a", b"2")
        ledger.commit()
    if not while_running:
        run("cp", "-a", closed, backup)
    with Ledger(closed) as ledger:
        ledger.put("a", b"3")
        ledger.commit()
        assert not ledger.is_suspect
    folder = restore(backup, closed)
    with Ledger.open_readonly(folder) as reader:
        assert reader.is_suspect
    for _ in range(2):
        with Ledger(folder) as ledger:
            assert ledger.is_suspect
            assert ledger.get("a") in (b"1", b"2")
            ledger.put("b", b"1")
            ledger.commit()
            assert ledger.is_suspect
    with Ledger(folder) as ledger:
        ledger.accept_as_own()
        assert not ledger.is_suspect
    with Ledger(folder) as ledger:
        assert not ledger.is_suspect
        assert ledger.check(always) == []


def test_the_original_of_a_copy_is_not_suspect(closed: Path) -> None:
    run("cp", "-r", closed, closed.parent / "copy")
    with Ledger(closed.parent / "copy") as copy, Ledger(closed) as original:
        assert (copy.is_suspect, original.is_suspect) == (True, False)


# What is no copy.


def moved(folder: Path) -> Path:
    return folder.rename(folder.parent / "elsewhere")


def made_private(folder: Path) -> Path:
    run("chmod", "-R", "go-rwx", folder)
    return folder


def read_and_backed_up(folder: Path) -> Path:
    run("tar", "-C", folder, "-cf", folder.parent / "backup.tar", ".")
    return folder


@pytest.mark.parametrize("change", [lambda folder: folder, moved, made_private, read_and_backed_up])
def test_a_home_that_stays_itself_is_not_suspect(closed: Path, change: Callable[[Path], Path]) -> None:
    folder = change(closed)
    for _ in range(2):
        with Ledger(folder) as ledger:
            assert not ledger.is_suspect
            assert len(list(folder.glob("place.*"))) == 1
