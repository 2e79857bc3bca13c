"""Storage on a disk and in memory: one contract, and what only a memory is asked for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import LedgerError
from p2p.ledger import Ledger
from p2p.storage import Storage
from tests.ledgers import blob, record
from tests.memory import MemoryStorage

RAM = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Where flushing takes no time."""


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


# Both at once.

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


# In memory.


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
