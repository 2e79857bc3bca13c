"""A ledger that was damaged: what is refused, what a check finds, and what is tidied away."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from p2p.errors import LedgerError
from p2p.ledger import Ledger
from tests.ledgers import always, blob, make_ledger, record


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """The folder of a ledger that no process has open."""
    return make_ledger(tmp_path / "ledger")


def in_sqlite(folder: Path, statement: str, *values: object) -> None:
    db = sqlite3.connect(folder / "ledger.db")
    with db:
        db.execute(statement, values)
    db.close()


def test_a_sound_ledger_has_no_problems(closed: Path) -> None:
    with Ledger(closed) as ledger:
        assert ledger.check(always) == []


def test_a_ledger_of_a_newer_version_is_refused_and_left_as_it_is(closed: Path) -> None:
    in_sqlite(closed, "PRAGMA user_version = 2")
    before = (closed / "ledger.db").read_bytes()
    for use in (Ledger, Ledger.open_readonly):
        with pytest.raises(LedgerError, match=r"newer spearctl \(schema 2\)") as caught:
            use(closed)
        assert caught.value.hint == "upgrade spearctl"
    assert (closed / "ledger.db").read_bytes() == before


def test_a_file_that_is_no_database_is_refused(closed: Path) -> None:
    (closed / "ledger.db").write_bytes(b"not a database, and long enough to be read as one" * 100)
    for use in (Ledger, Ledger.open_readonly):
        with pytest.raises(LedgerError, match="not a database") as caught:
            use(closed)
        assert caught.value.hint == "restore it from a backup"


def test_blobs_without_their_database_are_not_taken_for_a_new_ledger(closed: Path) -> None:
    (closed / "ledger.db").unlink()
    with pytest.raises(LedgerError, match="missing or empty, but there are blobs"):
        Ledger(closed)
    assert len(list((closed / "blobs").iterdir())) == 3


def test_an_empty_blob_is_none(closed: Path) -> None:
    name, raw = blob(1)
    path = closed / "blobs" / name.hex()
    path.write_bytes(b"")
    with Ledger(closed) as ledger:
        assert not ledger.has_blob(name)
        assert ledger.blobs() == tuple(sorted([blob(2)[0]]))
        with pytest.raises(LedgerError, match="empty"):
            ledger.read_blob(name)
        assert ledger.check(always) == [f"{path}: empty"]
        ledger.write_blob(name, raw)
        assert ledger.check(always) == []


def test_a_check_finds_what_is_wrong(closed: Path) -> None:
    one, two = (blob(number)[0].hex() for number in (1, 2))
    (closed / "blobs" / one).write_bytes(b"something else")
    (closed / "blobs" / two).write_bytes(b"something else")
    (closed / "blobs" / "notes.txt").touch()
    in_sqlite(closed, "UPDATE record SET body = ? WHERE id = ?", record(3).signed.body, record(1).id)
    with Ledger(closed) as ledger:
        (closed / "blobs" / f"{two}.new").touch()
        found = ledger.check(lambda name: name.hex() != two)
    assert [problem.removeprefix(f"{closed}/") for problem in found] == [
        f"ledger.db: record {record(1).id.hex()} is not what its id says",
        *sorted(
            [
                f"blobs/{one}: not what its name says",
                f"blobs/{two}.new: of an interrupted write, or somebody else's",
                "blobs/notes.txt: of an interrupted write, or somebody else's",
            ]
        ),
    ]


def test_a_check_finds_a_damaged_page(closed: Path) -> None:
    with Ledger(closed) as ledger:
        for number in range(200):
            ledger.put(f"{number}", bytes(1000))
        ledger.commit()
    path = closed / "ledger.db"
    raw = bytearray(path.read_bytes())
    raw[-4096 * 3 : -4096 * 2] = b"\xff" * 4096
    path.write_bytes(raw)
    with Ledger(closed) as ledger:
        assert ledger.check(always)[0].startswith(f"{path}: ")


@pytest.mark.parametrize("tidied", ["at the next opening", "on demand"])
def test_what_an_interrupted_write_left_is_removed(closed: Path, tidied: str) -> None:
    left = closed / "blobs" / f"{blob(4)[0].hex()}.new"
    if tidied == "at the next opening":
        left.touch()
    with Ledger(closed) as ledger:
        if tidied == "on demand":
            left.touch()
            ledger.tidy({blob(number)[0] for number in (1, 2, 3)})
        assert not left.exists()
        assert len(ledger.blobs()) == 2
        assert ledger.partial_bytes(blob(3)[0]) == 1
