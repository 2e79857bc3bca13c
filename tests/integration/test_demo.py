"""The demo's questions: fair, checkable, and never the same ones to learn from and to be asked."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from spearctl import rehearsal
from spearctl.commands.demo import TEST_QUESTIONS, TRAIN_QUESTIONS
from spearctl.options import GlobalOptions
from spearctl.questions import demo_log
from spearctl.run import Run
from tests.cli import Cli
from training.checks import Verdict, contains
from training.feedback import Entry
from training.log import append, read_log


def questions(seed: int = 0) -> tuple[list[Entry], list[Entry]]:
    return demo_log(train=TRAIN_QUESTIONS, test=TEST_QUESTIONS, seed=seed)


def everything() -> list[Entry]:
    train, test = demo_log(train=10_000, test=0, seed=0)
    assert test == []
    return train


def answer(entry: Entry) -> str:
    assert entry.check is not None
    return str(entry.check.expect)


@pytest.mark.parametrize("seed", range(5))
def test_there_are_enough_and_none_is_in_both(seed: int) -> None:
    train, test = questions(seed)
    assert len(test) == TEST_QUESTIONS
    assert 190 <= len(train) <= TRAIN_QUESTIONS
    assert len({entry.id for entry in train + test}) == len(train) + len(test)
    assert len({entry.prompt_key for entry in train + test}) == len(train) + len(test)


def test_the_seed_alone_decides() -> None:
    assert questions(3) == questions(3)
    assert questions(3) != questions(4)


def test_every_kind_of_question_is_in_both_parts() -> None:
    def kinds(entries: list[Entry]) -> set[str]:
        return {" ".join(str(entry.prompt).split()[:4]) for entry in entries}

    train, test = questions()
    assert kinds(train) == kinds(test)
    assert len(kinds(test)) >= 6


def test_every_question_asks_for_one_word_and_its_own_answer_is_right() -> None:
    for entry in everything():
        assert entry.check is not None
        assert str(entry.prompt).endswith("? Answer with one word only.")
        for said in (answer(entry), f"{answer(entry)}\n", f" {answer(entry).upper()}."):
            assert entry.check.judge(said).verdict is Verdict.RIGHT, (entry.prompt, said)
            assert contains(entry.check, said)
        assert entry.check.judge(f"The answer is {answer(entry)}, I think.").verdict is Verdict.UNFORMATTED
        assert entry.check.judge("something").verdict is Verdict.WRONG


def test_no_question_holds_its_answer_but_those_that_offer_two_to_choose_from() -> None:
    for entry in everything():
        asked = re.findall(r"\w+", str(entry.prompt).removesuffix(" Answer with one word only.").casefold())
        if "larger" in asked:
            low, high = sorted(map(int, re.findall(r"\d+", str(entry.prompt))))
            assert low < high == int(answer(entry))
        else:
            assert answer(entry).casefold() not in asked, entry.prompt


def test_no_hint_holds_the_answer() -> None:
    """A word spelled out holds its first and last letter, as the question itself does: all of them, none marked."""
    for entry in everything():
        assert entry.hint is not None
        words = re.findall(r"\w+", entry.hint.casefold())
        if len(answer(entry)) == 1:
            (spelled,) = re.findall(r"the word (\w+)\?", str(entry.prompt))
            assert words == ["spell", "it", *spelled]
            assert answer(entry) in {spelled[0], spelled[-1]}
        else:
            assert answer(entry).casefold() not in words, entry.hint


def test_no_constant_answer_gets_far() -> None:
    _, test = questions()
    assert Counter(answer(entry).casefold() for entry in test).most_common(1)[0][1] <= 0.1 * len(test)


def test_the_questions_are_a_feedback_log_like_any_other(cli: Cli) -> None:
    train, _ = questions()
    cli.make_home()
    append(cli.home.feedback_path, train)
    assert read_log(cli.home.feedback_path).entries == tuple(train)
    assert cli("feedback", "check").code == 0


@pytest.mark.model
def test_what_the_demo_is_told_counts_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEARCTL_PROFILE", "phone")
    monkeypatch.setenv("SPEARCTL_SEED", "7")
    device = rehearsal._device(Run("demo", GlobalOptions()), "anna", "cpu", 3, tmp_path / "anna")
    assert (device.config.profile, device.config.seed) == ("cpu", 3)
