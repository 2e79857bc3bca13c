"""Traces from what people said of answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.learner import entry, load_tiny
from training.checks import YesNo
from training.feedback import Attempt, Entry, attempt_key, contradictions
from training.models import LanguageModel
from training.tally import Tally
from training.told import told_attempts, told_traces
from training.traces import Trace


def told(*attempts: Attempt, **fields: object) -> Entry:
    return entry(attempts=attempts, **fields)


def traces(lm: LanguageModel, *entries: Entry, tally: Tally | None = None) -> list[Trace]:
    disagreed = contradictions(entries)
    found = [item for asked in entries for item in told_attempts(asked, disagreed)]
    return told_traces(lm, found, tally or Tally())


def test_what_was_judged_right_is_a_win_and_wrong_a_loss(tiny: LanguageModel) -> None:
    asked = told(Attempt("Rome", "wrong", "No."), Attempt("Paris", "right"), Attempt("Oslo", None, "Hm."))
    lose, win = traces(tiny, asked)
    prompt = tuple(tiny.encode_prompt(asked.conversation))
    for trace, said, right in ((lose, "Rome", False), (win, "Paris", True)):
        assert trace.prompt == prompt
        assert trace.completion == (*tiny.encode_text(said), tiny.eos_id)
        assert (trace.win, trace.kind, trace.answer) == (right, "person", None)


def test_a_wrong_answer_weighs_more_where_a_later_one_is_right(tiny: LanguageModel) -> None:
    corrected = told(Attempt("a", "wrong"), Attempt("b", "wrong"), Attempt("c", "right"), Attempt("d", "wrong"))
    assert [trace.weight for trace in traces(tiny, corrected)] == [1.0, 1.0, 1.0, 0.5]
    assert [trace.weight for trace in traces(tiny, told(Attempt("a", "wrong"), Attempt("b", "wrong")))] == [0.5, 0.5]


def test_only_the_end_of_a_wrong_answer_is_blamed(tiny: LanguageModel) -> None:
    (lose,) = traces(tiny, told(Attempt("a", "wrong")))
    assert lose.tail_tokens == 32


def test_what_people_disagree_on_is_left_out_whoever_said_it(tiny: LanguageModel) -> None:
    one = told(Attempt("Paris", "right"), Attempt("Rome", "wrong"), id="one", user="ann")
    two = told(Attempt("Paris", "wrong"), id="two", user="bob")
    other = told(Attempt("Paris", "wrong"), id="three", prompt="Another question?")
    found = traces(tiny, one, two, other)
    assert [(trace.completion[0], trace.win) for trace in found] == [
        (tiny.encode_text("Rome")[0], False),
        (tiny.encode_text("Paris")[0], False),
    ]


def test_what_is_checked_is_played_and_not_told(tiny: LanguageModel) -> None:
    assert traces(tiny, entry(YesNo("yes"), attempts=(Attempt("yes", "right"),))) == []


def test_an_empty_answer_teaches_nothing(tiny: LanguageModel) -> None:
    assert traces(tiny, told(Attempt("", "right"), Attempt("", "wrong"))) == []


def test_an_attempt_is_remembered_by_its_entry_and_verdict() -> None:
    attempt = Attempt("Paris", "right")
    (item,) = told_attempts(told(attempt), set())
    assert item.key == attempt_key("q", attempt)
    (corrected,) = told_attempts(told(Attempt("Paris", "wrong")), set())
    assert corrected.key != item.key


@pytest.mark.parametrize(
    ("asked", "said", "prompts_cut", "completions_cut"),
    [
        ("short?", "x" * 30, 0, 0),
        ("y" * 200, "x" * 20, 1, 0),
        ("y" * 200, "x" * 200, 1, 1),
        ("short?", "x" * 200, 1, 1),
    ],
)
def test_what_does_not_fit_is_cut_and_counted(
    tiny_folder: Path, asked: str, said: str, prompts_cut: int, completions_cut: int
) -> None:
    small = load_tiny(tiny_folder, max_sequence=64)
    tally = Tally()
    question = told(Attempt(said, "right"), prompt=asked)
    (trace,) = traces(small, question, tally=tally)
    assert trace.length <= 64
    assert (tally.prompts_cut, tally.completions_cut) == (prompts_cut, completions_cut)
    whole = small.encode_prompt(question.conversation)
    assert trace.prompt == tuple(whole[len(whole) - len(trace.prompt) :])
    assert (trace.completion[-1] == small.eos_id) is not bool(completions_cut)
