"""Reading a feedback log: every good line counts, every bad one is named, and nothing stops it."""

from __future__ import annotations

import os
import signal
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import training.log
import training.parsing
from training.errors import FeedbackError
from training.feedback import Attempt, Entry
from training.lines import read_lines
from training.log import Log, read_log

GOOD = b'{"v":1,"id":"good","prompt":"p"}'
DEEP = 100_000


def line(**fields: bytes) -> bytes:
    """A good line with some of its values replaced, as they stand in the file."""
    values = {"v": b"1", "id": b'"a"', "prompt": b'"p"', **fields}
    return b"{" + b",".join(b'"%s":%s' % (name.encode(), value) for name, value in values.items() if value) + b"}"


def read(folder: Path, data: bytes, **options: int) -> Log:
    path = folder / "log.jsonl"
    path.write_bytes(data)
    return read_log(path, **options)


BAD = {
    "cut in a text": (b'{"v":1,"id":"a","prompt":"Wh', "cut off"),
    "cut between fields": (b'{"v":1,"id":"a","prompt":"p"', "cut off"),
    "no JSON": (b"hello", "column 1"),
    "single quotes": (b"{'v':1}", "column 2"),
    "a comma too many": (b'{"v":1,}', "not JSON"),
    "two entries": (line() + line(), "more than one"),
    "a list": (b"[1]", "a list"),
    "null": (b"null", "null"),
    "NUL bytes": (b"\0" * 40, "NUL"),
    "a NUL byte in a text": (line(prompt=b'"a\0b"'), "NUL"),
    "not UTF-8": (line(prompt=b'"a\xffb"'), "0xff at position"),
    "not UTF-8 in a field that is ignored": (line(extra=b'"\xff"'), "UTF-8"),
    "a lone surrogate": (line(prompt=rb'"\ud800"'), "surrogate"),
    "a lone surrogate beside the word NaN": (line(prompt=rb'"NaN \ud800"'), "surrogate"),
    "NaN": (line(extra=b"NaN"), "NaN"),
    "nested too deeply": (line(extra=b"[" * DEEP + b"]" * DEEP), "nested"),
    "nested too deeply and cut": (b'{"v":1,"x":' + b"[" * DEEP, "nested"),
    "no version": (line(v=b""), "`v` is missing"),
    "unknown version": (line(v=b"2"), "version 2, and only version 1"),
    "unknown version with other fields": (b'{"v":7,"text":[]}', "version 7"),
    "version as text": (line(v=b'"1"'), "`v` is text"),
    "huge version": (line(v=b"9" * 5_000), "too large"),
    "no id": (line(id=b""), "`id` is missing"),
    "empty id": (line(id=b'""'), "`id` is empty"),
    "id of the wrong type": (line(id=b"17"), "`id` is a whole number; it has to be text"),
    "no prompt": (line(prompt=b""), "neither"),
    "empty prompt": (line(prompt=b'""'), "empty"),
    "two prompts": (line(messages=b'[{"role":"user","content":"p"}]'), "both"),
    "unknown role": (line(prompt=b"", messages=b'[{"role":"tool","content":"p"}]'), '"system", "user" or "assistant"'),
    "unknown verdict": (line(attempts=b'[{"completion":"x","verdict":"fine"}]'), '"right", "wrong" or null'),
    "attempt without a completion": (line(attempts=b'[{"verdict":"right"}]'), "missing in `attempts[0]`"),
    "unknown kind of check": (line(check=b'{"type":"guess","expect":"x"}'), '"choice", "yes_no"'),
    "unknown form of a check": (line(check=b'{"type":"exact","expect":"x","format":"loud"}'), '"answer_line" or "any"'),
    "unknown field of a check": (line(check=b'{"type":"exact","expect":"x","expects":"y"}'), "`expects`"),
    "check that expects the impossible": (line(check=b'{"type":"yes_no","expect":"maybe"}'), "maybe"),
    "huge number": (line(check=b'{"type":"number","expect":' + b"9" * 5_000 + b"}"), "`check.expect`"),
    "id with another prompt": (line(id=b'"good"', prompt=b'"q"'), "'good' already has another prompt, in line 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named_and_its_neighbours_are_read(tmp_path: Path, name: str) -> None:
    bad, why = BAD[name]
    log = read(tmp_path, GOOD + b"\n" + bad + b"\n" + line(id=b'"next"') + b"\n")
    assert [entry.id for entry in log.entries] == ["good", "next"]
    assert [problem.line for problem in log.problems] == [2]
    assert why in log.problems[0].reason
    assert "; " in log.problems[0].reason, "the reason says what to do"
    assert (log.lines, log.unfinished) == (3, False)


@pytest.mark.parametrize("raised", [RuntimeError("x"), OverflowError("x"), LookupError("x")])
def test_a_check_whose_validation_breaks_is_a_bad_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    class Broken:
        def decode(self, text: str) -> Entry:
            if "regex" in text:
                raise raised
            return msgspec.json.decode(text, type=Entry)

    monkeypatch.setattr(training.parsing, "_decoder", Broken())
    log = read(tmp_path, line(check=b'{"type":"regex","expect":"x"}') + b"\n" + GOOD + b"\n")
    assert [entry.id for entry in log.entries] == ["good"]
    assert type(raised).__name__ in log.problems[0].reason


def test_a_reason_never_carries_control_characters_or_pages_of_text_to_the_terminal(tmp_path: Path) -> None:
    verdict = rb'"\u001b[2J\n\u202e' + b"x" * 100_000 + b'"'
    log = read(tmp_path, line(attempts=b'[{"completion":"x","verdict":' + verdict + b"}]") + b"\n")
    assert log.problems[0].reason.isprintable()
    assert len(log.problems[0].reason) < 1_000
    for bad in (rb'{"\u001b[2J":1}', line(check=rb'{"type":"exact","expect":"x","\u001b[2J":1}')):
        assert read(tmp_path, bad + b"\n").problems[0].reason.isprintable()


def test_an_overlong_line_is_passed_over_without_ever_being_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with path.open("wb") as file:
        file.write(GOOD + b'\n{"v":1,"id":"long","prompt":"')
        for _ in range(50):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n' + line(id=b'"next"') + b"\n")
    tracemalloc.start()
    try:
        log = read_log(path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [entry.id for entry in log.entries] == ["good", "next"]
    assert [problem.line for problem in log.problems] == [2]
    assert "50,000,031 bytes" in log.problems[0].reason
    assert peak_bytes < 8_000_000


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_line_of_exactly_the_limit_is_read_and_one_byte_more_is_not(tmp_path: Path, ending: bytes) -> None:
    limit = len(GOOD) + len(ending) - 1
    log = read(tmp_path, GOOD + ending + line(id=b'"other"') + ending, max_line_bytes=limit)
    assert [entry.id for entry in log.entries] == ["good"]
    assert [problem.line for problem in log.problems] == [2]


def test_windows_line_endings_a_byte_order_mark_and_blank_lines_are_no_problem(tmp_path: Path) -> None:
    log = read(tmp_path, b"\xef\xbb\xbf" + GOOD + b"\r\n\r\n  \n\n" + line() + b"\r\n")
    assert [entry.id for entry in log.entries] == ["good", "a"]
    assert log.problems == ()
    assert log.lines == 5


def test_line_numbers_count_blank_and_bad_lines(tmp_path: Path) -> None:
    log = read(tmp_path, b"\n\nbad\n" + GOOD + b"\n\nbad\n")
    assert [problem.line for problem in log.problems] == [3, 6]


def test_unicode_line_separators_in_a_text_do_not_end_a_line(tmp_path: Path) -> None:
    log = read(tmp_path, line(prompt='"a\u2028b\u0085c"'.encode()) + b"\n")
    assert log.entries[0].prompt == "a\u2028b\u0085c"


def test_a_log_saved_as_utf_16_says_so(tmp_path: Path) -> None:
    log = read(tmp_path, (GOOD.decode() + "\n" + GOOD.decode() + "\n").encode("utf-16"))
    assert log.entries == ()
    assert "UTF-16" in log.problems[0].reason


def test_an_empty_log_is_empty(tmp_path: Path) -> None:
    log = read(tmp_path, b"")
    assert (log.entries, log.problems, log.lines, log.unfinished) == ((), (), 0, False)


def test_the_lines_of_one_id_become_one_entry_where_the_id_first_stood(tmp_path: Path) -> None:
    first = line(id=b'"x"', attempts=b'[{"completion":"c","verdict":"wrong"}]')
    later = line(id=b'"x"', prompt=b"", messages=b'[{"role":"user","content":"p"}]')
    correction = line(id=b'"x"', attempts=b'[{"completion":"c","verdict":"right"}]', hint=b'"h"')
    log = read(tmp_path, b"\n".join([first, line(), later, correction, b""]))
    assert [entry.id for entry in log.entries] == ["x", "a"]
    assert log.entries[0].attempts == (Attempt("c", "right"),)
    assert log.entries[0].hint == "h"
    assert log.problems == ()


def test_unknown_fields_of_an_entry_and_huge_numbers_in_them_are_ignored(tmp_path: Path) -> None:
    log = read(tmp_path, line(future=b"[1,2]", huge=b"9" * 5_000) + b"\n")
    assert len(log.entries) == 1


def test_a_log_that_is_being_written_is_read_to_the_last_whole_line(tmp_path: Path) -> None:
    whole = GOOD + b"\n" + line() + b"\n"
    for cut in range(len(whole) + 1):
        log = read(tmp_path, whole[:cut])
        assert len(log.entries) == log.lines == whole[:cut].count(b"\n")
        assert log.problems == ()
        assert log.unfinished == (not (whole[:cut].endswith(b"\n") or cut == 0))


def test_an_overlong_last_line_without_newline_is_unfinished_and_no_problem(tmp_path: Path) -> None:
    log = read(tmp_path, GOOD + b"\n" + b"x" * 200_000, max_line_bytes=100)
    assert (len(log.entries), log.problems, log.lines, log.unfinished) == (1, (), 1, True)


def test_what_is_appended_while_a_log_is_read_is_left_for_the_next_reading(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"one\ntwo\nth")
    seen = []
    with path.open("rb") as file:
        for found in read_lines(file):
            seen.append((found.data, found.finished))
            assert len(seen) < 10, "an endless writer must not keep a reader for ever"
            with path.open("ab") as writer:
                writer.write(b"ree\nmore\n")
    assert seen == [(b"one", True), (b"two", True), (b"th", False)]


def test_a_log_that_shrinks_while_it_is_read_ends_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes((b"x" * 1_000 + b"\n") * 1_000)
    seen = 0
    with path.open("rb") as file:
        for _ in read_lines(file):
            seen += 1
            assert seen < 1_000
            os.truncate(path, 0)
    assert seen > 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([GOOD, b"\n", b"\r\n", b"{", b"\0", b"\xff", b"x" * 70, b" "]) | st.binary()))
@example([b"\xef\xbb\xbf"])
@example([b"\xff\xfe\n\0"])
def test_any_bytes_are_read_with_the_right_count_of_lines(tmp_path: Path, pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    log = read(tmp_path, data, max_line_bytes=64)
    finished, _, rest = data.rpartition(b"\n")
    lines = finished.removeprefix(b"\xef\xbb\xbf").split(b"\n") if b"\n" in data else []
    assert log.lines == len(lines) == data.count(b"\n")
    assert log.unfinished == bool(rest)
    # Nothing is lost: each line that is not blank is a good one or a problem.
    good = [i for i, text in enumerate(lines, 1) if text.strip() == GOOD and len(text) <= 64]
    assert len(log.entries) == bool(good)
    bad = {problem.line for problem in log.problems}
    assert not bad & set(good)
    assert all(i in bad or not lines[i - 1].decode().strip() for i in range(1, len(lines) + 1) if i not in good)


@pytest.fixture
def impatient() -> Iterator[None]:
    """Turns a wait without end into a failure."""

    def give_up(*_: object) -> None:
        raise AssertionError("waited for a pipe's other end")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("impatient")
def test_a_pipe_in_its_place_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log.jsonl")
    with pytest.raises(FeedbackError, match="a pipe") as caught:
        read_log(tmp_path / "log.jsonl")
    assert caught.value.hint


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FeedbackError, match="a folder") as caught:
        read_log(tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["missing.jsonl", "missing/log.jsonl", "x" * 300, "nul\0.jsonl"])
def test_a_log_that_is_not_there_is_one_clear_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(FeedbackError) as caught:
        read_log(tmp_path / name)
    assert ascii(name[:20])[1:-1] in caught.value.message


def test_a_log_that_may_not_be_read_says_how_to_change_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")  # root, who may run the tests, is never refused for real

    monkeypatch.setattr("training.lines.os.open", refuse)
    with pytest.raises(FeedbackError) as caught:
        read_log(tmp_path / "my log.jsonl")
    assert caught.value.hint is not None
    assert "chmod" in caught.value.hint
    assert "my log.jsonl'" in caught.value.hint, "quoted for a shell"


def test_a_disk_that_fails_in_the_middle_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Iterator[None]:
        raise OSError(5, "Input/output error")
        yield

    monkeypatch.setattr(training.log, "read_lines", fail)
    with pytest.raises(FeedbackError, match=r"log\.jsonl: Input/output error"):
        read(tmp_path, GOOD + b"\n")
