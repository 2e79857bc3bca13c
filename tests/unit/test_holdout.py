"""The slice that judges updates: which entries are in it, how they score, and when an update loses."""

from __future__ import annotations

import numpy as np
import pytest

from training.checks import Regex
from training.feedback import Attempt, Entry
from training.holdout import MOST_ENTRIES, HoldOut, is_held_out, randomisation
from training.models import LanguageModel
from training.score import log_probabilities

SHARE = 0.3


def judged(number: int, verdict: str) -> Entry:
    return Entry(v=1, id=f"j{number}", prompt=f"Is it so, {number}?", attempts=(Attempt("yes", verdict),))  # type: ignore[arg-type]


def asked(number: int, expect: str = "(?s).*") -> Entry:
    return Entry(v=1, id=f"a{number}", prompt=f"Say something, {number}.", check=Regex(expect))


def hold_out(entries: list[Entry], most_drop: float = 0.05, share: float = 1.0) -> HoldOut:
    return HoldOut.of(entries, share, most_drop=most_drop, most_new_tokens=4, batch=4)


def test_the_slice_is_about_the_share_and_the_same_for_all_that_is_said_of_a_prompt() -> None:
    entries = [judged(number, "right") for number in range(2000)]
    held = [is_held_out(one, SHARE) for one in entries]
    assert 0.25 < np.mean(held) < 0.35
    others = [Entry(v=1, id=f"other{number}", prompt=one.prompt, hint="h") for number, one in enumerate(entries)]
    assert [is_held_out(one, SHARE) for one in others] == held
    assert not any(is_held_out(one, 0.0) for one in entries)
    wider = [is_held_out(one, 2 * SHARE) for one in entries]
    assert all(more for more, less in zip(wider, held, strict=True) if less)


def test_what_cannot_be_scored_is_left_out_and_a_long_slice_is_cut() -> None:
    silent = Entry(v=1, id="s", prompt="?", attempts=(Attempt("yes", None),))
    disputed = [Entry(v=1, id=f"d{v}", prompt="So?", attempts=(Attempt("yes", v),)) for v in ("right", "wrong")]  # type: ignore[arg-type]
    assert (
        hold_out([silent, *disputed, judged(1, "wrong"), asked(1)]).entries
        == hold_out([judged(1, "wrong"), asked(1)]).entries
    )
    many = [asked(number) for number in range(MOST_ENTRIES * 2)]
    assert len(hold_out(many).entries) == MOST_ENTRIES
    assert hold_out(many).entries == hold_out(many[::-1]).entries


def test_scores_are_right_answers_and_belief_in_what_people_said(tiny_chat: LanguageModel) -> None:
    entries = [asked(1), asked(2, "never this"), judged(3, "right"), judged(4, "wrong")]
    passed, failed, believed, doubted = hold_out(entries).scores(tiny_chat)[
        [hold_out(entries).entries.index(entry) for entry in entries]
    ]
    assert (passed, failed) == (1.0, 0.0)
    answer = (*tiny_chat.encode_text("yes"), tiny_chat.eos_id)
    pairs = [(tiny_chat.encode_prompt(entry.conversation), answer) for entry in entries[2:]]
    of_right, of_wrong = [np.exp(np.mean(scores)) for scores in log_probabilities(tiny_chat, pairs, batch=1)]
    assert believed == pytest.approx(of_right, rel=1e-4)
    assert doubted == pytest.approx(1 - of_wrong, rel=1e-4)


def test_an_update_loses_only_where_chance_does_not_explain_it() -> None:
    slice_ = HoldOut(tuple(asked(number) for number in range(40)), 0.05, 4, 4)
    before = np.ones(40)
    for wrong, loses in ((0, False), (2, False), (4, False), (10, True), (40, True)):
        after = np.ones(40)
        after[:wrong] = 0
        judgement = slice_.judge(before, after)
        assert judgement.drop == pytest.approx(wrong / 40)
        assert (judgement.reason is not None) == loses, judgement
    assert slice_.judge(after, before).drop == -1
    assert slice_.judge(after, before).reason is None
    reason = slice_.judge(before, after).reason
    assert reason is not None
    assert "fell by 1.00" in reason


def test_few_entries_never_decide_and_none_is_no_judgement() -> None:
    few = HoldOut(tuple(asked(number) for number in range(4)), 0.0, 4, 4)
    assert few.judge(np.ones(4), np.zeros(4)).reason is None
    five = HoldOut(tuple(asked(number) for number in range(5)), 0.0, 4, 4)
    assert five.judge(np.ones(5), np.zeros(5)).reason is not None
    assert HoldOut((), 0.0, 4, 4).judge(np.zeros(0), np.zeros(0)).entries == 0


def test_the_randomisation_test_is_exact_where_it_is_small_and_close_where_it_is_drawn() -> None:
    assert randomisation(np.array([1.0, 1.0, 1.0])) == 1 / 8
    assert randomisation(np.array([1.0, -1.0])) == 3 / 4
    assert randomisation(np.zeros(6)) == 1.0
    differences = np.random.default_rng(1).normal(0.3, 1.0, size=14)
    patterns = 1 - 2 * ((np.arange(2**14)[:, None] >> np.arange(14)) & 1)
    exact = float(((patterns * differences).mean(axis=1) >= differences.mean() - 1e-12).mean())
    assert randomisation(differences) == pytest.approx(exact, abs=0.02)


def test_a_fair_coin_is_called_a_loss_about_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    slice_ = HoldOut(tuple(asked(number) for number in range(30)), 0.0, 4, 4)
    lost = [slice_.judge(*rng.integers(0, 2, size=(2, 30)).astype(float)).reason is not None for _ in range(300)]
    assert 0.005 < np.mean(lost) < 0.1
