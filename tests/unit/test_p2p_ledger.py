"""Storage on a disk and in memory: one contract; then what only a disk can suffer."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import p2p.ledger
from p2p.blobs import FLUSH_BYTES, disk_errors
from p2p.encoding import encode
from p2p.errors import LedgerError
from p2p.ledger import Ledger
from p2p.records import Invite, Record, Signed, record_id
from p2p.storage import Storage
from tests.memory import MemoryStorage

RAM = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Where flushing takes no time."""


def record(number: int) -> Record:
    """A record whose signature nobody checks."""
    key = hashlib.sha256(bytes([number])).digest()
    body = Invite(genesis=key, issuer=key, join_key=key, join_transport=key, expires_s=number)
    raw = encode(body)
    return Record(id=record_id(raw), body=body, signed=Signed(raw, bytes([number]) * 64))


def blob(number: int) -> tuple[bytes, bytes]:
    """A blob, after its name."""
    raw = bytes([number]) * (1000 + number)
    return hashlib.sha256(raw).digest(), raw


def always(_: bytes) -> bool:
    return True


class Memory:
    """A storage in memory, and what becomes of it when the process dies."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()

    def die(self) -> None:
        self.storage.crash(blobs_stay=True)

    def close(self) -> None:
        self.storage.crash()


class Disk:
    """A ledger, and what becomes of it when the process dies, as near as one process can come to that."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.storage = Ledger(folder)

    def die(self) -> None:
        self.close()
        self.storage = Ledger(self.folder)

    def close(self) -> None:
        self.storage.close()


@pytest.fixture(params=["memory", "disk"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Memory | Disk]:
    found: Memory | Disk = Memory() if request.param == "memory" else Disk(tmp_path / "ledger")
    yield found
    found.close()


class TestContract:
    def test_a_value_is_there_until_it_is_deleted(self, home: Memory | Disk) -> None:
        assert home.storage.get("a") is None
        home.storage.put("a", b"1")
        assert home.storage.get("a") == b"1"
        home.storage.put("a", b"")
        assert home.storage.get("a") == b""
        home.storage.delete("a")
        home.storage.delete("a")
        assert home.storage.get("a") is None

    def test_keys_are_those_with_the_prefix_in_order(self, home: Memory | Disk) -> None:
        for key in ("b/2", "a", "b", "b/10", "c", "b_", "b/", "B/1", "b/%"):
            home.storage.put(key, b"")
        assert home.storage.keys("b/") == ("b/", "b/%", "b/10", "b/2")
        assert home.storage.keys("") == ("B/1", "a", "b", "b/", "b/%", "b/10", "b/2", "b_", "c")
        home.storage.delete("b/10")
        home.storage.put("b/3", b"")
        assert home.storage.keys("b/") == ("b/", "b/%", "b/2", "b/3")

    def test_records_come_back_in_the_order_in_which_they_came(self, home: Memory | Disk) -> None:
        for number in (3, 1, 2, 3):
            home.storage.add_record(record(number))
        assert list(home.storage.records()) == [record(number).signed for number in (3, 1, 2)]
        home.storage.remove_record(record(3).id)
        home.storage.remove_record(record(9).id)
        home.storage.add_record(record(3))
        assert list(home.storage.records()) == [record(number).signed for number in (1, 2, 3)]

    def test_what_was_committed_outlives_the_process_and_the_rest_does_not(self, home: Memory | Disk) -> None:
        home.storage.put("a", b"1")
        home.storage.put("b", b"1")
        home.storage.add_record(record(1))
        home.storage.add_record(record(2))
        home.storage.commit()
        home.storage.put("a", b"2")
        home.storage.delete("b")
        home.storage.put("c", b"2")
        home.storage.remove_record(record(1).id)
        home.storage.add_record(record(3))
        home.die()
        assert [home.storage.get(key) for key in "abc"] == [b"1", b"1", None]
        assert home.storage.keys("") == ("a", "b")
        assert list(home.storage.records()) == [record(1).signed, record(2).signed]
        assert not home.storage.is_suspect

    def test_a_step_that_is_rolled_back_never_was(self, home: Memory | Disk) -> None:
        name, raw = blob(1)
        home.storage.write_blob(name, raw)
        home.storage.commit()
        home.storage.put("a", b"1")
        home.storage.remove_blob(name)
        home.storage.rollback()
        home.storage.put("b", b"1")
        home.storage.commit()
        assert home.storage.keys("") == ("b",)
        assert home.storage.read_blob(name) == raw

    def test_a_blob_is_read_whole_and_in_pieces(self, home: Memory | Disk) -> None:
        name, raw = blob(1)
        assert not home.storage.has_blob(name)
        assert home.storage.blob_bytes(name) == 0
        assert home.storage.read_chunk(name, 0, 10) == b""
        home.storage.write_blob(name, raw)
        home.storage.write_blob(name, raw)
        assert home.storage.has_blob(name)
        assert home.storage.blob_bytes(name) == len(raw) == 1001
        assert home.storage.read_blob(name) == raw
        assert home.storage.read_chunk(name, 990, 10) == raw[990:1000]
        assert home.storage.read_chunk(name, 1000, 10) == raw[1000:]
        assert home.storage.read_chunk(name, 1001, 10) == b""
        assert home.storage.blobs() == (name,)

    def test_a_blob_that_is_not_there_or_empty_is_refused(self, home: Memory | Disk) -> None:
        with pytest.raises(LedgerError, match=blob(1)[0].hex()):
            home.storage.read_blob(blob(1)[0])
        with pytest.raises(ValueError, match="empty"):
            home.storage.write_blob(blob(1)[0], b"")
        assert home.storage.blobs() == ()

    def test_a_removed_blob_is_gone_at_once_for_the_step_and_back_if_the_step_fails(self, home: Memory | Disk) -> None:
        name, raw = blob(1)
        home.storage.write_blob(name, raw)
        home.storage.commit()
        home.storage.remove_blob(name)
        assert not home.storage.has_blob(name)
        assert home.storage.blobs() == ()
        assert home.storage.blob_bytes(name) == 0
        assert home.storage.read_chunk(name, 0, 10) == b""
        with pytest.raises(LedgerError, match=name.hex()):
            home.storage.read_blob(name)
        home.die()
        assert home.storage.read_blob(name) == raw
        home.storage.remove_blob(name)
        home.storage.commit()
        home.die()
        assert not home.storage.has_blob(name)

    @pytest.mark.parametrize("committed", [False, True])
    def test_a_blob_that_is_removed_and_written_again_in_one_step_stays(
        self, home: Memory | Disk, committed: bool
    ) -> None:
        name, raw = blob(1)
        home.storage.write_blob(name, raw)
        if committed:
            home.storage.commit()
        home.storage.remove_blob(name)
        home.storage.write_blob(name, raw)
        assert home.storage.read_blob(name) == raw
        home.storage.commit()
        home.storage.commit()
        home.die()
        assert home.storage.blobs() == (name,)
        assert home.storage.read_blob(name) == raw

    def test_an_unfinished_blob_grows_piece_by_piece(self, home: Memory | Disk) -> None:
        name, raw = blob(1)
        assert (home.storage.partial_bytes(name), home.storage.read_partial(name)) == (0, b"")
        home.storage.write_partial(name, 0, raw[:400])
        home.storage.write_partial(name, 400, raw[400:900])
        assert home.storage.partial_bytes(name) == 900
        assert home.storage.read_partial(name) == raw[:900]
        assert not home.storage.has_blob(name)
        assert home.storage.blobs() == ()
        home.storage.write_blob(name, raw)
        assert home.storage.partial_bytes(name) == 0
        assert home.storage.read_blob(name) == raw

    def test_a_piece_ends_what_was_behind_it(self, home: Memory | Disk) -> None:
        name, raw = blob(1)
        home.storage.write_partial(name, 0, raw[:900])
        home.storage.write_partial(name, 500, b"x" * 100)
        assert home.storage.read_partial(name) == raw[:500] + b"x" * 100
        home.storage.write_partial(name, 0, b"y")
        assert home.storage.read_partial(name) == b"y"

    def test_a_piece_behind_a_gap_is_refused(self, home: Memory | Disk) -> None:
        name, raw = blob(1)
        home.storage.write_partial(name, 0, raw[:10])
        with pytest.raises(LedgerError, match="at 11 where only 10 bytes are"):
            home.storage.write_partial(name, 11, raw[11:20])
        assert home.storage.read_partial(name) == raw[:10]

    def test_an_unfinished_blob_outlives_the_process(self, home: Memory | Disk) -> None:
        name, raw = blob(1)
        home.storage.write_partial(name, 0, raw[:900])
        home.die()
        assert home.storage.read_partial(name) == raw[:900]

    def test_removing_a_blob_removes_what_there_is_of_it(self, home: Memory | Disk) -> None:
        name, raw = blob(1)
        home.storage.write_partial(name, 0, raw[:900])
        home.storage.remove_blob(name)
        assert home.storage.partial_bytes(name) == 0
        home.storage.write_partial(name, 0, raw[:10])
        home.storage.commit()
        assert home.storage.read_partial(name) == raw[:10]

    def test_tidying_removes_what_nothing_refers_to(self, home: Memory | Disk) -> None:
        for number in (1, 2):
            home.storage.write_blob(*blob(number))
        for number in (3, 4):
            home.storage.write_partial(blob(number)[0], 0, b"x")
        home.storage.tidy({blob(1)[0], blob(3)[0], blob(5)[0]})
        home.storage.commit()
        home.die()
        assert home.storage.blobs() == (blob(1)[0],)
        assert [home.storage.partial_bytes(blob(number)[0]) for number in (3, 4)] == [1, 0]


NUMBERS = st.integers(1, 3)
OPERATIONS = st.one_of(
    st.tuples(st.just("put"), st.text("a/é\U0001f600", max_size=3), st.binary(max_size=2)),
    st.tuples(st.just("delete"), st.text("a/é\U0001f600", max_size=3)),
    st.tuples(st.just("add_record"), NUMBERS.map(record)),
    st.tuples(st.just("remove_record"), NUMBERS.map(lambda number: record(number).id)),
    st.tuples(st.just("write_blob"), NUMBERS.map(blob)).map(lambda row: (row[0], *row[1])),
    st.tuples(st.just("remove_blob"), NUMBERS.map(lambda number: blob(number)[0])),
    st.tuples(
        st.just("write_partial"), NUMBERS.map(lambda number: blob(number)[0]), st.integers(0, 4), st.binary(max_size=4)
    ),
    st.tuples(st.just("commit")),
    st.tuples(st.just("die")),
)


def everything(storage: Storage, prefix: str) -> tuple[object, ...]:
    """All that can be seen of a storage."""
    names = [blob(number)[0] for number in (1, 2, 3)]
    return (
        {key: storage.get(key) for key in storage.keys("")},
        storage.keys(prefix),
        list(storage.records()),
        {name: storage.read_blob(name) for name in storage.blobs()},
        [(storage.has_blob(name), storage.blob_bytes(name), storage.read_chunk(name, 3, 1000)) for name in names],
        [(storage.partial_bytes(name), storage.read_partial(name)) for name in names],
    )


def does(home: Memory | Disk, method: str, *arguments: Any) -> bool:
    """Lets a home do something; whether it did."""
    try:
        home.die() if method == "die" else getattr(home.storage, method)(*arguments)
    except LedgerError:
        return False
    return True


@given(st.lists(OPERATIONS, max_size=20), st.text("a/é", max_size=2))
def test_a_disk_shows_what_a_memory_shows(operations: list[tuple[Any, ...]], prefix: str) -> None:
    with tempfile.TemporaryDirectory(dir=RAM) as folder:
        memory, disk = Memory(), Disk(Path(folder))
        for operation in operations:
            assert does(memory, *operation) == does(disk, *operation)
            assert everything(memory.storage, prefix) == everything(disk.storage, prefix)
        disk.close()


def test_a_memory_that_loses_power_loses_the_blobs_of_the_step_too() -> None:
    storage = MemoryStorage()
    storage.write_blob(*blob(1))
    storage.write_partial(blob(2)[0], 0, b"1")
    storage.add_record(record(1))
    storage.commit()
    storage.remove_blob(blob(1)[0])
    storage.write_partial(blob(2)[0], 1, b"2")
    storage.write_blob(*blob(3))
    storage.remove_record(record(1).id)
    storage.add_record(record(2))
    storage.crash()
    assert storage.blobs() == (blob(1)[0],)
    assert storage.read_partial(blob(2)[0]) == b"1"
    assert list(storage.records()) == [record(1).signed]


def test_a_backup_of_a_memory_is_what_it_was_and_suspect() -> None:
    storage, copy = MemoryStorage(), MemoryStorage()
    for number in (1, 2):
        storage.add_record(record(number))
    storage.write_blob(*blob(1))
    storage.put("a", b"1")
    storage.commit()
    backup = storage.snapshot()
    storage.put("a", b"2")
    storage.remove_record(record(1).id)
    storage.remove_blob(blob(1)[0])
    storage.commit()
    assert not storage.is_suspect
    for restored in (storage, copy):
        restored.restore(backup)
        assert restored.is_suspect
        assert (restored.get("a"), restored.keys(""), restored.blobs()) == (b"1", ("a",), (blob(1)[0],))
        restored.add_record(record(3))
        restored.put("b", b"")
        assert list(restored.records()) == [record(number).signed for number in (1, 2, 3)]
        restored.accept_as_own()
        restored.crash()
        assert not restored.is_suspect
        assert restored.keys("") == ("a", "b")
    storage.put("a", b"3")
    assert copy.get("a") == b"1"


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


# Damage.


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """The folder of a ledger with a value, two records and two blobs, and one on its way."""
    folder = tmp_path / "ledger"
    with Ledger(folder) as ledger:
        ledger.put("a", b"1")
        for number in (1, 2):
            ledger.add_record(record(number))
            ledger.write_blob(*blob(number))
        ledger.write_partial(blob(3)[0], 0, b"x")
        ledger.commit()
    return folder


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


def test_a_folder_that_cannot_be_made_is_an_error_for_people(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="Not a directory"):
        Ledger(tmp_path / "file" / "ledger")


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


def test_pieces_are_flushed_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr("p2p.blobs.os.fsync", flushed.append)
    piece = FLUSH_BYTES // 4
    with Ledger(tmp_path) as ledger:
        flushed.clear()
        for index in range(9):
            ledger.write_partial(blob(1)[0], index * piece, bytes(piece))
        assert len(flushed) == 2


# A disk that is full, or cannot be written to.

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


# Copies and backups.


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, timeout=60)


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
