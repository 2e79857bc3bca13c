"""A conversation with verdicts: its phases, what the model is shown, and what the log is told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from spearctl.conversation import REVISIONS, Conversation, Phase, Said
from spearctl.errors import UsageError
from tests.learner import user
from training.feedback import Attempt, Entry, Message, merge
from training.prompts import Task, revision
from training.selfplay import PlayConfig


def conversation(*, most: int = 1000, filled: int | None = None, system: str | None = None) -> Conversation:
    """One in which prompts of at most so many characters fit; once turns give way, only `filled` of them stay."""

    def size(messages: Sequence[Message]) -> int:
        return sum(len(message.content) for message in messages)

    return Conversation(
        lambda messages: size(messages) <= most,
        lambda messages: size(messages) <= (filled or most),
        system=system,
    )


def ask(talk: Conversation, question: str, answer: str = "so", *, ended: bool = True) -> int:
    dropped = talk.ask(question)
    assert talk.phase is Phase.ANSWERING
    talk.answered(Said(answer, ended))
    return dropped


def note(talk: Conversation, is_right: bool, said: str | None = None) -> Entry:
    entry = talk.judge(is_right, said)
    talk.noted(entry)
    return entry


def model(text: str) -> Message:
    return Message("assistant", text)


def test_a_right_answer_is_an_entry_of_the_question_alone() -> None:
    talk = conversation()
    assert talk.phase is Phase.ASKING
    ask(talk, "Which?", "this one")
    assert talk.phase is Phase.JUDGING
    entry = talk.judge(True, "well said")
    assert talk.phase is Phase.JUDGING  # until it is in the log
    assert (entry.prompt, entry.messages) == ("Which?", None)
    assert entry.attempts == (Attempt("this one", "right", "well said"),)
    assert entry.ts is not None
    assert talk.noted(entry) is False
    assert talk.phase is Phase.ASKING


def test_later_questions_carry_the_turns_that_were_shown() -> None:
    talk = conversation(system="Be brief.")
    ask(talk, "One?", "first")
    talk.skip()
    ask(talk, "Two?", "second")
    assert talk.shown == (Message("system", "Be brief."), user("One?"), model("first"), user("Two?"))
    entry = note(talk, True)
    assert entry.prompt is None
    assert entry.conversation == talk.shown


def test_a_wrong_answer_is_revised_as_in_self_play_and_judged_again() -> None:
    talk = conversation()
    ask(talk, "Which?", "that")
    first = talk.judge(False, "too short")
    assert talk.noted(first) is True
    assert talk.phase is Phase.REVISING
    task = Task((user("Which?"),), kind="exact", form="", answer_line=False)
    assert talk.shown == revision(task, "that", "too short").messages
    talk.answered(Said("this one", True))
    assert (talk.phase, talk.revision) == (Phase.JUDGING, 1)
    second = note(talk, True)
    assert second.id == first.id
    merged = merge(first, second)
    assert merged.attempts == (Attempt("that", "wrong", "too short"), Attempt("this one", "right"))
    ask(talk, "And then?")
    assert talk.shown == (user("Which?"), model("this one"), user("And then?"))  # nothing of the revision


def test_every_revision_is_told_of_the_answer_before_it_and_they_end() -> None:
    talk = conversation()
    ask(talk, "Which?", "a")
    for answer, said in zip("bc", ("not a", None), strict=True):
        assert talk.noted(talk.judge(False, said)) is True
        assert [message.role for message in talk.shown] == ["user", "assistant", "user"]
        assert talk.shown[-1].content.startswith(said or "That answer is wrong.")
        talk.answered(Said(answer, True))
    assert talk.noted(talk.judge(False, None)) is False
    assert talk.phase is Phase.ASKING
    assert PlayConfig().revisions == REVISIONS == 2


def test_a_verdict_may_be_given_after_it_was_skipped_and_only_once() -> None:
    talk = conversation()
    talk.skip()
    with pytest.raises(UsageError, match="no answer waits"):
        talk.judge(True, None)
    ask(talk, "Which?")
    talk.skip()
    assert talk.phase is Phase.ASKING
    note(talk, True)
    with pytest.raises(UsageError, match="judged right already"):
        talk.judge(False, None)


@pytest.mark.parametrize(("text", "ended", "what"), [("and so", False, "cut short"), (" ", True, "empty")])
def test_an_answer_without_an_end_can_only_be_wrong(text: str, ended: bool, what: str) -> None:
    talk = conversation()
    ask(talk, "Which?", text, ended=ended)
    with pytest.raises(UsageError, match=what):
        talk.judge(True, None)
    assert note(talk, False).attempts == (Attempt(text, "wrong"),)


def test_an_answer_that_never_came_leaves_no_trace() -> None:
    talk = conversation()
    ask(talk, "One?", "first")
    talk.ask("Two?")
    talk.answered(None)
    assert talk.phase is Phase.ASKING
    ask(talk, "Three?")
    assert talk.shown == (user("One?"), model("first"), user("Three?"))
    note(talk, False)
    talk.answered(None)
    assert (talk.phase, talk.revision) == (Phase.ASKING, 0)
    ask(talk, "Four?")
    assert talk.shown[-2:] == (model("so"), user("Four?"))


def test_undo_goes_back_to_before_the_verdict() -> None:
    talk = conversation()
    assert talk.last_noted is None
    ask(talk, "Which?", "a")
    wrong = note(talk, False)
    talk.answered(Said("b", True))
    right = note(talk, True)
    assert talk.last_noted == right
    assert talk.undone() is True
    assert (talk.phase, talk.revision, talk.last_noted) == (Phase.JUDGING, 1, wrong)
    assert talk.judge(False, None).attempts[0].completion == "b"
    assert talk.undone() is True
    assert (talk.phase, talk.revision, talk.last_noted) == (Phase.JUDGING, 0, None)
    assert note(talk, True).attempts == (Attempt("a", "right"),)


def test_undo_of_an_older_question_leaves_the_newer_one_alone() -> None:
    talk = conversation()
    ask(talk, "One?", "a")
    note(talk, True)
    ask(talk, "Two?", "b")
    assert talk.undone() is False
    assert talk.phase is Phase.JUDGING
    assert note(talk, True).attempts[0].completion == "b"


def test_the_oldest_turns_give_way_whole_and_stay_away() -> None:
    talk = conversation(most=30, system="sys")
    assert [ask(talk, f"question {i}"[:10], "12345") for i in range(4)] == [0, 0, 1, 1]
    assert talk.shown == (Message("system", "sys"), user("question 2"), model("12345"), user("question 3"))
    note(talk, False)
    talk.answered(Said("1", True))
    assert ask(talk, "q") == 0  # the shorter answer takes the place of the longer


def test_so_many_turns_give_way_that_the_next_ones_fit() -> None:
    talk = conversation(most=30, filled=20)
    assert [ask(talk, "12345", "12345") for _ in range(6)] == [0, 0, 0, 2, 0, 2]
    assert ask(talk, "x" * 25) == 2  # more than that is not needed


def test_a_question_that_is_too_long_changes_nothing() -> None:
    talk = conversation(most=30)
    ask(talk, "short")
    with pytest.raises(UsageError, match="longer than the model can read"):
        talk.ask("x" * 31)
    assert talk.phase is Phase.JUDGING
    assert note(talk, True).prompt == "short"


def test_a_revision_gives_up_turns_before_it_gives_up() -> None:
    talk = conversation(most=70)
    ask(talk, "1" * 20, "2" * 20)
    ask(talk, "3" * 5, "4" * 5)
    entry = note(talk, False, "no")
    assert talk.phase is Phase.REVISING
    assert [message.content[0] for message in talk.shown] == ["3", "4", "n"]
    assert len(entry.conversation) == 3  # the log has all that was shown for the answer
    talk.answered(Said("5" * 30, True))
    note(talk, False, "no")
    assert talk.phase is Phase.ASKING  # no room for another try


def test_a_new_conversation_has_no_turns() -> None:
    talk = conversation()
    ask(talk, "One?")
    note(talk, True)
    talk.renew()
    assert talk.phase is Phase.ASKING
    ask(talk, "Two?")
    assert talk.shown == (user("Two?"),)
    assert talk.undone() is False
