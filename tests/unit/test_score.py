"""How likely completions are: in passes that are bounded, and halved where memory runs out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.learner import entry, load_tiny, log_probability, stir, trace
from training import evaluate, score
from training.checks import Regex
from training.holdout import HoldOut
from training.models import LanguageModel
from training.score import log_probabilities

Pairs = list[tuple[tuple[int, ...], tuple[int, ...]]]


@pytest.fixture
def lm(tiny: LanguageModel) -> LanguageModel:
    stir(tiny, scale=0.1)
    return tiny


def pairs(count: int = 9) -> Pairs:
    traces = [trace(seed, prompt_tokens=20 + 7 * seed) for seed in range(count)]
    return [(one.prompt, one.completion) for one in traces]


def passes(monkeypatch: pytest.MonkeyPatch, *, room: int = 1000) -> list[list[int]]:
    """How long the sequences of each pass are; where there are more than there is room for, memory runs out."""
    seen: list[list[int]] = []
    states = score.completion_states

    def look(lm: LanguageModel, asked: Sequence[Any]) -> torch.Tensor:
        if len(asked) > room:
            raise torch.OutOfMemoryError("no room")
        seen.append([len(prompt) + len(completion) for prompt, completion in asked])
        return states(lm, asked)

    monkeypatch.setattr(score, "completion_states", look)
    return seen


@pytest.mark.parametrize(("batch", "room"), [(9, 1000), (4, 1000), (9, 2)])
def test_scores_are_those_of_each_by_itself(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, batch: int, room: int
) -> None:
    seen = passes(monkeypatch, room=room)
    found = log_probabilities(lm, pairs(), batch=batch)
    assert sum(map(len, seen)) == 9
    assert max(map(len, seen)) == min(batch, room)
    wanted = [log_probability(lm, trace(seed, prompt_tokens=20 + 7 * seed)) for seed in range(9)]
    assert [float(scores.sum()) for scores in found] == pytest.approx(wanted, rel=1e-4)


def test_a_pass_has_no_more_tokens_than_prompts_are_read_by(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "READ_TOKENS", 100)
    seen = passes(monkeypatch)
    log_probabilities(lm, pairs(), batch=9)
    assert len(seen) > 3
    assert all(sum(lengths) <= 100 or len(lengths) == 1 for lengths in seen)


def test_of_nothing_nothing_is_likely(lm: LanguageModel) -> None:
    scores = log_probabilities(lm, [((5, 6), ()), ((7,), ())], batch=1)
    assert [one.tolist() for one in scores] == [[], []]
    assert log_probabilities(lm, [], batch=4) == []
    assert [len(one) for one in log_probabilities(lm, [((5, 6), ()), ((7,), (8,))], batch=2)] == [0, 1]


def test_a_question_has_room_beside_the_longest_answer(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, asked = load_tiny(tiny_folder, max_sequence=64), entry(Regex("a+"), prompt="Which one? " * 20)
    assert asked.check.new_tokens > lm.max_sequence_tokens
    sample, seen = evaluate.sample, []
    monkeypatch.setattr(
        evaluate,
        "sample",
        lambda lm, prompts, limits, *rest, **more: (
            seen.append(([*map(len, prompts)], limits)) or sample(lm, prompts, limits, *rest, **more)
        ),
    )
    assert len(evaluate.evaluate(lm, [asked], batch=1, most_new_tokens=512).answers) == 1
    assert len(HoldOut((asked,), 0.1, 512, 1).scores(lm)) == 1
    assert seen == [([32], [32])] * 2
