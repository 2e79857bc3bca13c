"""Prompts for another try: what they hold, and that nothing a check expects ever gets into them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.learner import entry, scripted
from tests.unit.test_checks_contract import COMPLETIONS, EXPECTED, FORMATS, checks
from training.checks import Check, Exact, Judgement, Verdict
from training.checks.base import CheckBase
from training.feedback import Attempt, Message
from training.models import LanguageModel
from training.prompts import Task, revision, rewrite
from training.selfplay import PlayConfig, play
from training.tally import Tally

CONVERSATION = (Message("system", "Be brief."), Message("user", "Which word?"))
FEEDBACK = "It is  not quite that; think of\nthe sea."


def task(form: str = "Say it.", *, answer_line: bool = False, hint: str | None = None, kind: str = "exact") -> Task:
    return Task(CONVERSATION, kind, form, answer_line, hint)


def texts(messages: tuple[Message, ...]) -> str:
    return "\n".join(message.content for message in messages)


def test_a_revision_holds_the_task_the_answer_and_what_was_said_of_it_as_typed() -> None:
    retry = revision(task(hint="It is blue."), " the sky ", FEEDBACK)
    assert retry.messages[:2] == CONVERSATION
    assert retry.messages[2] == Message("assistant", " the sky ")
    assert retry.messages[3].role == "user"
    assert len(retry.messages) == 4
    for said in (FEEDBACK, "It is blue.", "Say it."):
        assert said in retry.messages[3].content
    assert retry.scaffold == retry.messages[3].content
    assert (retry.opening, retry.kept) == ("", "")


@pytest.mark.parametrize("nothing", [None, "", "  \n"])
def test_without_feedback_and_hint_a_revision_says_only_that_it_was_wrong(nothing: str | None) -> None:
    retry = revision(task(hint=nothing), "sky", nothing)
    assert retry == revision(task(), "sky", None)
    assert "wrong" in retry.scaffold
    assert "Hint" not in retry.scaffold
    assert "\n\n" not in retry.scaffold


def test_an_answer_line_is_begun_behind_the_answer() -> None:
    retry = rewrite(task(answer_line=True), "The sky is blue. \n")
    assert retry.messages == CONVERSATION
    assert retry.scaffold == ""
    assert retry.opening == retry.kept == "The sky is blue.\n\nAnswer:"


def test_a_bare_answer_is_asked_for_behind_examples_that_are_no_part_of_the_completion() -> None:
    retry = rewrite(task("Only the word."), "The sky is blue.")
    assert retry.messages[0] == CONVERSATION[0]
    assert retry.messages[-1].content.startswith("Which word?")
    assert retry.messages[-1].content.endswith("The sky is blue.")
    assert [message.role for message in retry.messages[1:]] == ["user", "assistant"] * 2 + ["user"]
    assert retry.kept == ""
    assert retry.opening
    assert "Only the word." in retry.scaffold


@pytest.mark.parametrize("answer_line", [True, False])
@pytest.mark.parametrize("kind", ["choice", "yes_no", "number", "exact", "regex", "json"])
def test_a_rewrite_never_says_that_an_answer_was_wrong_nor_gives_the_hint(kind: str, answer_line: bool) -> None:
    retry = rewrite(task(hint="It is blue.", answer_line=answer_line, kind=kind), "sky")
    said = texts(retry.messages) + retry.opening
    assert "It is blue." not in said
    assert "wrong" not in said
    assert "Hint" not in said


@st.composite
def twins(draw: st.DrawFn) -> tuple[Check, Check]:
    """Two checks that differ in nothing but what they expect."""
    check = draw(checks())
    return check, msgspec.structs.replace(check, expect=draw(EXPECTED[type(check)]))


@given(twins(), COMPLETIONS, st.none() | st.just(FEEDBACK), st.none() | st.just("It is blue."))
def test_prompts_are_the_same_whatever_is_expected(
    pair: tuple[Check, Check], answer: str, feedback: str | None, hint: str | None
) -> None:
    one, two = (Task(CONVERSATION, check.kind, check.form, check.format == "answer_line", hint) for check in pair)
    assert revision(one, answer, feedback) == revision(two, answer, feedback)
    assert rewrite(one, answer) == rewrite(two, answer)


class _Verdicts:
    """Judges by script: the verdict is the next one listed, whatever is expected; the rest is what the check finds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, verdicts: dict[str, Verdict]) -> None:
        honest = CheckBase.judge

        def judge(check: CheckBase, completion: str) -> Judgement:
            found = honest(check, completion)
            return Judgement(verdicts.get(completion, Verdict.WRONG), found.formatted, found.answer, found.end)

        monkeypatch.setattr(CheckBase, "judge", judge)


WAVES = 7
"""More than two revisions and their rewrites can take."""
SAID = st.text(st.characters(codec="utf-8"), max_size=20) | COMPLETIONS.filter(lambda text: "\ud800" not in text)


def game(
    lm: LanguageModel, check: Check, said: list[str], verdicts: list[Verdict], attempts: tuple[Attempt, ...]
) -> list[Any]:
    """All that the sampler was asked in one game, and the shape of what was learned."""
    with pytest.MonkeyPatch.context() as patch:
        # The verdict belongs to what is said, as the sampler says it and as self-play may cut it.
        _Verdicts(patch, dict(zip(said, verdicts, strict=True)))
        script = scripted(patch, lm, *([text] for text in said))
        player = entry(check, prompt="Which one?", attempts=attempts, hint="Think of the sea.")
        traces = play(lm, [player], PlayConfig(), Tally())
        return [script.prompts, script.limits, traces]


@given(
    twins(),
    st.lists(SAID, min_size=WAVES, max_size=WAVES),
    st.lists(st.sampled_from(Verdict), min_size=WAVES, max_size=WAVES),
    st.data(),
)
def test_whole_games_ask_the_same_whatever_is_expected(
    tiny_chat: LanguageModel, pair: tuple[Check, Check], said: list[str], verdicts: list[Verdict], data: st.DataObject
) -> None:
    known = data.draw(st.sampled_from(said))
    attempts = (Attempt(known, "wrong", FEEDBACK), Attempt("Answer: yes", "wrong", "No."))
    one, two = (game(tiny_chat, check, said, verdicts, attempts) for check in pair)
    assert one == two


@pytest.mark.parametrize("asked", FORMATS)
def test_the_games_above_reach_revisions_and_rewrites(tiny_chat: LanguageModel, asked: Any) -> None:
    said = ["one", "two", "three", "four", "five", "six", "seven"]
    verdicts = [Verdict.WRONG] + [Verdict.UNFORMATTED, Verdict.WRONG] * 3
    prompts, _, traces = game(
        tiny_chat, Exact("Paris", format=asked), said, verdicts, (Attempt("one", "wrong", FEEDBACK),)
    )
    seen = [tiny_chat.decode(wave[0]) for wave in prompts]
    assert len(seen) >= 4
    assert sum("Think of the sea." in text for text in seen) == 2
    assert [FEEDBACK in text for text in seen[:2]] == [False, True]
    assert not any("Paris" in text for text in seen)
    assert len(traces) == 1
