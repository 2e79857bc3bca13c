"""Steps of decoding that are recorded once and replayed: they say what steps say that Python goes through.

No GPU is needed: a tape takes the place of a CUDA graph, and keeps its rules.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import torch

from tests import tape
from tests.learner import stir
from training import attention, memory, stepping
from training.cache import AHEAD, Prefixes
from training.models import LanguageModel
from training.rollout import GREEDY, Sampling, sample
from training.stepping import Work

WARM = Sampling(temperature=0.8, top_p=0.95, seed=5)


@pytest.fixture
def lm(tiny: LanguageModel) -> LanguageModel:
    stir(tiny, scale=0.1)
    return tiny


class Counted:
    """Records, and counts how often that was asked of it, and how often what it gave was replayed."""

    def __init__(self, record: Callable[[Work], Work]) -> None:
        self._record = record
        self.recorded = self.replayed = 0

    def __call__(self, work: Work) -> Work:
        self.recorded += 1
        replay = self._record(work)

        def counted() -> torch.Tensor:
            self.replayed += 1
            return replay()

        return counted


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Work], Work]], Counted]:
    """Has what is given record the steps of models on the CPU, of whom it is not known yet how that goes."""

    def use(record: Callable[[Work], Work]) -> Counted:
        counted = Counted(record)
        monkeypatch.setitem(stepping.RECORDERS, "cpu", counted)
        monkeypatch.setattr(stepping, "_RECORDABLE", WeakKeyDictionary())
        return counted

    return use


def prompts(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.integers(4, 250, length).tolist() for length in lengths]


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_a_step_is_recorded_once_a_batch_and_says_the_same(
    lm: LanguageModel, recording: Callable[..., Counted], sampling: Sampling
) -> None:
    asked, limits = prompts(9, 4, 17, 1), [12, 7, 12, 9]
    plainly = sample(lm, asked, limits, sampling, batch=4)
    longest = max(len(found.tokens) + found.ended for found in plainly)
    found = recording(tape.record)
    assert sample(lm, asked, limits, sampling, batch=4) == plainly
    assert longest > 8
    assert (found.recorded, found.replayed) == (1, longest - 2)  # the prompt says one, a step done in Python one


def test_sequences_that_end_are_replayed_with_the_others_until_few_are_left(
    lm: LanguageModel, recording: Callable[..., Counted]
) -> None:
    asked, limits = prompts(9, 4, 17, 1, 5, 8, 3, 2), [40, 40, 5, 5, 5, 4, 3, 2]
    plainly = sample(lm, asked, limits, WARM, batch=8)
    assert min(len(found.tokens) for found in plainly[:2]) > 20
    found = recording(tape.record)
    assert sample(lm, asked, limits, WARM, batch=8) == plainly
    assert found.recorded == 2
    assert found.replayed > 30


def test_an_answer_that_outgrows_its_columns_is_recorded_anew(
    lm: LanguageModel, recording: Callable[..., Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, limit = prompts(9, 4), 3 * AHEAD
    plainly = sample(lm, asked, [limit] * 2, GREEDY, batch=2)
    assert max(len(found.tokens) for found in plainly) == limit
    monkeypatch.setattr(stepping, "_RECORDED_AHEAD", AHEAD)
    found = recording(tape.record)
    assert sample(lm, asked, [limit] * 2, GREEDY, batch=2) == plainly
    assert (found.recorded, found.replayed) == (3, limit - 1 - 3)


def test_what_recording_leaves_behind_counts_as_resident_with_a_model(
    lm: LanguageModel, recording: Callable[..., Counted]
) -> None:
    found = recording(tape.record)
    memory.settle(lm, memory.gauge("cpu"))
    assert (found.recorded, found.replayed) == (1, 1)


def test_a_conversation_goes_on_from_keys_that_were_replayed(
    lm: LanguageModel, recording: Callable[..., Counted]
) -> None:
    def talk() -> list[tuple[int, ...]]:
        said, so_far, prefixes = [], prompts(11)[0], Prefixes(newest_only=True)
        for more in prompts(5, 3, 6):
            so_far = [*so_far, *more]
            answer = sample(lm, [so_far], [9], GREEDY, batch=1, prefixes=prefixes)[0]
            prefixes.go_on(answer.tokens)
            so_far, said = [*so_far, *answer.tokens], [*said, answer.tokens]
        return said

    plainly = talk()
    found = recording(tape.record)
    assert talk() == plainly
    assert found.recorded == 3
    assert found.replayed > 10


def test_what_asks_for_data_is_said_once_and_done_all_the_same_and_nobody_tries_to_record_it(
    lm: LanguageModel,
    recording: Callable[..., Counted],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plainly = sample(lm, prompts(9, 4), [12] * 2, GREEDY, batch=1)
    run = attention.run

    def asks(*args: object) -> torch.Tensor:
        states = run(*args)  # type: ignore[arg-type]
        assert float(states.sum()) == float(states.sum())
        return states

    monkeypatch.setattr(attention, "run", asks)
    found = recording(tape.record)
    assert sample(lm, prompts(9, 4), [12] * 2, GREEDY, batch=1) == plainly
    assert (found.recorded, found.replayed) == (0, 0)
    assert caplog.text.count("not recorded") == 1


def failing(first: Exception) -> Callable[[Work], Work]:
    """Fails as a CUDA graph does: ending a recording that went wrong goes wrong too."""

    def record(work: Work) -> Work:
        try:
            raise first
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    return record


def test_a_recording_that_fails_is_tried_once_and_the_reason_is_said(
    lm: LanguageModel, recording: Callable[..., Counted], caplog: pytest.LogCaptureFixture
) -> None:
    plainly = sample(lm, prompts(9, 4), [12] * 2, GREEDY, batch=1)
    found = recording(failing(RuntimeError("CUDA error: what it was")))
    assert sample(lm, prompts(9, 4), [12] * 2, GREEDY, batch=1) == plainly
    assert found.recorded == 1
    assert caplog.text.count("not recorded") == 1
    assert "what it was" in caplog.text


@torch.no_grad()
def test_a_step_that_gives_its_device_something_is_seen() -> None:
    """The meta device stands for one: what it is given, it is given by Python."""
    for gives in (
        lambda: torch.zeros(2, device="meta").copy_(torch.zeros(2)),
        lambda: torch.zeros(2).to("meta"),
        lambda: torch.tensor([1, 2]),
        lambda: torch.zeros(2).sum().item(),
    ):
        with stepping.Watch() as watch:
            gives()
        assert watch.refused is not None
    with stepping.Watch() as watch:
        torch.zeros(2, device="meta").copy_(torch.ones(2, device="meta")).to(torch.bfloat16)
    assert watch.refused is None


def test_where_recording_runs_out_of_memory_fewer_are_decoded_at_once(
    lm: LanguageModel, recording: Callable[..., Counted], caplog: pytest.LogCaptureFixture
) -> None:
    asked = prompts(5, 8, 3, 12)
    plainly = sample(lm, asked, [6] * 4, WARM, batch=4)

    def refuse(work: Work) -> Work:
        if len(work.__self__._tokens) > 2:  # type: ignore[attr-defined]
            return failing(torch.OutOfMemoryError("no room"))(work)
        return tape.record(work)

    found = recording(refuse)
    assert sample(lm, asked, [6] * 4, WARM, batch=4) == plainly
    assert "2 sequences at once" in caplog.text
    assert "not recorded" not in caplog.text
    assert (found.recorded, found.replayed > 0) == (3, True)


def test_a_tape_keeps_the_rules_of_a_recording() -> None:
    """What the tests above rely on: nothing is done while it records, and data that Python asks for is refused."""
    counter, doubled = torch.zeros(2), torch.zeros(2)

    def work() -> torch.Tensor:
        counter.add_(1)
        doubled.copy_(counter * 2)
        return counter + doubled

    replay = tape.record(work)
    assert counter.tolist() == doubled.tolist() == [0, 0]
    assert replay().tolist() == [3, 3]
    assert replay().tolist() == [6, 6]
    for asks in (lambda: counter + counter.max().item(), lambda: counter + torch.tensor([1.0, 2.0])):
        with pytest.raises(RuntimeError, match="capturing"):
            tape.record(asks)
