"""Forgetting entries: their lines go, every other byte stays, and a kill leaves the old log or the new one."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import training.log
from training.errors import FeedbackError
from training.feedback import Attempt, Entry
from training.log import append, forget, read_log, retract

A = b'{"v":1,"id":"a","prompt":"p"}\n'
B = b'{"v":1, "id": "b", "prompt":"p", "extra": [1]}\r\n'
OTHERS = [
    B,
    b"\n",
    b'{"v":1,"id":"a","prom\n',
    b"\0\0\n",
    b'{"id":"a","x":"\xff"}\n',
    b"[" * 50_000 + b"\n",
    b'{"id":["a"]}\n',
    b'"a"\n',
    b"x" * 3_000_000 + b"\n",
]


def write(folder: Path, data: bytes) -> Path:
    path = folder / "log.jsonl"
    path.write_bytes(data)
    return path


def test_every_line_of_an_id_goes_and_all_other_bytes_stay(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbf" + A + b"".join(line + A for line in OTHERS))
    assert forget(path, ["a"]) == 1 + len(OTHERS)
    assert path.read_bytes() == b"".join(OTHERS)


@pytest.mark.parametrize(
    "bad",
    [
        b'{"v":2,"id":"a","secret":"s"}\n',
        b'{"id":"a","prompt":5}\n',
        b'{"v":1,"id":"a","prompt":"another"}\n',
        b'{"v":1,"id":"a","prompt":"p"}',
    ],
)
def test_a_bad_or_unfinished_line_that_names_the_id_goes_too(tmp_path: Path, bad: bytes) -> None:
    path = write(tmp_path, A + B + bad)
    assert forget(path, ["a"]) == 2
    assert path.read_bytes() == B


def test_an_unfinished_line_of_another_id_stays_unfinished(tmp_path: Path) -> None:
    path = write(tmp_path, A + B + b'{"v":1,"id":"c","pro')
    assert forget(path, ["a"]) == 1
    assert path.read_bytes() == B + b'{"v":1,"id":"c","pro'
    assert read_log(path).unfinished


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([A, B, *OTHERS[:5]])), st.sets(st.sampled_from(["a", "b", "c"])))
def test_any_log_keeps_exactly_the_lines_of_other_ids(tmp_path: Path, lines: list[bytes], ids: set[str]) -> None:
    path = write(tmp_path, b"".join(lines))
    kept = [line for line in lines if not (line == A and "a" in ids) and not (line == B and "b" in ids)]
    assert forget(path, ids) == len(lines) - len(kept)
    assert path.read_bytes() == b"".join(kept)


def test_an_id_that_is_not_there_leaves_the_file_itself_in_place(tmp_path: Path) -> None:
    path = write(tmp_path, A)
    before = path.stat().st_ino
    assert forget(path, ["b"]) == 0
    assert path.stat().st_ino == before


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_the_permissions_stay_and_nothing_is_left_beside_the_log(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path, A + B)
    path.chmod(mode)
    leftover = tmp_path / "log.jsonl.forget"  # of a run that was killed
    leftover.write_bytes(b"x" * 1_000)
    leftover.chmod(0o666)
    forget(path, ["a"])
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_bytes() == B
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_to_the_log_stays_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    real = write(folder, A + B)
    link = tmp_path / "link.jsonl"
    link.symlink_to(real)
    forget(link, ["a"])
    assert link.is_symlink()
    assert real.read_bytes() == B
    assert list(folder.iterdir()) == [real]


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_failure_on_the_way_leaves_the_log_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = write(tmp_path, A + B)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(training.log.os, call, fail)
    with pytest.raises(FeedbackError) as caught:
        forget(path, ["a"])
    assert caught.value.hint is not None
    assert "free some space" in caught.value.hint
    assert path.read_bytes() == A + B
    assert list(tmp_path.iterdir()) == [path]


def test_the_new_log_is_on_the_disk_before_it_takes_the_place_of_the_old_one_under_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, A + B)
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def sync(handle: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def put(source: Path, target: Path) -> None:
        with path.open("rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        order.append("replace")
        replace(source, target)

    monkeypatch.setattr(training.log.os, "fsync", sync)
    monkeypatch.setattr(training.log.os, "replace", put)
    forget(path, ["a"])
    assert order == ["file", "replace", "folder"]


def test_a_line_that_comes_from_a_program_without_the_lock_while_the_log_is_copied_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, A)
    write_out = training.log._replace_without

    def late(target: Path, handle: int, going: list[tuple[int, int]]) -> None:
        with path.open("ab") as other:
            other.write(B)
        write_out(target, handle, going)

    monkeypatch.setattr(training.log, "_replace_without", late)
    assert forget(path, ["a"]) == 1
    assert path.read_bytes() == B


def test_a_log_goes_on_after_everything_was_forgotten(tmp_path: Path) -> None:
    path = write(tmp_path, A)
    forget(path, ["a"])
    assert read_log(path).lines == 0
    append(path, [Entry(v=1, id="a", prompt="a new one")])
    assert read_log(path).entries[0].prompt == "a new one"


def test_forgetting_in_a_log_that_is_missing_is_one_clear_error_and_makes_none(tmp_path: Path) -> None:
    with pytest.raises(FeedbackError, match=r"log\.jsonl"):
        forget(tmp_path / "log.jsonl", ["a"])
    assert list(tmp_path.iterdir()) == []


def judged(verdict: Literal["right", "wrong"], completion: str = "c") -> Entry:
    return Entry(v=1, id="a", prompt="p", attempts=(Attempt(completion, verdict),))


def test_the_last_line_that_says_so_is_taken_back_and_no_other_byte_changes(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbf" + A + b"".join(OTHERS))
    before = path.read_bytes()
    append(path, [judged("wrong"), judged("right"), judged("wrong")])
    whole = path.read_bytes()
    append(path, [judged("right")])
    with path.open("ab") as file:
        file.write(B)
    assert retract(path, judged("right")) is True
    assert path.read_bytes() == whole + B
    assert [retract(path, judged("wrong")) for _ in range(3)] == [True, True, False]
    assert retract(path, judged("right")) is True
    assert path.read_bytes() == before + B


def test_what_is_taken_back_leaves_the_entry_as_it_was(tmp_path: Path) -> None:
    path = write(tmp_path, A)
    append(path, [judged("wrong")])
    append(path, [judged("right")])
    assert [attempt.verdict for attempt in read_log(path).entries[0].attempts] == ["right"]
    retract(path, judged("right"))
    assert [attempt.verdict for attempt in read_log(path).entries[0].attempts] == ["wrong"]


def test_an_unfinished_line_is_not_taken_back(tmp_path: Path) -> None:
    path = write(tmp_path, A)
    append(path, [judged("right")])
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    assert retract(path, judged("right")) is False
    with pytest.raises(FeedbackError):
        retract(tmp_path / "missing", judged("right"))
