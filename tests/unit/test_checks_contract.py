"""What holds for every kind of check, on whatever text."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import training.checks
from training.checks import Check, Choice, Exact, Json, Number, Regex, Verdict, YesNo, contains

FORMATS = ("bare", "answer_line", "any")
CLOSED = (Choice, YesNo, Number, Json)
"""Kinds whose asked form can be told from a completion alone, whatever the answer is."""

EXPECTED: dict[type[Any], st.SearchStrategy[Any]] = {
    Choice: st.sampled_from("ABCD"),
    YesNo: st.sampled_from(["yes", "no"]),
    Number: st.integers(1 - 10**64, 10**64 - 1)  # longer ones are refused
    | st.decimals(-(10**60), 10**60, places=3).map(str)
    | st.sampled_from(["42"]),
    Exact: st.text(min_size=1).filter(str.strip) | st.sampled_from(["Paris", "yes", "B"]),
    Regex: st.sampled_from(["yes", r"\d+", "(?s).+", "Paris|B", r"Answer: \w+"]),
    Json: st.integers() | st.text().filter(lambda s: not s.lstrip().startswith(("{", "["))) | st.lists(st.booleans()),
}

PIECES = (
    *("Answer:", "answer", "is", "The answer is", "option", "\\boxed{", "or", "and", "if", "so,", "not"),
    *("yes", "no", "Yes,", "No.", "A", "B", "(C)", "D.", "a", "E", "A dog", "B. heat", "Paris", "Paris."),
    *("42", "-1,234.5", "1 234", "$5", "3/4", "%", "km", "= 42", "1e3", "1/0", "9" * 70),
    *('"', "'", "`", "*", "**", "```", "{", "}", "[1]", '{"a": 1}', "true", "null", "NaN"),
    *(" ", " ", " ", "\n", "\n", "\r\n", "\t", ".", ",", ":", "!", "(", ")", "/", "=", "\u00a0", "\u2028", "\ud800"),
)
LINES = (
    *(
        "Answer: yes",
        "answer : no.",
        "**Answer:** Yes",
        '"Answer: no"',
        "Answer: B",
        "Answer: (C)",
        "Answer: 42",
        "Answer: $1",
    ),
    *(
        "Answer: Paris",
        "Answer: [1]",
        "Answer: yes or no",
        "yes",
        "No.",
        "B",
        "B. heat",
        "42 km",
        "Paris",
        "[1]",
        "",
        "Hm.",
    ),
)
COMPLETIONS = (
    st.text()
    | st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
    | st.lists(st.sampled_from(LINES), max_size=5).map("\n".join)
)


@st.composite
def checks(draw: st.DrawFn) -> Check:
    kind = draw(st.sampled_from(list(EXPECTED)))
    return kind(draw(EXPECTED[kind]), format=draw(st.sampled_from(FORMATS)), **draw(_details(kind)))


def _details(kind: type[Any]) -> st.SearchStrategy[dict[str, Any]]:
    if kind is Choice:
        return st.fixed_dictionaries({"options": st.integers(4, 26)})
    if kind is Number:
        return st.fixed_dictionaries(
            {"tolerance": st.sampled_from([0.0, 0.5]), "unit": st.sampled_from([None, "km", "%"])}
        )
    return st.just({})


@given(checks(), COMPLETIONS)
def test_judging_never_raises_and_verdicts_fit_together(check: Check, completion: str) -> None:
    judgement = check.judge(completion)
    if judgement.verdict == Verdict.RIGHT:
        assert judgement.formatted
        assert judgement.answer is not None
        assert contains(check, completion)
    if judgement.verdict == Verdict.UNFORMATTED:
        assert check.format != "any"
        assert judgement.answer is not None
        assert not (judgement.formatted and isinstance(check, CLOSED))
    if check.format == "any":
        assert judgement.formatted
        assert judgement.end is None


@given(checks(), st.data(), COMPLETIONS)
def test_nothing_but_the_verdict_depends_on_what_is_expected(
    check: Check, data: st.DataObject, completion: str
) -> None:
    other = msgspec.structs.replace(check, expect=data.draw(EXPECTED[type(check)]))
    shown = ("kind", "form", "new_tokens", "tail_tokens", "protected", "end_counts", "candidates")
    assert [getattr(check, name) for name in shown] == [getattr(other, name) for name in shown]
    one, two = check.judge(completion), other.judge(completion)
    assert (one.formatted, one.answer, one.end) == (two.formatted, two.answer, two.end)


@given(checks(), COMPLETIONS)
def test_cutting_at_the_end_keeps_the_form_and_what_was_right(check: Check, completion: str) -> None:
    judgement = check.judge(completion)
    if judgement.end is None:
        assert check.format == "any" or not judgement.formatted
        return
    cut = check.judge(completion[: judgement.end])
    assert cut.formatted
    assert cut.end == judgement.end
    if judgement.formatted:
        assert (cut.answer, cut.verdict) == (judgement.answer, judgement.verdict)


@pytest.mark.parametrize("kind", [Choice, YesNo])
@pytest.mark.parametrize(("asked", "before"), [("bare", ""), ("answer_line", "Well.\nAnswer: "), ("any", "Answer: ")])
def test_of_the_candidates_exactly_the_expected_one_is_right(kind: type[Any], asked: str, before: str) -> None:
    candidates = kind(expect="B" if kind is Choice else "no", format=asked).candidates
    for expected in candidates:
        check = kind(expect=expected, format=asked)
        right = [candidate for candidate in candidates if check.judge(before + candidate).verdict == Verdict.RIGHT]
        assert right == [expected]


@pytest.mark.parametrize("check", [Number(1), Exact("a"), Regex("a"), Json(1)])
def test_open_answers_have_no_candidates(check: Check) -> None:
    assert check.candidates is None


@pytest.mark.parametrize(
    ("kind", "expect", "new_tokens", "end_counts"),
    [
        (Choice, "A", (16, 96, 128), False),
        (YesNo, "no", (16, 96, 128), False),
        (Number, 1, (16, 256, 128), True),
        (Exact, "a", (16, 96, 128), True),
        (Regex, "a", (128, 128, 128), False),
        (Json, 1, (256, 256, 256), False),
    ],
)
def test_room_and_blame_follow_from_kind_and_form(
    kind: type[Any], expect: Any, new_tokens: tuple[int, ...], end_counts: bool
) -> None:
    forms = [kind(expect, format=asked) for asked in FORMATS]
    assert tuple(check.new_tokens for check in forms) == new_tokens
    assert [check.tail_tokens for check in forms] == [0, 32, 32]
    assert [check.protected for check in forms] == [(), ("Answer:",), ("Answer:",)]
    assert [check.end_counts for check in forms] == [end_counts, False, False]
    assert len({check.form for check in forms}) == 3
    assert '"Answer:' in forms[1].form


@pytest.mark.parametrize("kind", [Choice, YesNo, Number, Json])
def test_a_model_that_copies_the_asked_form_has_not_answered(kind: type[Any]) -> None:
    expect = {Choice: "B", YesNo: "no", Number: 42, Json: [1]}[kind]
    judgement = kind(expect, format="answer_line").judge(kind(expect, format="answer_line").form)
    assert (judgement.verdict, judgement.formatted, judgement.answer) == (Verdict.WRONG, False, None)


@pytest.mark.parametrize(
    ("line", "check"),
    [
        ('{"type":"choice","expect":"B","options":5,"format":"bare"}', Choice("B", options=5, format="bare")),
        ('{"type":"yes_no","expect":"no","format":"answer_line"}', YesNo("no", format="answer_line")),
        ('{"type":"number","expect":"1,500","format":"answer_line"}', Number("1,500", format="answer_line")),
        ('{"type":"number","expect":1.5,"tolerance":0.1,"unit":"km"}', Number(1.5, tolerance=0.1, unit="km")),
        ('{"type":"exact","expect":"Paris","words":1}', Exact("Paris", words=1)),
        ('{"type":"regex","expect":"a+"}', Regex("a+")),
        ('{"type":"json","expect":{"a":[1]}}', Json({"a": [1]})),
    ],
)
def test_checks_are_decoded_from_a_log_and_written_back(line: str, check: Check) -> None:
    decoded = msgspec.json.decode(line, type=Check)
    assert decoded == check
    assert decoded.kind == json.loads(line)["type"]
    assert msgspec.json.decode(msgspec.json.encode(check), type=Check) == check


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"type":"choice","expect":"E"}', "it must be a letter from A to D"),
        ('{"type":"choice","expect":"B","options":"4"}', "options"),
        ('{"type":"yes_no","expect":true}', "Expected `str`"),
        ('{"type":"number","expect":true}', "got `bool`"),
        ('{"type":"number","expect":"many"}', "it must be one number"),
        ('{"type":"exact"}', "expect"),
        ('{"type":"exact","expect":"a","format":"line"}', "format"),
        ('{"type":"exact","expect":"a","expects":"b"}', "expects"),
        ('{"type":"regex","expect":"("}', "no regular expression"),
        ('{"type":"json","expect":"{"}', "begins as JSON"),
        ('{"type":"spelling","expect":"a"}', "spelling"),
        ('{"expect":"a"}', "type"),
    ],
)
def test_a_bad_check_is_refused_with_its_reason(line: str, why: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=why):
        msgspec.json.decode(line, type=Check)


def test_the_public_surface_is_this() -> None:
    kinds = ["Check", "Choice", "Exact", "Format", "Json", "Judgement", "Number", "Regex", "Verdict", "YesNo"]
    assert training.checks.__all__ == [*kinds, "contains"]


def test_importing_checks_loads_nothing_heavy() -> None:
    program = "import sys, training.checks; print(*{'torch', 'transformers', 'numpy', 'peft'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=_root())
    assert loaded.stdout.split() == []


def _root() -> str:
    return str(training.checks.__path__[0]).removesuffix("/training/checks")
