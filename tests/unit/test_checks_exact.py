from __future__ import annotations

import pytest

from training.checks import Exact, Verdict, contains

RIGHT, UNFORMATTED, WRONG = Verdict.RIGHT, Verdict.UNFORMATTED, Verdict.WRONG


@pytest.mark.parametrize("completion", ["Paris", "paris.", " PARIS\n", "**Paris**", '"Paris".', "“Paris!”"])
def test_the_whole_completion_is_right_but_for_what_does_not_count(completion: str) -> None:
    judgement = Exact("Paris", format="bare").judge(completion)
    assert (judgement.verdict, judgement.formatted, judgement.answer) == (RIGHT, True, "paris")
    assert judgement.end == len(completion.rstrip())


@pytest.mark.parametrize(
    ("completion", "formatted"),
    [
        ("The capital of France is Paris.", True),
        ("Answer: Paris", False),
        ("The answer is Paris.", False),
        ("Paris\n\nParis is a city", False),
        ("Sure! Here you are:\n\nParis", False),
    ],
)
def test_an_answer_that_holds_more_is_unformatted(completion: str, formatted: bool) -> None:
    judgement = Exact("Paris", format="bare").judge(completion)
    assert (judgement.verdict, judgement.formatted) == (UNFORMATTED, formatted)


@pytest.mark.parametrize("completion", ["", "London", "Parisian", "Answer: London\n\nParis is nice"])
def test_another_answer_is_wrong(completion: str) -> None:
    assert Exact("Paris", format="bare").judge(completion).verdict == WRONG


def test_the_most_words_are_part_of_the_form() -> None:
    check = Exact("cold", words=1, format="bare")
    assert check.form == "Respond with only the answer as one word."
    assert check.judge("hot").formatted is True
    assert check.judge("The opposite of hot is cold.").formatted is False
    assert check.judge("The opposite of hot is cold.").verdict == UNFORMATTED
    assert "at most 2 words" in Exact("New York", words=2).form


def test_a_first_line_can_be_cut_off_a_ramble_but_is_not_taken_for_the_answer() -> None:
    completion = "hot\n\nThe opposite of hot is cold."
    judgement = Exact("cold", format="bare").judge(completion)
    assert (judgement.verdict, judgement.formatted, judgement.end) == (UNFORMATTED, False, 3)
    assert Exact("cold", format="bare").judge(completion[: judgement.end]).verdict == WRONG


def test_an_announcement_is_no_first_line_to_cut_at() -> None:
    assert Exact("Paris", format="bare").judge("Sure! Here you are:\n\nParis").end is None


def test_an_answer_line_is_compared_whole() -> None:
    check = Exact("New York", format="answer_line")
    assert check.judge("It is big.\nAnswer: new  york.").verdict == RIGHT
    assert check.judge("It is big.\nAnswer: New York City").verdict == UNFORMATTED
    assert check.judge("It is New York.\nAnswer: Albany").verdict == WRONG
    assert check.judge("New York").verdict == UNFORMATTED


def test_a_copied_instruction_is_no_answer_line() -> None:
    assert Exact("yes", format="answer_line").judge('"Answer: yes" or "Answer: no"').formatted is False


def test_any_form_takes_the_answer_anywhere_but_a_declared_one_alone() -> None:
    assert Exact("Paris").judge("The capital of France is Paris.").verdict == RIGHT
    assert Exact("Paris").judge("Paris is nice. The answer is London.").verdict == WRONG
    assert Exact("Paris").judge("London is nice. The answer is below:\nParis").verdict == RIGHT
    assert Exact("Paris").judge("Parisian").verdict == WRONG


@pytest.mark.parametrize(("expect", "words"), [("", None), (" \n", None), ("Paris", 0), ("New York", 1)])
def test_an_impossible_expectation_is_refused(expect: str, words: int | None) -> None:
    with pytest.raises(ValueError, match=r"`(expect|words)` is"):
        Exact(expect, words=words)


def test_punctuation_alone_can_be_expected() -> None:
    assert Exact("!", format="bare").judge("!").verdict == RIGHT
    assert Exact("!", format="bare").judge("?").verdict == WRONG


def test_contains_looks_beyond_the_declared_answer() -> None:
    assert contains(Exact("Paris"), "Paris? Answer: London")
    assert not contains(Exact("Paris"), "Parisian")
