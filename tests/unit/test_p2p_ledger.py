"""A ledger in use: one writer, many readers, and a disk that is full or cannot be written to."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import p2p.ledger
from p2p.blobs import FLUSH_BYTES, disk_errors
from p2p.errors import LedgerError
from p2p.ledger import Ledger
from tests.ledgers import blob, record

# One writer, many readers.


def test_a_ledger_that_is_in_use_names_who_uses_it(tmp_path: Path) -> None:
    with Ledger(tmp_path), pytest.raises(LedgerError, match=f"process {os.getpid()}$") as caught:
        Ledger(tmp_path)
    assert caught.value.hint == "stop it: spearctl down"
    Ledger(tmp_path).close()


def test_a_reader_sees_what_is_committed_while_a_node_runs_and_after(tmp_path: Path) -> None:
    name, raw = blob(1)
    with Ledger(tmp_path) as ledger, Ledger.open_readonly(tmp_path) as reader:
        ledger.put("a", b"1")
        ledger.add_record(record(1))
        assert reader.get("a") is None
        ledger.write_blob(name, raw)
        ledger.write_partial(blob(2)[0], 0, b"x")
        ledger.commit()
        ledger.put("a", b"2")
        ledger.remove_blob(name)
        assert (reader.get("a"), reader.keys("")) == (b"1", ("a",))
        assert list(reader.records()) == [record(1).signed]
        assert (reader.blobs(), reader.has_blob(name), reader.read_blob(name)) == ((name,), True, raw)
        assert reader.read_chunk(name, 1, 2) == raw[1:3]
        assert (reader.partial_bytes(blob(2)[0]), reader.read_partial(blob(2)[0])) == (1, b"x")
        assert not reader.is_suspect
    with Ledger.open_readonly(tmp_path) as reader:
        assert reader.get("a") == b"1"
        assert not reader.is_suspect
        with Ledger(tmp_path) as ledger:  # a reader is in nobody's way
            assert not reader.is_suspect
            ledger.put("a", b"3")
            ledger.commit()
        assert reader.get("a") == b"3"
        assert not isinstance(reader, Ledger)


@pytest.mark.parametrize("made", ["nothing", "an empty file"])
def test_there_is_nothing_to_read_before_a_ledger_is_made(tmp_path: Path, made: str) -> None:
    if made == "an empty file":
        (tmp_path / "ledger.db").touch()
    with pytest.raises(LedgerError, match="there is no ledger") as caught:
        Ledger.open_readonly(tmp_path)
    assert caught.value.hint is not None
    assert "spearctl invite" in caught.value.hint


def test_a_writer_waits_for_no_other_program_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.ledger, "_PATIENCE_S", 0)
    with Ledger(tmp_path) as ledger:
        other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="locked") as caught:
            ledger.put("a", b"1")
        assert caught.value.hint == "another program is writing to it; try again"
        other.close()
        ledger.put("a", b"1")
        ledger.commit()
        assert ledger.get("a") == b"1"


def test_a_ledger_is_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "ledger"
    with Ledger(folder) as ledger:
        ledger.put("a", b"1")
        ledger.write_blob(*blob(1))
        ledger.write_partial(blob(2)[0], 0, b"x")
        ledger.commit()
        found = [folder, *(path for path in folder.rglob("*") if not path.is_symlink())]
        assert len(found) == 8
        assert [path for path in found if path.stat().st_mode & 0o077] == []


# What the disk makes of it.


def test_a_folder_that_cannot_be_made_is_an_error_for_people(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="Not a directory"):
        Ledger(tmp_path / "file" / "ledger")


def test_pieces_are_flushed_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr("p2p.blobs.os.fsync", flushed.append)
    piece = FLUSH_BYTES // 4
    with Ledger(tmp_path) as ledger:
        flushed.clear()
        for index in range(9):
            ledger.write_partial(blob(1)[0], index * piece, bytes(piece))
        assert len(flushed) == 2


FILLING = """
import json, resource, sys
from pathlib import Path
from p2p.errors import LedgerError
from p2p.ledger import Ledger

folder, write = Path(sys.argv[1]), sys.argv[2]
name, raw = bytes(32), bytes(1 << 20)
most_bytes, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
with Ledger(folder) as ledger:
    ledger.put("before", b"1")
    ledger.write_blob(name, b"before")
    ledger.commit()
    ledger.put("half", b"1")
    ledger.remove_blob(name)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    error = None
    try:
        match write:
            case "value":
                ledger.put("large", raw)
            case "values":
                for number in range(8):
                    ledger.put(f"large/{number}", raw)
            case "blob":
                ledger.write_blob(name, raw)
            case "piece":
                ledger.write_partial(name, 0, raw)
        ledger.commit()
    except LedgerError as raised:
        error = raised
    left = sorted(path.suffix for path in (folder / "blobs").iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    ledger.put("after", b"1")
    ledger.commit()
with Ledger(folder) as ledger:
    problems = ledger.check(lambda name: False)
    print(json.dumps([str(error), error and error.hint, left, ledger.keys(""), len(ledger.blobs()), problems]))
"""


@pytest.mark.parametrize(
    ("write", "left", "said", "hint"),
    [
        ("value", [""], "disk I/O error", "look at the disk: is it full, or failing?"),
        ("values", [""], "disk I/O error", "look at the disk: is it full, or failing?"),
        ("blob", [""], "File too large", "free some disk space, then try again"),
        ("piece", ["", ".part"], "File too large", "free some disk space, then try again"),
    ],
)
def test_a_full_disk_undoes_the_step_and_the_next_one_goes_on(
    tmp_path: Path, write: str, left: list[str], said: str, hint: str
) -> None:
    command = [sys.executable, "-c", FILLING, str(tmp_path), write]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    message, *found = json.loads(done.stdout)
    assert said in message
    assert found == [hint, left, ["after", "before"], 1, []]


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (errno.ENOSPC, "free some disk space"),
        (errno.EDQUOT, "free some disk space"),
        (errno.EROFS, "make it writable"),
        (errno.EACCES, "make it writable"),
        (errno.EIO, "look at the disk"),
        (errno.ENOENT, "from a backup"),
    ],
)
def test_what_the_system_says_becomes_an_error_with_a_hint(number: int, word: str) -> None:
    with (
        pytest.raises(LedgerError, match=f"^/somewhere: {os.strerror(number)}") as caught,
        disk_errors(Path("/somewhere")),
    ):
        raise OSError(number, os.strerror(number))
    assert caught.value.hint is not None
    assert word in caught.value.hint
