from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.checks import Json, Verdict, contains

RIGHT, UNFORMATTED, WRONG = Verdict.RIGHT, Verdict.UNFORMATTED, Verdict.WRONG
EXPECTED = {"a": [1, True], "b": None}
DOCUMENT = '{"b": null, "a": [1.0, true]}'


@pytest.mark.parametrize(
    "completion", [DOCUMENT, f" {DOCUMENT}\n", DOCUMENT.replace(" ", "\n"), '{"a":[1,true],"b":null}']
)
def test_one_equal_document_is_right(completion: str) -> None:
    judgement = Json(EXPECTED, format="bare").judge(completion)
    assert (judgement.verdict, judgement.formatted, judgement.answer) == (RIGHT, True, '{"a":[1,true],"b":null}')
    assert judgement.end == len(completion.rstrip())


@pytest.mark.parametrize(
    "completion",
    [
        f"```json\n{DOCUMENT}\n```",
        f"```\n{DOCUMENT}\n```\nI hope this helps",
        f"Here it is: {DOCUMENT}.",
        f"{DOCUMENT}\n\nNext",
        f"First [0], then {DOCUMENT}",
        f"{{broken {DOCUMENT}",
    ],
)
def test_a_document_with_more_around_it_is_unformatted(completion: str) -> None:
    judgement = Json(EXPECTED, format="bare").judge(completion)
    assert (judgement.verdict, judgement.formatted) == (UNFORMATTED, False)


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "{}",
        '{"a": [1, 1], "b": null}',
        '{"a": [true, 1], "b": null}',
        '{"a": [1, true]}',
        '{"a": [1, true], "b": NaN}',
        '{"a": [1, true], "b": 1e999}',
        "[" * 5000,
        DOCUMENT[:-1],
        f"[{DOCUMENT}]",
    ],
)
def test_another_value_is_wrong(completion: str) -> None:
    assert Json(EXPECTED, format="bare").judge(completion).verdict == WRONG


def test_a_document_at_the_start_can_be_cut_off_a_ramble() -> None:
    judgement = Json(EXPECTED, format="bare").judge(f"{DOCUMENT}\n\n[1]")
    assert (judgement.verdict, judgement.end) == (UNFORMATTED, len(DOCUMENT))


def test_the_last_document_counts_where_no_form_is_asked() -> None:
    assert Json([2]).judge("[1] or rather [2]").verdict == RIGHT
    assert Json([1]).judge("[1] or rather [2]").verdict == WRONG
    assert Json([1]).judge("```json\n[1]\n```\nNot [2]").verdict == RIGHT


def test_an_answer_line_holds_the_whole_document() -> None:
    check = Json(EXPECTED, format="answer_line")
    assert check.judge(f"Well.\nAnswer: {DOCUMENT}").verdict == RIGHT
    assert check.judge(f"Well.\n**Answer:** {DOCUMENT}").verdict == RIGHT
    assert check.judge(f"Well.\nAnswer:\n{DOCUMENT}").verdict == UNFORMATTED
    assert Json("hello", format="answer_line").judge('Answer: "hello"').verdict == RIGHT


@pytest.mark.parametrize(
    ("expect", "completion"),
    [
        ("[1, 2]", "[1,2]"),
        ("5", "5.0"),
        (5.0, "5"),
        ("hello", '"hello"'),
        ('"hello"', '"hello"'),
        (None, "null"),
        (True, "true"),
        (10**22, "1e22"),
    ],
)
def test_the_expected_value_may_be_given_as_text(expect: Any, completion: str) -> None:
    assert Json(expect, format="bare").judge(completion).verdict == RIGHT


def test_true_is_not_one() -> None:
    assert Json(True, format="bare").judge("1").verdict == WRONG
    assert Json(1, format="bare").judge("true").verdict == WRONG


@pytest.mark.parametrize("expect", ['{"a": 1', " [1,", float("nan"), [float("inf")], object()])
def test_what_is_no_json_is_refused(expect: Any) -> None:
    with pytest.raises(ValueError, match="`expect`"):
        Json(expect)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
def test_every_object_equals_itself_however_it_is_written(value: dict[str, Any]) -> None:
    backwards = json.dumps(dict(reversed(value.items())), indent=2)
    assert Json(value, format="bare").judge(backwards).verdict == RIGHT
    assert Json(json.dumps(value)).judge(f"I say\n{backwards}").verdict == RIGHT


def test_contains_sees_a_document_in_a_text() -> None:
    assert contains(Json([1], format="bare"), "so [1] it is")
    assert contains(Json(5, format="answer_line"), "Answer: 5")
    assert not contains(Json([1], format="bare"), "so [2] it is")
