"""Balancing wins by answer, and cutting traces to fit."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.traces import Trace, balance, fit


def win(answer: str | None, kind: str = "yes_no") -> Trace:
    return Trace(prompt=(1, 2), completion=(3,), win=True, kind=kind, answer=answer)


def test_every_answer_of_a_kind_gets_the_same_total_weight() -> None:
    wins = [win("yes")] * 6 + [win("no")] * 2
    factors = balance(wins)
    assert sum(factors[:6]) == pytest.approx(sum(factors[6:])) == pytest.approx(4)


def test_an_answer_weighs_as_much_as_it_is_right_in_the_log() -> None:
    wins = [win("yes")] * 6 + [win("No")] * 2
    factors = balance(wins, {"yes_no": {"yes": 0.25, "no": 0.75}})
    assert sum(factors[:6]) == pytest.approx(2)
    assert sum(factors[6:]) == pytest.approx(6)


def test_an_answer_that_is_never_right_in_the_log_counts_as_the_rarest() -> None:
    factors = balance([win("B"), win("E")], {"yes_no": {"A": 0.5, "b": 0.4, "c": 0.1}})
    assert factors == pytest.approx([1.6, 0.4])


def test_a_single_lucky_answer_is_not_learned_by_heart() -> None:
    factors = balance([win("yes")] * 99 + [win("no")])
    assert factors[-1] == 4
    assert sum(factors) == pytest.approx(100)
    assert len(set(factors[:-1])) == 1


def test_kinds_are_balanced_apart() -> None:
    factors = balance([win("yes")] * 2 + [win("no")] * 2 + [win("A", "choice")])
    assert factors == pytest.approx([1.0] * 5)


def test_wins_without_an_answer_are_left_alone() -> None:
    factors = balance([win(None, "person"), win("yes"), win("no")])
    assert factors == pytest.approx([1.0] * 3)
    assert balance([win(None), win("yes"), win("yes"), win("yes"), win("no")])[0] == 1.0


def test_where_nothing_is_known_of_a_kind_its_wins_are_left_alone() -> None:
    wins = [win("mice", "exact"), win("mice", "exact"), win("r", "exact"), win("yes"), win("yes"), win("no")]
    assert balance(wins, {"yes_no": {"yes": 0.5, "no": 0.5}}) == pytest.approx([1, 1, 1, 0.75, 0.75, 1.5])


def test_nothing_is_balanced_to_nothing() -> None:
    assert balance([]) == []


@given(st.lists(st.tuples(st.sampled_from(["yes_no", "choice"]), st.sampled_from([None, "a", "b", "c"])), min_size=1))
def test_factors_are_positive_average_one_and_favour_what_is_rare(answers: list[tuple[str, str | None]]) -> None:
    factors = balance([win(answer, kind) for kind, answer in answers])
    assert len(factors) == len(answers)
    assert min(factors) > 0
    assert max(factors) <= 4
    assert sum(factors) == pytest.approx(len(answers))
    counts = Counter(answers)
    by_answer = dict(zip(answers, factors, strict=True))
    for (kind, answer), factor in by_answer.items():
        assert factors[answers.index((kind, answer))] == factor  # equal answers weigh the same
        rarer = [f for (k, a), f in by_answer.items() if k == kind and a and counts[k, a] < counts[kind, answer]]
        assert answer is None or all(other >= factor for other in rarer)


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9), min_size=1), st.integers(2, 40))
def test_a_fitted_trace_is_an_end_of_the_prompt_and_a_start_of_the_completion(
    prompt: list[int], completion: list[int], most_tokens: int
) -> None:
    kept_prompt, kept = fit(prompt, completion, most_tokens)
    assert len(kept_prompt) + len(kept) == min(len(prompt) + len(completion), most_tokens)
    assert kept_prompt == tuple(prompt[len(prompt) - len(kept_prompt) :])
    assert kept == tuple(completion[: len(kept)])
    assert kept
    assert len(kept_prompt) >= min(len(prompt), most_tokens // 4)
    if len(kept) < len(completion):  # the completion gives way only once the prompt is down to its quarter
        assert len(kept_prompt) <= max(1, most_tokens // 4)


def test_a_trace_knows_its_length() -> None:
    assert Trace(prompt=(1, 2, 3), completion=(4, 5), win=False).length == 5
