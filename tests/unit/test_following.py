"""A log that grows, is moved, replaced and cut; and when there is enough to learn from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from spearctl.errors import UsageError
from spearctl.following import Feed, Follow, Pace, settings
from training.errors import FeedbackError
from training.log import append, forget
from training.parsing import parse_entry


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "feedback.jsonl"


@pytest.fixture
def feed(path: Path) -> Iterator[Feed]:
    with closing(Feed(path)) as feed:
        yield feed


def say(path: Path, *names: str) -> None:
    lines = [{"v": 1, "id": n, "prompt": n, "attempts": [{"completion": "x", "verdict": "right"}]} for n in names]
    append(path, [parse_entry(json.dumps(line)) for line in lines])


def ids(feed: Feed) -> list[str]:
    return [entry.id for entry in feed.entries]


def test_it_waits_for_a_log_that_is_not_there_and_reads_what_is_added(feed: Feed, path: Path) -> None:
    assert not feed.look()
    assert feed.log is None
    assert ids(feed) == []
    say(path, "a")
    assert feed.look()
    assert ids(feed) == ["a"]
    assert not feed.look()
    say(path, "b", "c")
    assert feed.look()
    assert ids(feed) == ["a", "b", "c"]


def test_half_a_line_is_left_until_it_is_whole(feed: Feed, path: Path) -> None:
    say(path, "a")
    line = path.read_bytes().replace(b'"a"', b'"b"')
    with path.open("ab") as file:
        file.write(line[:20])
        file.flush()
        feed.look()
        assert ids(feed) == ["a"]
        file.write(line[20:])
    assert feed.look()
    assert ids(feed) == ["a", "b"]


def test_a_log_that_is_moved_away_is_read_to_its_end_and_kept(feed: Feed, path: Path) -> None:
    say(path, "a")
    feed.look()
    say(path, "b")  # not seen before the move
    os.rename(path, path.with_suffix(".1"))
    assert feed.look()
    assert ids(feed) == ["a", "b"]
    say(path.with_suffix(".1"), "too late")
    say(path, "c")
    assert feed.look()
    assert ids(feed) == ["a", "b", "c"]
    os.rename(path, path.with_suffix(".2"))
    say(path, "d")
    feed.look()
    assert ids(feed) == ["a", "b", "c", "d"]


def test_what_is_forgotten_or_deleted_is_not_kept(feed: Feed, path: Path) -> None:
    say(path, "a", "b", "c")
    feed.look()
    forget(path, ["b"])
    assert feed.look()
    assert ids(feed) == ["a", "c"]
    path.unlink()
    assert feed.look()
    assert ids(feed) == []


def test_what_is_forgotten_is_not_kept_for_the_sake_of_another_link_to_the_old_file(feed: Feed, path: Path) -> None:
    say(path, "a", "b")
    os.link(path, path.with_suffix(".backup"))
    feed.look()
    forget(path, ["b"])
    assert feed.look()
    assert ids(feed) == ["a"]
    os.link(path, path.with_suffix(".later"))
    feed.look()
    os.rename(path, path.with_suffix(".1"))
    assert feed.look()
    assert ids(feed) == ["a"]


def test_a_log_that_is_cut_is_what_it_is_now(feed: Feed, path: Path) -> None:
    say(path, "a", "b")
    feed.look()
    os.truncate(path, 0)
    assert feed.look()
    assert ids(feed) == []
    say(path, "c")
    feed.look()
    assert ids(feed) == ["c"]


def test_a_log_that_is_moved_away_in_the_very_instant_is_waited_for(
    feed: Feed, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(path, "a")
    stat = os.stat

    def stat_and_move(named: Path) -> os.stat_result:
        found = stat(named)
        path.unlink()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", stat_and_move)
        feed.look()
    assert feed.log is None
    say(path, "b")
    assert feed.look()
    assert ids(feed) == ["b"]


def test_a_folder_is_no_log(tmp_path: Path) -> None:
    with closing(Feed(tmp_path)) as feed, pytest.raises(FeedbackError):
        feed.look()


def test_it_learns_once_enough_is_new_or_has_waited_long_enough() -> None:
    pace = Pace(batch=8, every_s=300)
    assert not pace.is_due(0, 0)
    assert not pace.is_due(7, 10)
    assert pace.is_due(8, 11)
    pace.learned(0, stepped=True)
    assert not pace.is_due(1, 20)
    assert not pace.is_due(2, 319)
    assert pace.is_due(2, 320)


def test_what_is_left_over_after_a_round_is_still_new() -> None:
    pace = Pace(batch=8, every_s=300)
    assert pace.is_due(20, 0)
    pace.learned(12, stepped=True)
    assert pace.is_due(12, 1)
    pace.learned(4, stepped=True)
    assert not pace.is_due(4, 2)
    assert pace.is_due(4, 302)


def test_what_a_round_could_not_learn_from_does_not_make_it_try_again_at_once() -> None:
    pace = Pace(batch=2, every_s=300)
    assert pace.is_due(5, 0)
    pace.learned(5, stepped=False)
    assert not pace.is_due(5, 10_000)
    assert not pace.is_due(6, 10_001)
    assert pace.is_due(7, 10_002)
    pace.learned(7, stepped=False)
    assert not pace.is_due(3, 10_003)  # another run learned from some
    assert pace.is_due(5, 10_004)


def test_options_have_defaults_and_a_time_must_be_one() -> None:
    none = dict.fromkeys(("batch", "every", "held_out", "max_drop", "replay"))
    assert settings(none) == Follow()
    given = {"batch": 3, "every": "90s", "held_out": 0.0, "max_drop": 0.2, "replay": 0.5}
    assert settings(given) == Follow(batch=3, every_s=90, held_out=0.0, most_drop=0.2, replay=0.5)
    for text in ("5", "m", "0s", "-5m", "5 minutes", "400d"):
        with pytest.raises(UsageError, match="is no time"):
            settings({**none, "every": text})
