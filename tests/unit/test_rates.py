"""Bytes a second from two looks, and nothing where two looks say nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spearctl.rates import Rates, Sample, rates

BEFORE = Sample(100.0, 7, {"ben": 1000, "eve": 50}, {"ben": 0}, {"blob": 256})


def test_a_rate_is_what_was_counted_over_the_time_between() -> None:
    after = Sample(102.0, 7, {"ben": 3000, "eve": 50}, {"ben": 8}, {"blob": 1256})
    assert rates(BEFORE, after) == Rates({"ben": 1000.0, "eve": 0.0}, {"ben": 4.0}, {"blob": 500.0})


def test_a_counter_that_began_anew_says_nothing() -> None:
    after = Sample(102.0, 7, {"ben": 10, "eve": 60}, {"ben": 0}, {})
    assert rates(BEFORE, after) == Rates({"eve": 5.0}, {"ben": 0.0}, {})


def test_who_was_not_there_before_has_no_rate() -> None:
    after = Sample(102.0, 7, {"zoe": 99}, {"zoe": 99}, {"other": 99})
    assert rates(BEFORE, after) == Rates()


@pytest.mark.parametrize("at_s", [100.0, 99.0, -1e9])
def test_a_clock_that_did_not_go_on_gives_no_rate(at_s: float) -> None:
    assert rates(BEFORE, replace(BEFORE, at_s=at_s, sent={"ben": 9999})) == Rates()


def test_the_first_look_and_another_process_give_no_rate() -> None:
    after = replace(BEFORE, at_s=101.0)
    assert rates(None, after) == Rates()
    assert rates(BEFORE, replace(after, pid=8)) == Rates()
    assert rates(BEFORE, replace(after, pid=None)) == Rates()
