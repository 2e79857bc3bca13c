"""What memory a model is expected to take, what a budget makes of a profile, and what is measured."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import profiles
from profiles import ProfileError
from tests.learner import entry
from training import memory
from training.feedback import Attempt
from training.memory import Demand, Lengths, fit, halved, halves
from training.models import LanguageModel
from training.update import logits_rows

MB = 10**6
DEMAND = Demand(
    fixed=400 * MB, optimised=100 * MB,
    trained=600_000, between=30_000, in_a_layer=30_000, cached=25_000, read=20_000, scores=200_000,
)  # fmt: skip
LENGTHS = Lengths(prompt=64, completion=64)
CPU = dataclasses.replace(profiles.load("cpu"), micro_batch=8)


def test_memory_grows_with_batches_and_shrinks_with_checkpointing() -> None:
    learning = [DEMAND.learning(n, LENGTHS, checkpointing=False) for n in (1, 2, 4)]
    assert learning == sorted(set(learning))
    assert DEMAND.learning(4, LENGTHS, checkpointing=True) < learning[-1]
    playing = [DEMAND.playing(n, LENGTHS) for n in (1, 2, 4)]
    assert playing == sorted(set(playing))
    assert DEMAND.fixed < min(*learning, *playing)


def test_a_trace_that_is_longer_than_a_pass_counts_whole() -> None:
    long = Lengths(prompt=900, completion=100)
    assert DEMAND.learning(4, long, checkpointing=False) == DEMAND.learning(7, long, checkpointing=False)
    assert DEMAND.learning(1, long, checkpointing=False) > DEMAND.learning(7, LENGTHS, checkpointing=False)


def test_scores_and_a_layer_that_is_computed_again_are_never_there_together() -> None:
    large = dataclasses.replace(DEMAND, scores=1_000_000)
    few = large.learning(1, LENGTHS, checkpointing=True)
    assert few == large.fixed + large.optimised + int(
        memory.HEADROOM * (128 * large.between + logits_rows(1) * large.scores)
    )
    many = DEMAND.learning(64, LENGTHS, checkpointing=True)
    assert many == DEMAND.fixed + DEMAND.optimised + int(
        memory.HEADROOM * 64 * 128 * (DEMAND.between + DEMAND.in_a_layer)
    )


def test_a_budget_with_room_leaves_a_profile_as_it_is() -> None:
    assert fit(CPU, DEMAND, LENGTHS, 100_000 * MB) == CPU


def test_a_smaller_budget_makes_batches_smaller_before_it_turns_checkpointing_on() -> None:
    fitted = [fit(CPU, DEMAND, LENGTHS, budget * MB) for budget in (2000, 950, 730, 590)]
    for larger, smaller in pairwise([CPU, *fitted]):
        assert smaller.rollout_batch <= larger.rollout_batch
    assert [(one.micro_batch, one.checkpointing) for one in fitted] == [(8, False), (4, False), (2, False), (8, True)]


@given(budget=st.integers(1, 3000), micro=st.integers(1, 64), rollout=st.integers(1, 256), again=st.booleans())
def test_what_was_made_to_fit_is_expected_to_fit_and_no_size_is_larger(
    budget: int, micro: int, rollout: int, again: bool
) -> None:
    wanted = dataclasses.replace(CPU, micro_batch=micro, rollout_batch=rollout, checkpointing=again)
    smallest = dataclasses.replace(CPU, micro_batch=1, rollout_batch=1, checkpointing=True)
    try:
        found = fit(wanted, DEMAND, LENGTHS, budget * MB)
    except ProfileError:
        assert DEMAND.of(smallest, LENGTHS) > budget * MB
        return
    assert DEMAND.of(found, LENGTHS) <= budget * MB
    assert (found.micro_batch <= micro, found.rollout_batch <= rollout) == (True, True)
    assert found.checkpointing or not again


@pytest.mark.parametrize("loaded", [0, 800 * MB])
def test_a_budget_that_nothing_fits_names_the_least_that_would_do(loaded: int) -> None:
    with pytest.raises(ProfileError, match="a memory budget of 400MB is too small") as caught:
        fit(CPU, DEMAND, LENGTHS, 400 * MB, loaded=loaded)
    assert caught.value.hint is not None
    enough = int(caught.value.hint.partition("--memory-budget ")[2].partition("MB")[0])
    assert f"at least {enough}MB" in caught.value.message
    assert loaded <= enough * MB
    fitted = fit(CPU, DEMAND, LENGTHS, enough * MB, loaded=loaded)
    assert DEMAND.of(fitted, LENGTHS) <= enough * MB
    if not loaded:
        smallest = dataclasses.replace(CPU, micro_batch=1, rollout_batch=1, checkpointing=True)
        assert enough * MB < 1.03 * DEMAND.of(smallest, LENGTHS)


def test_a_budget_that_loading_was_over_cannot_be_kept() -> None:
    with pytest.raises(ProfileError, match="too small"):
        fit(CPU, DEMAND, LENGTHS, 2000 * MB, loaded=2001 * MB)


def test_where_nothing_is_learned_only_playing_counts() -> None:
    budget = DEMAND.playing(CPU.rollout_batch, LENGTHS)
    assert fit(CPU, DEMAND, LENGTHS, budget, learns=False) == CPU
    assert fit(CPU, DEMAND, LENGTHS, budget).micro_batch < CPU.micro_batch


def test_halving_ends_at_one_and_then_turns_checkpointing_on() -> None:
    assert list(halves(12)) == [12, 6, 3, 1]
    profile = dataclasses.replace(CPU, micro_batch=3, rollout_batch=4)
    seen = []
    for _ in range(4):
        profile = halved(profile)
        seen.append((profile.micro_batch, profile.rollout_batch, profile.checkpointing))
    assert seen == [(1, 2, False), (1, 1, False), (1, 1, True), (1, 1, True)]


# Of a real model


def test_a_models_demand_is_made_of_its_own_shapes(tiny_chat: LanguageModel) -> None:
    found = memory.demand(tiny_chat, 1000)
    # Two layers of width 32, 64 in the middle, 4 heads of 8 and 2 for keys, in float32; rank 4.
    layer = 2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64)
    assert found.trained == 4 * 2 * (layer + 2 * 32)
    assert found.between == 4 * 2 * 2 * 32
    assert found.in_a_layer == 4 * 3 * (layer + 2 * 32)
    assert found.read == 4 * layer
    assert found.cached == 3 * 4 * 2 * 2 * 8
    assert (found.fixed, found.optimised) == (1000 + int(1.2 * 230 * found.trained), 3 * 4 * 4 * 2 * layer)


def test_the_longest_of_a_log_counts_with_room_for_an_answer_and_a_revision(tiny_chat: LanguageModel) -> None:
    profile = dataclasses.replace(CPU, new_tokens=16, max_sequence=512)
    short, long = entry(id="a", prompt="Why?"), entry(id="b", prompt="Why? " * 40)
    said = entry(id="c", prompt="Why?", attempts=(Attempt(completion="Because. " * 30, verdict="right"),))
    lengths = [memory.longest(tiny_chat, profile, entries) for entries in ([short], [short, long], [said, short])]
    assert all(one.completion == 16 for one in lengths)
    assert lengths[0].prompt < min(lengths[1].prompt, lengths[2].prompt)
    assert lengths[1].prompt >= len(tiny_chat.encode_text("Why? " * 40)) + 16
    endless = memory.longest(tiny_chat, profile, [entry(prompt="Why? " * 5000)])
    assert endless.sequence == tiny_chat.max_sequence_tokens


def test_an_empty_log_counts_as_prompts_of_usual_length(tiny_chat: LanguageModel) -> None:
    assert memory.longest(tiny_chat, CPU, []).prompt > memory.TRACE_TOKENS


# The gauge


def test_the_gauge_sees_memory_that_is_taken_and_given_back() -> None:
    gauge = memory.gauge("cpu")
    gauge.restart()
    before, block = gauge.used(), bytearray(200 * MB)
    block[:: 2**12] = b"x" * len(block[:: 2**12])
    assert gauge.used() - before > 150 * MB
    assert gauge.peak() >= gauge.used() - MB
    del block
    assert gauge.peak() - before > 150 * MB  # a peak stays
    memory.trim()
    assert gauge.used() - before < 100 * MB


@pytest.mark.skipif(not memory._STATUS.exists(), reason="only Linux measures a peak anew")
def test_a_restart_measures_the_peak_anew() -> None:
    gauge = memory.gauge("cpu")
    block = bytearray(200 * MB)
    block[:: 2**12] = b"x" * len(block[:: 2**12])
    high = gauge.peak()
    del block
    gauge.restart()
    assert gauge.peak() < high - 100 * MB


def test_settling_reads_the_model_and_says_what_is_resident(tiny: LanguageModel) -> None:
    gauge = memory.gauge("cpu")
    used = memory.settle(tiny, gauge)
    assert 0 < used <= gauge.peak()


def test_checkpointing_can_be_turned_on_and_off(tiny: LanguageModel) -> None:
    for on in (True, False):
        memory.recompute(tiny, on)
        assert tiny.causal.is_gradient_checkpointing is on
