"""Counts of play, and when they mean that something is wrong."""

from __future__ import annotations

import pytest

from training.checks import Judgement, Verdict
from training.tally import Tally


def answered(tally: Tally, kind: str, **answers: int) -> Tally:
    for answer, times in answers.items():
        for _ in range(times):
            tally.first(kind, Judgement(Verdict.WRONG, True, answer, None))
    return tally


def revised(tally: Tally, changed: int, unchanged: int) -> Tally:
    for at in range(changed + unchanged):
        tally.revision(changed=at < changed)
    return tally


def test_first_answers_are_counted_and_those_without_an_answer_too() -> None:
    tally = answered(Tally(), "yes_no", yes=2)
    tally.first("yes_no", Judgement(Verdict.WRONG, False, None, None))
    assert tally.played == 3
    assert tally.answers == {"yes_no": {"yes": 2}}


@pytest.mark.parametrize(
    ("first", "by_revision", "counts"), [(True, False, (1, 0, 0)), (False, True, (0, 1, 0)), (False, False, (0, 0, 1))]
)
def test_a_win_is_counted_where_it_came_from(first: bool, by_revision: bool, counts: tuple[int, ...]) -> None:
    tally = Tally()
    tally.won(first=first, revised=by_revision)
    assert (tally.right_first, tally.revised, tally.reformatted) == counts


def test_the_most_one_sided_kind_is_found() -> None:
    tally = answered(answered(Tally(), "yes_no", yes=9, no=11), "choice", A=15, B=5)
    assert tally.common_answer == ("choice", "A", 0.75, 20)


def test_few_answers_and_few_revisions_say_nothing() -> None:
    tally = revised(answered(Tally(), "yes_no", yes=15), 0, 15)
    assert (tally.common_answer, tally.changed_share) == (None, None)
    assert tally.health({}) == []
    tally = revised(answered(Tally(), "yes_no", yes=16), 0, 16)
    assert tally.common_answer == ("yes_no", "yes", 1.0, 16)
    assert tally.changed_share == 0.0
    assert len(tally.health({})) == 2


@pytest.mark.parametrize(
    ("yes", "no", "expected_share", "collapsed"),
    [
        (20, 0, 0.5, True),
        (18, 2, 0.5, True),
        (17, 3, 0.5, False),
        (20, 0, 0.95, False),  # the log's own answers are about as one-sided
        (18, 2, 0.85, False),
        (20, 0, None, True),
    ],
)
def test_a_constant_answer_is_reported_where_the_log_is_not_constant_too(
    yes: int, no: int, expected_share: float | None, collapsed: bool
) -> None:
    tally = answered(Tally(), "yes_no", yes=yes, no=no)
    lines = tally.health({} if expected_share is None else {"yes_no": {"yes": expected_share, "no": 0.0}})
    assert [line.startswith("collapse:") for line in lines] == [True] * collapsed
    if collapsed:
        assert "'yes'" in lines[0]
        assert "spearctl adapter rollback" in lines[0]


@pytest.mark.parametrize(("changed", "stuck"), [(0, True), (1, True), (2, False), (20, False)])
def test_revisions_that_change_nothing_are_reported(changed: int, stuck: bool) -> None:
    tally = revised(Tally(), changed, 20 - changed)
    assert tally.changed_share == changed / 20
    assert [line.startswith("revisions change nothing") for line in tally.health({})] == [True] * stuck
