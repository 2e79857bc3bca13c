"""Increments on their way from trainers to the node: whole or not there, and whatever else lies about does no harm."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from p2p import increments
from p2p.errors import LedgerError, PayloadError
from p2p.increments import Increment, read_increment, read_increments, read_wins, refuse, refused, waiting

VALUES = np.array([0.5, -1.25, 3e-7, 0.0], dtype=np.float32)


def write(folder: Path, id: str = "a", wins: int = 3, base: int = 2, values: object = VALUES) -> Path:
    return increments.write_increment(folder, id, np.asarray(values, dtype=np.float32), wins, base)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = write(tmp_path / "outbox")
    assert waiting(tmp_path / "outbox") == (path,)
    (found,) = read_increments(tmp_path / "outbox", 4)
    assert (found.path, found.id, found.wins, found.base) == (path, "a", 3, 2)
    assert found.values.tobytes() == VALUES.tobytes()
    assert read_wins(path) == 3


def test_files_and_folder_are_for_their_owner_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "outbox")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_same_id_again_replaces_the_file(tmp_path: Path) -> None:
    write(tmp_path, wins=1)
    write(tmp_path, wins=2)
    assert [found.wins for found in read_increments(tmp_path, 4)] == [2]


def test_the_oldest_comes_first(tmp_path: Path) -> None:
    for age, id in enumerate("bca"):
        os.utime(write(tmp_path, id), (1000 - age, 1000 - age))
    assert [found.id for found in read_increments(tmp_path, 4)] == ["a", "c", "b"]


def test_nothing_waits_where_there_is_no_folder(tmp_path: Path) -> None:
    assert waiting(tmp_path / "none") == refused(tmp_path / "none") == ()
    assert list(read_increments(tmp_path / "none", 4)) == []


def test_an_increment_that_is_not_whole_yet_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Path, ...]] = []
    monkeypatch.setattr("p2p.increments.os.replace", lambda old, new: seen.append(waiting(tmp_path)))
    write(tmp_path)
    assert seen == [()]


def test_a_full_disk_is_a_ledger_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("p2p.increments.os.fsync", full)
    with pytest.raises(LedgerError, match="No space left on device"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_the_node_takes_meanwhile_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = write(tmp_path, "a"), write(tmp_path, "b")
    first.unlink()
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([first, second]))
    assert waiting(tmp_path) == (second,)
    monkeypatch.setattr(increments, "waiting", lambda folder: (first, second))
    assert [found.id for found in read_increments(tmp_path, 4)] == ["b"]


def spoil(path: Path, how: str) -> None:
    metadata = {"id": "a", "wins": "3", "base": "0"}
    tensors = {"increment": VALUES}
    match how:
        case "empty":
            path.write_bytes(b"")
            return
        case "cut":
            path.write_bytes(path.read_bytes()[:-1])
            return
        case "no metadata":
            save_file(tensors, path)
            return
        case "no tensor":
            tensors = {"another": VALUES}
        case "float64":
            tensors = {"increment": VALUES.astype(np.float64)}
        case "matrix":
            tensors = {"increment": VALUES.reshape(2, 2)}
        case "longer":
            tensors = {"increment": np.zeros(5, np.float32)}
        case "not finite":
            tensors = {"increment": np.array([0, 0, np.inf, 0], np.float32)}
        case _:
            key, _, value = how.partition("=")
            metadata[key] = value
    save_file(tensors, path, metadata)


SPOILT = ("empty", "cut", "no metadata", "no tensor", "float64", "matrix", "longer", "not finite")


@pytest.mark.parametrize("how", [*SPOILT, "wins=-1", "wins=many", "base=-1", "base="])
def test_what_is_no_increment_is_a_payload_error_and_stays_for_who_only_looks(tmp_path: Path, how: str) -> None:
    path, sound = write(tmp_path), write(tmp_path, "b")
    spoil(path, how)
    with pytest.raises(PayloadError, match=str(path)):
        read_increment(path, 4)
    assert [found.path for found in read_increments(tmp_path, 4)] == [sound]
    assert path.exists()


def test_a_missing_file_is_a_payload_error_and_has_no_wins(tmp_path: Path) -> None:
    with pytest.raises(PayloadError):
        read_increment(tmp_path / "none.safetensors", 4)
    assert read_wins(tmp_path / "none.safetensors") == 0


def test_what_was_refused_is_kept_and_waits_no_more(tmp_path: Path) -> None:
    path = write(tmp_path)
    raw = path.read_bytes()
    refuse(path)
    assert waiting(tmp_path) == ()
    (kept,) = refused(tmp_path)
    assert kept.read_bytes() == raw


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_a_payload_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(raw)
    with pytest.raises(PayloadError):
        read_increment(path, 4)
    assert read_wins(path) == 0


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8),
    st.integers(0, 2**31),
    st.integers(0, 2**31),
)
def test_every_increment_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], wins: int, base: int
) -> None:
    wanted = np.array(values, dtype=np.float32)
    path = write(tmp_path_factory.getbasetemp() / "back", "x", wins, base, wanted)
    found: Increment = read_increment(path, wanted.size)
    assert (found.wins, found.base) == (wins, base)
    assert found.values.tobytes() == wanted.tobytes()
