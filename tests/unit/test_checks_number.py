from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.checks import Number, Verdict, contains
from training.checks.numerals import canonical, numerals

RIGHT, UNFORMATTED, WRONG = Verdict.RIGHT, Verdict.UNFORMATTED, Verdict.WRONG


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ("42", ["42"]),
        ("-42", ["-42"]),
        ("\u221242", ["-42"]),
        ("+42", ["42"]),
        ("1,234.50", ["1234.5"]),
        ("1 234 567", ["1234567"]),
        ("1'234", ["1234"]),
        ("1\u202f234", ["1234"]),
        ("1,234 567", ["1234", "567"]),
        ("12,34", ["12", "34"]),
        ("2020 345", ["2020", "345"]),
        ("1\n234", ["1", "234"]),
        (".5", ["0.5"]),
        ("3/4", ["0.75"]),
        ("1/3", ["1/3"]),
        ("1 1/2", ["1.5"]),
        ("1/0", []),
        ("1.5e3", ["1500"]),
        ("1E-2", ["0.01"]),
        ("1.2 x 10^3", ["1200"]),
        ("1.2 × 10^{3}", ["1200"]),
        ("1e999", []),
        ("$5", ["5"]),
        ("$-5", ["-5"]),
        ("-$5", ["-5"]),
        ("€ 5", ["5"]),
        (r"\$5", ["5"]),
        ("3 million", ["3000000"]),
        ("2 dozen", ["24"]),
        ("10-5", ["10", "5"]),
        ("10 - 5 = 5", ["10", "5", "5"]),
        ("(3)-2", ["3", "2"]),
        ("x=-3", ["-3"]),
        ("H2O and x2", []),
        ("3rd of the 21st", []),
        ("1,234th", []),
        ("1.2.3", []),
        ("42km", ["42"]),
        ("9" * 64, ["9" * 64]),
        ("9" * 65, []),
        ("9" * 61 + ".000", ["9" * 61]),  # the point is none of the 64
        ("9" * 61 + ".0000", []),
        ("9" + ",999" * 21, ["9" * 64]),
        ("9" + ",999" * 22, []),
        ("9" * 5000, []),
    ],
)
def test_numerals_are_read_as_documented(content: str, values: list[str]) -> None:
    assert [canonical(numeral.value) for numeral in numerals(content)] == values


@given(st.fractions())
def test_the_canonical_number_is_worth_the_same(value: Fraction) -> None:
    assert Fraction(canonical(value)) == value


@given(st.integers(min_value=-(10**18), max_value=10**18), st.sampled_from([",", " ", "_", ""]))
def test_thousands_separators_change_nothing(value: int, separator: str) -> None:
    written = f"{value:,}".replace(",", "" if separator == "_" else separator)
    assert Number(value, format="bare").judge(written).verdict == RIGHT


@pytest.mark.parametrize(
    "answer",
    [
        "42",
        "42.",
        "42.0",
        "$42",
        "$42.00.",
        "42 apples",
        "42 miles per hour",
        "42%",
        "42 €",
        "**42**",
        "84/2",
        "$42$",
        "42 m/s",
    ],
)
def test_a_number_on_the_answer_line_is_right(answer: str) -> None:
    completion = f"12 + 30 = 42\nAnswer: {answer}"
    judgement = Number(42, format="answer_line").judge(completion)
    assert (judgement.verdict, judgement.formatted, judgement.answer) == (RIGHT, True, "42")
    assert judgement.end == len(completion)
    assert Number(43, format="answer_line").judge(completion).verdict == WRONG


@pytest.mark.parametrize(
    "completion",
    [
        "The total is 12 + 30 = 42.",
        "12 + 30 = 42\nAnswer: N",
        "Answer: 12 + 30 = 42",
        "Answer: 42 is what is left",
        "Answer: 42 and more",
        "Answer: 42 times",
        "Answer: 42 apples are left in the basket",
        r"Answer: \boxed{42}",
        "The answer is 42. Since x = 3, it is so.",
        "The answer is 42 because 40 and 2 are added.",
        "Answer: 42\nExplanation: 3 steps",
        "$42$",
        "There were 50, and then 42 of them",
    ],
)
def test_the_right_number_in_another_form_is_unformatted(completion: str) -> None:
    judgement = Number(42, format="answer_line").judge(completion)
    assert (judgement.verdict, judgement.formatted, judgement.answer) == (UNFORMATTED, False, "42")


@pytest.mark.parametrize(
    "completion", ["", "Answer: N", "Answer: 41 or 42", "Answer: 42 or 41", "forty-two", "the 42nd"]
)
def test_no_number_is_found_where_none_is_given(completion: str) -> None:
    judgement = Number(42, format="answer_line").judge(completion)
    assert (judgement.verdict, judgement.formatted, judgement.answer) == (WRONG, False, None)


def test_an_end_behind_the_first_answer_line_is_told() -> None:
    completion = "Answer: 42 apples\nExplanation: 3 steps"
    assert Number(42, format="answer_line").judge(completion).end == len("Answer: 42 apples")


def test_any_form_takes_the_declared_number_else_the_last() -> None:
    assert Number(42).judge("Answer: 42\nI checked it 3 times.").verdict == RIGHT
    assert Number(42).judge("First 40, then 42 of them.").verdict == RIGHT
    assert Number(40).judge("First 40, then 42 of them.").verdict == WRONG
    assert Number(42).judge("Answer: 41\nAnswer: 42").verdict == RIGHT


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [("42", RIGHT), (" 42 apples\n", RIGHT), ("Answer: 42", UNFORMATTED), ("It is 42", UNFORMATTED), ("41", WRONG)],
)
def test_a_bare_number_is_the_whole_completion(completion: str, verdict: Verdict) -> None:
    assert Number(42, format="bare").judge(completion).verdict == verdict


def test_a_bare_first_line_can_be_cut_off_a_ramble() -> None:
    judgement = Number(42, format="bare").judge("42\n\nQuestion 7:")
    assert (judgement.verdict, judgement.answer, judgement.end) == (UNFORMATTED, "42", 2)


def test_tolerance_is_absolute_and_exact() -> None:
    check = Number("0.3", tolerance=0.1, format="bare")
    assert check.judge("0.2").verdict == RIGHT
    assert check.judge("0.4").verdict == RIGHT
    assert check.judge("0.41").verdict == WRONG
    assert Number("0.5", tolerance=0.3, format="bare").judge("0.8").verdict == RIGHT
    assert Number("1/3", format="bare").judge("0.333").verdict == WRONG
    assert Number("1/3", tolerance=0.001, format="bare").judge("0.333").verdict == RIGHT


@pytest.mark.parametrize(
    ("unit", "completion", "verdict"),
    [
        ("km", "3", RIGHT),
        ("km", "3 km", RIGHT),
        ("km", "3KM.", RIGHT),
        ("mile", "3 miles", RIGHT),
        ("miles", "3 mile", RIGHT),
        ("km", "3 m", WRONG),
        ("km", "3 miles", WRONG),
        ("m", "3 miles", WRONG),
        ("km", "3 km long", UNFORMATTED),
        ("km", "It took 5 hours for 3 km", UNFORMATTED),
        ("km", "3 km in 5 hours", UNFORMATTED),
        ("km", "The answer is 3", UNFORMATTED),
        ("%", "3 percent", RIGHT),
        ("percent", "3%", RIGHT),
        ("per cent", r"3\%", RIGHT),
        ("%", "3 apples", WRONG),
        ("$", "$3", RIGHT),
        ("$", "3 $", RIGHT),
    ],
)
def test_a_unit_is_the_only_one_that_may_follow(unit: str, completion: str, verdict: Verdict) -> None:
    assert Number(3, unit=unit, format="bare").judge(completion).verdict == verdict


@pytest.mark.parametrize("expect", [42, 42.0, "42", "42.0", "42 apples", "$42", "84/2"])
def test_the_expected_number_may_be_written_in_many_ways(expect: str | float) -> None:
    assert Number(expect, format="bare").judge("42").verdict == RIGHT


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"expect": "many"}, "expect"),
        ({"expect": ""}, "expect"),
        ({"expect": "3 or 4"}, "expect"),
        ({"expect": float("nan")}, "expect"),
        ({"expect": float("inf")}, "expect"),
        ({"expect": True}, "expect"),
        ({"expect": 1, "tolerance": -1.0}, "tolerance"),
        ({"expect": 1, "tolerance": float("nan")}, "tolerance"),
        ({"expect": 1, "unit": " "}, "unit"),
        ({"expect": "3 miles", "unit": "km"}, "expect"),
    ],
)
def test_what_is_no_number_is_refused(fields: dict[str, object], field: str) -> None:
    with pytest.raises(ValueError, match=f"`{field}` is"):
        Number(**fields)  # type: ignore[arg-type]


def test_a_unit_is_part_of_the_form() -> None:
    assert Number(3, unit="km", format="bare").form == "Respond with only the number in km."
    assert '"Answer: N" on the final line' in Number(3, format="answer_line").form


def test_contains_sees_the_number_anywhere() -> None:
    assert contains(Number(42), "from 42.0 to 50")
    assert not contains(Number(42), "from 420 to 50")
