from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.checks import text


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("Paris", "paris"),
        ("  Paris \n", "paris"),
        ("Paris.", "paris"),
        ('"Paris".', "paris"),
        ("**Paris**!", "paris"),
        ("`paris`", "paris"),
        ("«Paris»", "paris"),
        ("New \t\n York", "new york"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("Cafe\u0301", "caf\u00e9"),
        ("e.g. this", "e.g. this"),
        ("*", "*"),
        ("...", "..."),
        (" ", ""),
    ],
)
def test_normalising_takes_off_what_does_not_count(given_text: str, expected: str) -> None:
    assert text.normalised(given_text) == expected


@pytest.mark.parametrize(
    ("one", "other"), [("\u00e9", "e\u0301"), ("\u1fb4", "\u03b1\u0345\u0301"), ("\u212b", "\u00e5")]
)
def test_canonically_equivalent_texts_are_normalised_alike(one: str, other: str) -> None:
    assert text.normalised(one) == text.normalised(other)


@given(st.text())
def test_normalising_leaves_nothing_only_of_white_space(given_text: str) -> None:
    assert bool(text.normalised(given_text)) == bool(given_text.strip())


@given(st.text())
def test_normalising_again_changes_nothing(given_text: str) -> None:
    assert text.normalised(text.normalised(given_text)) == text.normalised(given_text)


def test_lines_are_those_that_are_not_blank_with_their_ends() -> None:
    content = "\n one \r\n \t\r\ntwo"
    assert [line.text for line in text.lines(content)] == ["one", "two"]
    assert [content[: line.end] for line in text.lines(content)] == ["\n one", content]


@pytest.mark.parametrize(
    "line",
    [
        "Answer: yes",
        "answer : yes.",
        "ANSWER:yes",
        "**Answer:** yes",
        "**Answer**: yes",
        "**Answer: yes**",
        '"Answer: yes"',
        "Answer: **yes**.",
        "  Answer:\u00a0yes  ",
        "Answer： yes",
    ],
)
def test_an_answer_line_is_read_in_all_its_spellings(line: str) -> None:
    assert text.answer_line(line) == "yes"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Answer:",
        "Answer: **",
        "Answer yes",
        "The answer: yes",
        "Final answer: yes",
        "- Answer: yes",
        '"Answer: yes" or "Answer: no"',
        "Answer: Answer: yes",
        'End with "Answer: yes"',
    ],
)
def test_other_lines_are_no_answer_lines(line: str) -> None:
    assert text.answer_line(line) is None


@pytest.mark.parametrize(
    ("given_text", "declared"),
    [
        ("Answer: yes", ["yes"]),
        ("so the answer is yes.", ["yes."]),
        ("The correct option is: B", ["B"]),
        ("The best choice would be B", ["B"]),
        ("The answer to this old question is no", ["no"]),
        ("Answer = 4", ["4"]),
        (r"thus $\boxed{42}$", ["42}$"]),
        (r"\boxed{\text{B}}", ["B}}"]),
        ("Answer: B ... wait, Answer: C", ["B ... wait,", "C"]),
        ("Answer: 1\nmore\nAnswer: 2\nmore", ["1", "2"]),
        ("Answer:\n\n42\nmore", ["42"]),
        ("The answer is below:\nParis\nmore", ["below: Paris"]),
        ("no answers here", []),
        ("an answering machine is on", []),
    ],
)
def test_declarations_hold_the_rest_of_their_line(given_text: str, declared: list[str]) -> None:
    assert text.declarations(given_text) == declared


@pytest.mark.parametrize(
    "given_text",
    [
        'End your response with exactly: "Answer: yes" or "Answer: no" on the final line.',
        "Write `Answer: 4` at the end.",
        "Write “Answer: 4” at the end.",
        "We are asked whether the answer is yes",
        "If the correct answer is yes then",
        "Answer: yes or Answer: no",
        "**Answer: yes** or **Answer: no**",
    ],
)
def test_speaking_of_an_answer_declares_none(given_text: str) -> None:
    assert text.declarations(given_text) == []
    assert text.declares(given_text)


def test_outside_of_declarations_is_the_rest_of_the_text() -> None:
    content = 'It is 4.\nI write "Answer: 5" now.\nThe answer is 6\nand 7'
    assert text.outside(content) == 'It is 4.\nI write "\nThe \nand 7'


@pytest.mark.parametrize(
    ("given_text", "words", "held"),
    [
        ("it is paris.", "paris", True),
        ("parisian", "paris", False),
        ("comparis", "paris", False),
        ("parisian paris", "paris", True),
        ("_paris_", "paris", False),
        ("paris-nord", "paris", True),
        ("new york city", "new york", True),
        ("it costs $5 now", "$5", True),
        ("it costs $50 now", "$5", False),
        ("us$5", "$5", True),
        ("in c++ it is", "c++", True),
        ("", "paris", False),
    ],
)
def test_words_are_held_whole(given_text: str, words: str, held: bool) -> None:
    assert text.holds_words(given_text, words) is held
