from __future__ import annotations

import pytest

from training.checks import Regex, Verdict, contains

RIGHT, UNFORMATTED, WRONG = Verdict.RIGHT, Verdict.UNFORMATTED, Verdict.WRONG
CATASTROPHIC = "(a|aa)+$"
"""Takes time that doubles with every few more letters of a text of a's that ends with another letter."""


def test_bare_has_to_match_in_full() -> None:
    check = Regex(r"\d{4}-\d\d", format="bare")
    assert check.judge(" 2024-01\n").verdict == RIGHT
    assert check.judge("on 2024-01").verdict == UNFORMATTED
    assert check.judge("in January").verdict == WRONG


def test_an_answer_line_has_to_match_in_full() -> None:
    check = Regex(r"\d{4}-\d\d", format="answer_line")
    assert check.judge("It was cold in 2023.\nAnswer: 2024-01").verdict == RIGHT
    assert check.judge("It was cold.\nAnswer: on 2024-01").verdict == UNFORMATTED
    assert check.judge("2024-01").verdict == UNFORMATTED
    assert check.judge("It was cold in 2023-01.\nAnswer: 2024").verdict == WRONG


def test_any_form_is_a_search() -> None:
    assert Regex(r"\d{4}-\d\d").judge("on 2024-01").verdict == RIGHT
    assert Regex(r"\d{4}-\d\d").judge("in January").verdict == WRONG


def test_the_pattern_says_itself_what_case_and_lines_may_be() -> None:
    assert Regex("paris", format="bare").judge("Paris").verdict == WRONG
    assert Regex("(?i)paris", format="bare").judge("Paris").verdict == RIGHT
    assert Regex("a.b", format="bare").judge("a\nb").verdict == WRONG
    assert Regex("(?s)a.b", format="bare").judge("a\nb").verdict == RIGHT


def test_the_empty_text_is_never_right() -> None:
    assert Regex("x*", format="bare").judge(" ").verdict == WRONG
    assert Regex("x*").judge("banana").verdict == WRONG
    assert Regex("x*").judge("xx").verdict == RIGHT


def test_a_pattern_that_takes_too_long_makes_a_completion_wrong() -> None:
    for form in ("bare", "any"):
        judgement = Regex(CATASTROPHIC, format=form).judge("a" * 4000 + "!")
        assert judgement.verdict == WRONG
        assert judgement == Regex("b", format=form).judge("a" * 4000 + "!")


def test_of_a_long_completion_only_the_beginning_is_searched() -> None:
    check = Regex("x+y?", format="bare")
    assert check.judge("x" * 4096).verdict == RIGHT
    assert check.judge("x" * 4097).verdict == UNFORMATTED
    assert check.judge("x" * 4097).formatted is False
    assert Regex("y").judge("x" * 4096 + "y").verdict == WRONG


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("", "is empty"),
        ("(", "no regular expression"),
        ("[a", "no regular expression"),
        (r"\L<names>", "no regular expression"),
        ("a" * 513, "at most 512"),
        ("(((a{99}){99}){99}){99}", "repeats too much"),
        ("a{99999999}", "repeats too much"),
        ("(a{50,}){999,9999}", "repeats too much"),
        ("a{" + "9" * 400 + "}", "repeats too much"),
    ],
)
def test_a_bad_pattern_is_refused(pattern: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Regex(pattern)


@pytest.mark.parametrize(
    "pattern", [r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", r"\{99999\}", "a{0,60000}", "(" * 200 + ")" * 200]
)
def test_a_harmless_pattern_is_taken(pattern: str) -> None:
    assert Regex(pattern).expect == pattern


def test_contains_is_a_search() -> None:
    assert contains(Regex(r"\d+", format="bare"), "it is 42")
    assert not contains(Regex(r"\d+", format="bare"), "")
