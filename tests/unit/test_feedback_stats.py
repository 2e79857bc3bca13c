"""What a feedback log amounts to."""

from __future__ import annotations

from pathlib import Path

from training.checks import Choice, YesNo
from training.feedback import Attempt, Entry
from training.log import Log
from training.stats import Stats, stats


def log(*entries: Entry) -> Log:
    return Log(Path("log.jsonl"), entries, (), len(entries), unfinished=False)


def test_everything_is_counted_once() -> None:
    seen = stats(
        log(
            Entry(v=1, id="a", prompt="p", user="u", hint="h", check=YesNo(expect="yes")),
            Entry(v=1, id="b", prompt="q", user="u", check=YesNo(expect="no"), attempts=(Attempt("x", "right"),)),
            Entry(v=1, id="c", prompt="q", user="w", attempts=(Attempt("x", "wrong", "no"), Attempt("y", None, "hm"))),
            Entry(v=1, id="d", prompt="r", check=Choice(expect="A"), attempts=(Attempt("x", "wrong"),)),
        )
    )
    assert seen == Stats(
        entries=4,
        checks={"yes_no": 2, "choice": 1},
        attempts_right=1,
        attempts_wrong=2,
        attempts_unjudged=1,
        with_feedback=2,
        with_hint=1,
        contradictory=1,
        users=2,
    )
    assert list(seen.checks) == ["yes_no", "choice"]


def test_an_empty_log_has_nothing() -> None:
    seen = stats(log())
    assert (seen.entries, seen.checks, seen.users, seen.contradictory) == (0, {}, 0, 0)
