"""Appending to a feedback log: whole lines, all or none, one writer at a time, on the disk."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import training.log
from tests.disk import full
from training.checks import Choice, Json, Number
from training.errors import FeedbackError
from training.feedback import Attempt, Entry, Message, merge
from training.lines import MAX_LINE_BYTES
from training.log import append, read_log
from training.parsing import encode_entry, parse_entry

ROOT = Path(__file__).resolve().parents[2]
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
WORDS = TEXT.filter(bool)


def entry(id: str = "a", prompt: str = "p") -> Entry:
    return Entry(v=1, id=id, prompt=prompt)


def ids(path: Path) -> list[str]:
    return [found.id for found in read_log(path).entries]


def python(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    """Another process that can import the project."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_what_is_appended_is_read_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    entries = [
        Entry(v=1, id="a", prompt="p\n\u2028\u0000", attempts=(Attempt("c", "right", "f"), Attempt(""))),
        Entry(v=1, id="b", messages=(Message("system", "s"), Message("user", "ü")), check=Choice(expect="B"), ts="t"),
        Entry(v=1, id="c", prompt="q", check=Json(expect={"x": [1, None]}), hint="h", user="u"),
        Entry(v=1, id="d", prompt="q", check=Number(expect="1,000", tolerance=0.5)),
    ]
    assert append(path, entries[:1]) == 1
    assert append(path, entries[1:]) == 3
    log = read_log(path)
    assert log.entries == tuple(entries)
    assert (log.problems, log.lines, log.unfinished) == ((), 4, False)


@given(
    st.builds(
        Entry,
        v=st.just(1),
        id=WORDS,
        prompt=WORDS,
        attempts=st.lists(st.builds(Attempt, TEXT, st.sampled_from(["right", "wrong", None]), st.none() | TEXT)).map(
            tuple
        ),
        hint=st.none() | TEXT,
        user=st.none() | TEXT,
    )
)
def test_every_entry_survives_being_a_line(written: Entry) -> None:
    data = encode_entry(written)
    assert b"\n" not in data
    assert parse_entry(data.decode()) == written


def test_a_new_log_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    before = os.umask(0)
    try:
        append(path, [entry()])
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


def test_appending_nothing_touches_nothing(tmp_path: Path) -> None:
    assert append(tmp_path / "log.jsonl", []) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tail", [b'{"v":1,"id":"cut","pro', b'{"v":1,"id":"whole","prompt":"p"}', b"\0\0"])
def test_an_unfinished_line_is_ended_first_so_that_nothing_is_glued_to_it(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(encode_entry(entry("first")) + b"\n" + tail)
    append(path, [entry("new")])
    assert path.read_bytes().split(b"\n") == [
        encode_entry(entry("first")),
        tail,
        encode_entry(entry("new")),
        b"",
    ]
    log = read_log(path)
    assert {"first", "new"} <= {found.id for found in log.entries}
    assert len(log.entries) + len(log.problems) == 3


def test_a_link_to_a_log_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    append(tmp_path / "link.jsonl", [entry()])
    assert (tmp_path / "link.jsonl").is_symlink()
    assert ids(tmp_path / "real.jsonl") == ["a"]


BAD = {
    "half a character": (entry(prompt="\ud800"), "UTF-8"),
    "a wrong type": (Entry(v=1, id="a", prompt=5), "`prompt` is a whole number"),  # type: ignore[arg-type]
    "an unknown version": (Entry(v=2, id="a", prompt="p"), "version 2"),  # type: ignore[arg-type]
    "what JSON cannot hold": (Entry(v=1, id="a", prompt=object()), "JSON"),  # type: ignore[arg-type]
    "too much": (entry(prompt="x" * MAX_LINE_BYTES), "more than the 1,048,576"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_entry_that_would_not_read_back_is_refused_and_nothing_is_added(tmp_path: Path, name: str) -> None:
    bad, why = BAD[name]
    path = tmp_path / "log.jsonl"
    append(path, [entry("before")])
    before = path.read_bytes()
    with pytest.raises(FeedbackError, match="'a' cannot be written") as caught:
        append(path, [entry("good"), bad])
    assert why in caught.value.message
    assert path.read_bytes() == before


def test_a_folder_a_pipe_or_a_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "missing" / "log.jsonl"):
        with pytest.raises(FeedbackError) as caught:
            append(path, [entry()])
        assert str(path) in caught.value.message
        assert caught.value.hint


def test_a_disk_that_fills_up_in_the_middle_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append(path, [entry("before")])
    before = path.read_bytes()
    with full(len(before) + 100), pytest.raises(FeedbackError) as caught:
        append(path, [entry(str(number)) for number in range(50)])
    assert os.strerror(errno.EFBIG) in caught.value.message
    assert path.read_bytes() == before


def test_what_another_program_wrote_behind_a_failed_append_is_not_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.jsonl"
    append(path, [entry("before")])

    def fail(_: int) -> None:
        with path.open("ab") as other:
            other.write(encode_entry(entry("other")) + b"\n")
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(training.log.os, "fsync", fail)
    with pytest.raises(FeedbackError):
        append(path, [entry("mine")])
    assert "other" in ids(path)


CRASH = """
import os, sys
from training.feedback import Entry
from training.log import append
write = os.write
def crash(handle, data):
    write(handle, bytes(data)[:int(sys.argv[2])])
    os._exit(9)
os.write = crash
append(sys.argv[1], [Entry(v=1, id=name, prompt="p") for name in ("x", "y")])
"""


@pytest.mark.parametrize(
    ("written", "whole", "bad"),
    [(0, "", 0), (1, "", 1), (20, "", 1), (29, "x", 0), (30, "x", 0), (31, "x", 1), (58, "x", 1), (59, "xy", 0)],
)
def test_a_crash_in_the_middle_of_an_append_costs_at_most_the_line_it_was_in(
    tmp_path: Path, written: int, whole: str, bad: int
) -> None:
    assert len(encode_entry(entry("x"))) == 29, "the numbers above count on it"
    path = tmp_path / "log.jsonl"
    append(path, [entry("before")])
    with python(CRASH, path, written) as crashing:
        assert crashing.wait() == 9
    assert read_log(path).unfinished == (written not in (0, 30))
    append(path, [entry("after")])
    assert ids(path) == ["before", *whole, "after"]
    assert len(read_log(path).problems) == bad


WRITER = """
import sys
from training.feedback import Entry
from training.log import append
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    text = name * (1 if number % 4 else 100_000)
    append(path, [Entry(v=1, id=f"{name}{number}{part}", prompt=text) for part in "xy"])
"""


def test_two_processes_that_append_at_once_never_interleave(tmp_path: Path) -> None:
    path, count = tmp_path / "log.jsonl", 40
    writers = [python(WRITER, path, name, count) for name in "ab"]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()  # both wait for this, and start at once
    for writer in writers:
        with writer:
            assert writer.wait() == 0
    log = read_log(path)
    assert (log.problems, log.lines, log.unfinished) == ((), 4 * count, False)
    for name in "ab":
        mine = [found.id for found in log.entries if found.id.startswith(name)]
        assert mine == [f"{name}{number}{part}" for number in range(count) for part in "xy"]
    # The two lines of one append stand together.
    assert all(a.id[:-1] == b.id[:-1] for a, b in zip(log.entries[::2], log.entries[1::2], strict=True))


def lock_is_held(path: Path) -> bool:
    with path.open("rb") as other:
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_the_lock_is_held_from_looking_at_the_end_until_the_line_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.jsonl"
    append(path, [entry("before")])
    seen: list[tuple[str, bool]] = []

    def watched(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def watching(*arguments: object) -> object:
            seen.append((name, lock_is_held(path)))
            return call(*arguments)

        return watching

    for name in ("pread", "write", "fsync"):
        monkeypatch.setattr(training.log.os, name, watched(name, getattr(os, name)))
    append(path, [entry("new")])
    assert seen == [("pread", True), ("write", True), ("fsync", True)]
    assert not lock_is_held(path)


def test_a_new_log_s_name_is_on_the_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    fsync = os.fsync

    def watch(handle: int) -> None:
        synced.append(os.path.samestat(os.fstat(handle), tmp_path.stat()))
        fsync(handle)

    monkeypatch.setattr(training.log.os, "fsync", watch)
    append(tmp_path / "log.jsonl", [entry()])
    assert synced == [False, True]
    append(tmp_path / "log.jsonl", [entry("b")])
    assert synced == [False, True, False]


def test_a_writer_that_waited_while_the_log_was_replaced_writes_to_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.jsonl"
    append(path, [entry("old")])
    (tmp_path / "new").write_bytes(b"")
    flock = fcntl.flock

    def wait(handle: int, how: int) -> None:
        if (tmp_path / "new").exists():
            os.replace(tmp_path / "new", path)
        flock(handle, how)

    monkeypatch.setattr(training.log.fcntl, "flock", wait)
    append(path, [entry("mine")])
    assert ids(path) == ["mine"]


def test_a_line_appended_twice_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    said = Entry(v=1, id="a", prompt="p", attempts=(Attempt("c", "wrong", "f"),))
    append(path, [said, said])
    assert read_log(path).entries == (merge(said),) == (said,)
