from __future__ import annotations

import pytest

from training.checks import Verdict, YesNo, contains

RIGHT, UNFORMATTED, WRONG = Verdict.RIGHT, Verdict.UNFORMATTED, Verdict.WRONG
INSTRUCTION = 'End your response with exactly: "Answer: yes" or "Answer: no" on the final line.'


@pytest.mark.parametrize(
    "line",
    [
        "Answer: yes",
        "answer : Yes.",
        "**Answer:** yes",
        "**Answer: YES**",
        "Answer: **yes**.",
        '"Answer: yes"',
        "Answer:yes",
    ],
)
def test_a_last_answer_line_is_right(line: str) -> None:
    completion = f"Fish swim, so it is so.\n\n{line}\n"
    judgement = YesNo("yes", format="answer_line").judge(completion)
    assert (judgement.verdict, judgement.formatted, judgement.answer) == (RIGHT, True, "yes")
    assert judgement.end == len(completion) - 1
    assert YesNo("no", format="answer_line").judge(completion).verdict == WRONG


@pytest.mark.parametrize(
    "completion",
    [
        "Yes",
        "Yes, because fish swim.",
        "Yes because fish swim.",
        '"Yes," they said',
        "**Yes**\n\nFish swim.",
        "Fish swim. So, yes.",
        "Fish swim. Therefore yes, it is so.",
        "No fish walks. In conclusion, yes",
        "I would say yes.",
        "The answer is yes",
        "The answer to the question is: **Yes**",
        "Final answer: yes",
        "Answer: yes, it is",
        "Answer:\nyes",
        "Answer: yes\n\nI hope this helps!",
        "Answer: yes\nAnswer: yes\nAns",
        r"$\boxed{yes}$",
    ],
)
def test_yes_in_another_form_is_unformatted(completion: str) -> None:
    judgement = YesNo("yes", format="answer_line").judge(completion)
    assert (judgement.verdict, judgement.formatted, judgement.answer) == (UNFORMATTED, False, "yes")


@pytest.mark.parametrize(
    "completion",
    [
        "No, it is not.",
        "No. Fish swim.",
        "No because fish swim",
        "No it isn't",
        "no\nFish",
        "Answer: no (fish)",
        "No - fish",
    ],
)
def test_no_in_another_form_is_unformatted(completion: str) -> None:
    judgement = YesNo("no", format="answer_line").judge(completion)
    assert (judgement.verdict, judgement.formatted, judgement.answer) == (UNFORMATTED, False, "no")


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "Answer:",
        "No one knows",
        "No-one knows",
        "No. 5 is alive",
        "Answer: no one knows",
        "Answer: not yes",
        "The answer is not yes",
        "Answer: true",
        "Yesterday",
        "Nobody",
        "yes/no",
        "Yes or no?",
        "Is it yes or no",
        "Answer: yes or no",
        "Answer: yes/no",
        "Answer: yes and no",
        "It depends: yes. But no.",
        "Yes. No.",
        "Whether the answer is yes is unclear",
        INSTRUCTION,
        INSTRUCTION.replace('"', ""),
        '"Answer: yes" or "Answer: no"',
        'End with:\n"Answer: yes"\nor\n"Answer: no"\non the final line.',
    ],
)
def test_neither_is_found_where_neither_is_said(completion: str) -> None:
    for expect in ("yes", "no"):
        judgement = YesNo(expect, format="answer_line").judge(completion)
        assert (judgement.verdict, judgement.formatted, judgement.answer, judgement.end) == (WRONG, False, None, None)


def test_a_copied_instruction_before_an_answer_line_does_not_matter() -> None:
    judgement = YesNo("no", format="answer_line").judge(f"{INSTRUCTION}\nFish walk.\nAnswer: no")
    assert (judgement.verdict, judgement.answer) == (RIGHT, "no")


def test_of_two_answer_lines_the_last_wins() -> None:
    completion = "Answer: yes\n\nAnswer: no"
    judgement = YesNo("no", format="answer_line").judge(completion)
    assert (judgement.verdict, judgement.formatted, judgement.end) == (RIGHT, True, len(completion))
    assert YesNo("yes", format="answer_line").judge(completion).verdict == WRONG


def test_a_loop_of_the_same_answer_line_ends_after_its_first() -> None:
    judgement = YesNo("yes", format="answer_line").judge("Hm.\nAnswer: yes\n\nAnswer: Yes.\nAnswer: yes")
    assert (judgement.verdict, judgement.formatted, judgement.end) == (RIGHT, True, len("Hm.\nAnswer: yes"))


def test_behind_a_ramble_the_end_is_that_of_the_first_answer_line() -> None:
    completion = "Hm.\nAnswer: yes\nAnswer: no\n\nQuestion: is"
    judgement = YesNo("no", format="answer_line").judge(completion)
    assert (judgement.verdict, judgement.formatted, judgement.answer) == (UNFORMATTED, False, "no")
    assert completion[: judgement.end] == "Hm.\nAnswer: yes"


def test_a_quoted_answer_line_counts_only_at_the_end() -> None:
    check = YesNo("yes", format="answer_line")
    assert check.judge('"Answer: yes"').verdict == RIGHT
    assert check.judge('"Answer: yes"\nis what I should write').end is None
    assert check.judge('"Answer: yes"\nis what I should write').verdict == WRONG


@pytest.mark.parametrize("completion", ["yes", "Yes.", " YES!\n", "**Yes**", '"yes"'])
def test_a_bare_word_is_right(completion: str) -> None:
    judgement = YesNo("yes", format="bare").judge(completion)
    assert (judgement.verdict, judgement.formatted, judgement.end) == (RIGHT, True, len(completion.rstrip()))
    assert YesNo("no", format="bare").judge(completion).verdict == WRONG


@pytest.mark.parametrize("completion", ["Answer: yes", "Yes, because", "The answer is yes"])
def test_more_than_a_bare_word_is_unformatted(completion: str) -> None:
    assert YesNo("yes", format="bare").judge(completion).verdict == UNFORMATTED


def test_a_bare_first_line_can_be_cut_off_a_ramble() -> None:
    completion = "Yes\n\nQuestion: is it?\nAnswer: no"
    judgement = YesNo("yes", format="bare").judge(completion)
    assert (judgement.verdict, judgement.answer, judgement.end) == (UNFORMATTED, "yes", 3)


def test_any_form_takes_the_last_declared_answer() -> None:
    assert YesNo("no").judge("Yes, it seems. But the answer is no.").verdict == RIGHT
    assert YesNo("yes").judge("Yes, because").verdict == RIGHT
    assert YesNo("yes").judge("Hm").formatted is True


@pytest.mark.parametrize("expect", ["true", "", "maybe", "yes or no"])
def test_other_expectations_are_refused(expect: str) -> None:
    with pytest.raises(ValueError, match='must be "yes" or "no"'):
        YesNo(expect)


def test_the_expected_word_may_be_in_any_case() -> None:
    assert YesNo(" No ", format="bare").judge("no").verdict == RIGHT


def test_contains_sees_the_word_anywhere() -> None:
    assert contains(YesNo("yes"), "neither yes nor no")
    assert not contains(YesNo("no"), "nothing")
