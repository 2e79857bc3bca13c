from __future__ import annotations

import pytest

from training.checks import Choice, Verdict, contains

RIGHT, UNFORMATTED, WRONG = Verdict.RIGHT, Verdict.UNFORMATTED, Verdict.WRONG


@pytest.mark.parametrize("completion", ["B", " b\n", "B.", "(B)", "B)", "[B]", "**B**", '"B"', "`B`", "**(B)**."])
def test_a_bare_letter_is_right(completion: str) -> None:
    judgement = Choice("B", format="bare").judge(completion)
    assert (judgement.verdict, judgement.formatted, judgement.answer) == (RIGHT, True, "B")
    assert judgement.end == len(completion.rstrip())


@pytest.mark.parametrize(
    "completion",
    [
        "Answer: B",
        "**Answer:** B",
        "B. heat",
        "B) heat",
        "b) heat",
        "(B) heat",
        "(b) heat",
        "B: heat",
        "**B. heat**",
        "B - heat",
        "The answer is B",
        "The answer is (B) heat.",
        "The correct option is B.",
        "The answer is option B",
        "The answer is letter (B)",
        "Answer: B heat",
        "Answer: b",
        "Answer:\n\nB",
        r"$\boxed{B}$",
        r"\boxed{\text{B}}",
        "I think it is (B).",
        "Well, **B** it is",
        "Option B is the one",
        "It is hot.\nB",
        "B\nBecause heat rises.",
    ],
)
def test_the_right_letter_in_another_form_is_unformatted(completion: str) -> None:
    judgement = Choice("B", format="bare").judge(completion)
    assert (judgement.verdict, judgement.formatted, judgement.answer) == (UNFORMATTED, False, "B")


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "E",
        "A dog",
        "Answer: A dog barks",
        "the answer is a dog",
        "The answer is I think so",
        "Answer: B-cells",
        "Answer: e.g. this",
        "Answer: heat",
        "Answer: A, B, C or D",
        "Answer: B or C",
        "Answer: B and C",
        "Answer: B/C",
        "Answer: B or heat",
        "Is it a choice a person makes",
        "A. conclusion\nB. hypothesis\nC. control group",
        "Either (A) or (B)",
        'Respond with "Answer: B"',
        'Respond with "Answer: (B)"',
        "Vitamin C",
    ],
)
def test_no_letter_is_found_where_none_is_chosen(completion: str) -> None:
    for expect in "ABCD":
        judgement = Choice(expect, format="bare").judge(completion)
        assert (judgement.verdict, judgement.formatted, judgement.answer) == (WRONG, False, None)


def test_the_article_a_is_not_the_letter_but_the_letter_is() -> None:
    check = Choice("A")
    for completion in ("Answer: A", "Answer: A is right", "Answer: A. dog", "Answer: (A) dog", "the answer is a."):
        assert check.judge(completion).verdict == RIGHT, completion
    for completion in ("A dog", "Answer: A dog", "the answer is a dog"):
        assert check.judge(completion).verdict == WRONG, completion


def test_a_letter_with_a_reason_is_not_taken_for_a_list() -> None:
    assert Choice("B").judge("Answer: B, a kind of heat").verdict == RIGHT
    assert Choice("B").judge("Answer: B and the others are wrong").verdict == RIGHT


def test_the_last_declared_answer_wins() -> None:
    completion = "Answer: B ... wait, Answer: C"
    assert Choice("C").judge(completion).verdict == RIGHT
    assert Choice("B").judge(completion).verdict == WRONG
    assert Choice("C", format="answer_line").judge(completion).verdict == UNFORMATTED


def test_a_declared_answer_counts_more_than_a_marked_one() -> None:
    completion = "(A) is tempting. The answer is B.\nC) is not."
    assert Choice("B").judge(completion).answer == "B"


def test_a_bare_first_line_is_the_answer_before_an_invented_next_question() -> None:
    completion = "B\n\n[QUESTION]\nWhy?\nA. this\nC. that\n\nAnswer: C"
    judgement = Choice("B", format="bare").judge(completion)
    assert (judgement.verdict, judgement.formatted, judgement.end) == (UNFORMATTED, False, 1)
    assert Choice("C", format="bare").judge(completion).verdict == WRONG
    assert Choice("B", format="bare").judge(completion[: judgement.end]).verdict == RIGHT


def test_an_answer_line_takes_the_letter_alone() -> None:
    check = Choice("B", format="answer_line")
    assert check.judge("Heat rises.\nAnswer: (B).").verdict == RIGHT
    assert check.judge("Heat rises.\nAnswer: C").verdict == WRONG
    assert check.judge("Heat rises.\nAnswer: B. heat").verdict == UNFORMATTED
    assert check.judge("B").verdict == UNFORMATTED


def test_letters_beyond_the_options_are_no_answers() -> None:
    assert Choice("B", options=2, format="bare").judge("C").formatted is False
    assert Choice("B", options=3, format="bare").judge("C").formatted is True
    assert Choice("Z", options=26, format="bare").judge("z").verdict == RIGHT


@pytest.mark.parametrize(
    ("expect", "options"), [("E", 4), ("", 4), ("AB", 4), ("C", 2), ("A", 1), ("A", 27), ("A", 0), ("ABCD", 4)]
)
def test_an_impossible_choice_is_refused(expect: str, options: int) -> None:
    with pytest.raises(ValueError, match=r"`(expect|options)` is"):
        Choice(expect, options=options)


def test_the_expected_letter_may_be_small() -> None:
    assert Choice(" b ", format="bare").judge("B").verdict == RIGHT


def test_options_are_the_candidates_and_part_of_the_form() -> None:
    check = Choice("B", options=3, format="answer_line")
    assert check.candidates == ("A", "B", "C")
    assert check.form == 'End your response with exactly "Answer:" and one letter from A to C on the final line.'


def test_contains_sees_the_letter_as_a_word() -> None:
    assert contains(Choice("B", format="bare"), "maybe C, maybe B")
    assert contains(Choice("A", format="bare"), "it must be A.")
    assert not contains(Choice("A", format="bare"), "A dog")
    assert not contains(Choice("B", format="bare"), "Bees")
