"""Words for people, and output that no file can steer."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spearctl.output import Page, plain
from spearctl.progress import progress
from spearctl.text import ago, clip, count, duration, printable, size, tilde

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "long", "short"),
    [
        (0, "just now", "just now"),
        (-30, "just now", "just now"),
        (7, "7 seconds ago", "7 s ago"),
        (60, "1 minute ago", "1 min ago"),
        (3599, "59 minutes ago", "59 min ago"),
        (7200, "2 hours ago", "2 h ago"),
        (86_400, "1 day ago", "1 d ago"),
        (86_400 * 400, "400 days ago", "400 d ago"),
    ],
)
def test_a_moment_is_told_in_its_largest_unit(seconds: int, long: str, short: str) -> None:
    moment = (NOW - timedelta(seconds=seconds)).isoformat()
    assert ago(moment, now=NOW) == long
    assert ago(moment, now=NOW, short=True) == short


def test_a_moment_without_a_zone_is_in_utc_and_nonsense_is_shown_as_it_is() -> None:
    assert ago("2026-11-23T09:00:00", now=NOW) == "1 hour ago"
    assert ago("2026-11-23T09:00:00Z", now=NOW) == "1 hour ago"
    assert ago("yesterday", now=NOW) == "yesterday"


def test_sizes_counts_and_spans() -> None:
    assert [size(n) for n in (0, 999, 9_800_000, 269_000_000, 5e15)] == ["0 B", "999 B", "9.8 MB", "269 MB", "5000 TB"]
    assert [count(n, "entry", "entries") for n in (0, 1, 1204)] == ["0 entries", "1 entry", "1,204 entries"]
    assert duration(61) == "1 minute"


def test_a_text_is_clipped_to_one_line() -> None:
    assert clip("a\n b   c", 10) == "a b c"
    assert clip("abcdefghij k", 6) == "abcde…"


def test_only_paths_below_the_own_folder_get_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert tilde(Path("/home/ann/x")) == "~/x"
    assert tilde(Path("/home/annabel/x")) == "/home/annabel/x"


@given(st.text())
def test_printable_text_keeps_letters_and_has_no_control_characters(text: str) -> None:
    shown = printable(text)
    assert not any((ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 for c in shown)
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text


@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.tuples(inner))
)
def test_everything_plain_is_json(value: object) -> None:
    made = plain(value)
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_records_paths_and_enums_become_plain() -> None:
    class Colour(Enum):
        RED = "red"

    @dataclass(frozen=True)
    class Record:
        path: Path
        colours: frozenset[Colour]
        share: float

    record = Record(Path("/x"), frozenset({Colour.RED}), math.nan)
    assert plain({1: record}) == {"1": {"path": "/x", "colours": ["red"], "share": None}}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(file: io.StringIO, *, quiet: bool = False, total: int | None = 40) -> str:
    with progress(Page(file), "Playing", total, quiet=quiet) as meter:
        for done in range(1, 41):
            meter.update(done, "12 right")
        meter.say("a line [that] stays \x1b[31m")
    return file.getvalue()


def test_progress_off_a_terminal_is_a_few_plain_lines() -> None:
    lines = shown(io.StringIO()).splitlines()
    assert len(lines) == 11
    assert lines[0].startswith("Playing 4/40 (")
    assert lines[0].endswith(" s)  12 right")
    assert lines[9].startswith("Playing 40/40 (")
    assert lines[10] == "a line [that] stays \\x1b[31m"


def test_progress_without_a_total_counts() -> None:
    assert shown(io.StringIO(), total=None).startswith("Playing 1 (")


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    text = shown(Terminal())
    assert "40/40" in text
    assert "\x1b[" in text
    assert "a line [that] stays \\x1b[31m" in text


def test_quiet_progress_shows_nothing() -> None:
    assert shown(io.StringIO(), quiet=True) == ""
    assert shown(Terminal(), quiet=True) == ""
