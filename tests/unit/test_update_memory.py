"""What an update computes at once, and that its gradient is the same however that is divided."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.learner import load_tiny, mlp_rows, on_head, stir, trace
from tests.updating import ONE_STEP, assert_same, learn, mixed, passes, published
from training import lora
from training.attention import ROUNDED_TO
from training.models import LanguageModel
from training.update import LOGITS_ROWS, UpdateConfig, completion_states, logits_rows, update


@pytest.fixture
def lm(tiny: LanguageModel) -> LanguageModel:
    """With an adapter that is not the start: there, the gradient of A is 0."""
    stir(tiny, scale=0.05)
    return tiny


@pytest.fixture
def exact_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of tokens are not filled up."""
    monkeypatch.setattr("training.attention.ROUNDED_TO", 1)


@pytest.mark.usefixtures("exact_lengths")
def test_memory_follows_micro_batch_and_the_gradient_does_not(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = mixed(prompt_tokens=150)
    gradients, sizes = [], []
    for micro_batch in (1, 4, 64):
        config = replace(ONE_STEP, micro_batch=micro_batch)
        counts = passes(lm, lambda config=config: gradients.append(learn(lm, traces, config, monkeypatch)[1][0]))
        sizes.append(max(counts))
        assert max(counts) <= max(128 * micro_batch, *(item.length for item in traces))
        assert sum(counts) == sum(item.length for item in traces)
    assert sizes[0] < sizes[1] < sizes[2]
    for gradient in gradients[:2]:
        assert_same(gradient, gradients[2])


def test_a_trace_drawn_again_is_computed_once_and_counts_as_often(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    wins = mixed()[:2]
    counts = passes(lm, lambda: learn(lm, wins, replace(ONE_STEP, batch=6), monkeypatch))
    assert sum(counts) == sum(item.length for item in wins)
    multiple = learn(lm, wins, replace(ONE_STEP, batch=6), monkeypatch)
    repeated = learn(lm, [*wins, *wins, *wins], replace(ONE_STEP, batch=6), monkeypatch)
    assert multiple[0].loss_win == pytest.approx(repeated[0].loss_win, rel=1e-5)
    assert_same(multiple[1][0], repeated[1][0])


def test_logits_are_computed_for_completion_tokens_only(lm: LanguageModel) -> None:
    seen: list[torch.Size] = []
    handle = lm.causal.get_output_embeddings().register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape))
    update(lm, mixed(), UpdateConfig(steps=1, micro_batch=64))
    handle.remove()
    assert sum(shape[:-1].numel() for shape in seen) == sum(len(item.completion) for item in mixed())


@pytest.mark.usefixtures("exact_lengths")
def test_a_prompt_that_a_win_and_losses_share_is_computed_once_and_their_gradient_is_the_same(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tuple(range(10, 40))
    traces = [
        replace(trace(seed, win=seed < 2), prompt=asked if seed % 2 else (*asked[:20], 70 + seed)) for seed in range(6)
    ]
    config = replace(ONE_STEP, batch=4, micro_batch=64)
    counts = passes(lm, lambda: learn(lm, traces, config, monkeypatch))
    assert counts == [20 + 10 + 3 + sum(len(item.completion) for item in traces)]
    _, (shared,) = learn(lm, traces, config, monkeypatch)
    assert_same(shared, published(lm, traces, config)[2])


@pytest.mark.usefixtures("exact_lengths")
def test_prompts_that_begin_alike_come_into_one_pass_whatever_their_lengths(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = tuple(range(10, 60)), tuple(range(100, 150))
    traces = [
        replace(trace(number), prompt=(*begin, *(200 + number,) * (1 + 4 * number)))
        for begin, numbers in ((ours, (0, 2, 4)), (theirs, (1, 3, 5)))
        for number in numbers
    ]
    own = sum(item.length - 50 for item in traces)
    counts = passes(lm, lambda: learn(lm, traces, replace(ONE_STEP, micro_batch=1), monkeypatch))
    assert len(counts) == 2
    assert sum(counts) == 2 * 50 + own


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_last_layer_goes_on_with_the_asked_tokens_alone_and_their_gradient_is_the_same(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, checkpointing: bool
) -> None:
    lm = load_tiny(tiny_folder, checkpointing=checkpointing)
    stir(lm)
    traces = mixed(prompt_tokens=150)
    asked = sum(len(item.completion) for item in traces)
    rows = mlp_rows(lm)
    narrow = learn(lm, traces, replace(ONE_STEP, micro_batch=64), monkeypatch)[1][0]
    assert asked <= rows[1][0] < asked + ROUNDED_TO < rows[0][0]
    last = lm.causal.base_model.layers[-1]
    last.forward = last.forward.whole
    whole = learn(lm, traces, replace(ONE_STEP, micro_batch=64), monkeypatch)[1][0]
    assert rows[1][-1] == rows[0][-1] > asked + ROUNDED_TO
    assert_same(narrow, whole)


def test_a_completion_without_a_token_has_no_states(lm: LanguageModel) -> None:
    assert completion_states(lm, [((5, 6), ())]).shape == (0, lm.causal.config.hidden_size)
    assert update(lm, [trace(1), trace(2, completion_tokens=0)], UpdateConfig(steps=1, micro_batch=1)).steps == 1


def test_logits_over_the_vocabulary_exist_for_a_few_positions_at_a_time(lm: LanguageModel) -> None:
    seen: list[int] = []
    handle = on_head(lm, lambda logits: seen.append(logits.shape[0]))
    long = [trace(seed, completion_tokens=LOGITS_ROWS - 10) for seed in range(3)]
    update(lm, long, UpdateConfig(steps=1, micro_batch=64))
    handle.remove()
    assert seen == [LOGITS_ROWS, LOGITS_ROWS, LOGITS_ROWS - 30]


def test_small_passes_have_logits_for_fewer_positions(lm: LanguageModel) -> None:
    assert [logits_rows(micro_batch) for micro_batch in (1, 2, 4, 64)] == [8, 16, LOGITS_ROWS, LOGITS_ROWS]
    seen: list[int] = []
    handle = on_head(lm, lambda logits: seen.append(logits.shape[0]))
    update(lm, [trace(1, completion_tokens=20)], UpdateConfig(steps=1, micro_batch=1))
    handle.remove()
    assert seen == [8, 8, 4]


def test_states_of_completions_give_the_logits_of_the_whole(lm: LanguageModel) -> None:
    pairs = [((5, 6, 7), (8, 9)), ((5, 6, 7), (8, 11, 12)), ((5,), (6,)), ((90, 91), (92, 93, 94))]
    with torch.inference_mode():
        found = lm.head(completion_states(lm, pairs))
        wanted = [
            lm.causal(input_ids=torch.tensor([(*prompt, *completion)])).logits[0, len(prompt) - 1 : -1]
            for prompt, completion in pairs
        ]
    torch.testing.assert_close(found, torch.cat(wanted))


def test_filling_up_a_row_of_tokens_changes_no_gradient(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(ONE_STEP, batch=4, micro_batch=64)
    plain = learn(lm, mixed(), config, monkeypatch)[1][0]
    monkeypatch.setattr("training.attention.ROUNDED_TO", 50)
    counts = passes(lm, lambda: learn(lm, mixed(), config, monkeypatch))
    assert counts[0] % 50 == 0
    assert_same(learn(lm, mixed(), config, monkeypatch)[1][0], plain)


@pytest.mark.usefixtures("exact_lengths")
@pytest.mark.parametrize("least", [1, 2])
def test_where_memory_runs_out_the_step_is_done_again_with_less_at_once(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, least: int
) -> None:
    traces = mixed(prompt_tokens=150)
    expected = learn(lm, traces, replace(ONE_STEP, micro_batch=8), monkeypatch)[1][0]
    embed, most = lm.causal.get_input_embeddings(), least * max(item.length for item in traces)

    def refuse(_module: object, args: tuple[torch.Tensor, ...]) -> None:
        if args[0].numel() > most:
            raise torch.OutOfMemoryError("no room")

    handle = embed.register_forward_pre_hook(refuse)
    counts = passes(lm, lambda: learn(lm, traces, replace(ONE_STEP, micro_batch=8), monkeypatch))
    found = learn(lm, traces, replace(ONE_STEP, micro_batch=8), monkeypatch)[1][0]
    handle.remove()
    assert max(counts) <= most
    assert_same(found, expected)


def test_where_memory_runs_out_for_a_single_trace_the_error_gets_out(lm: LanguageModel) -> None:
    def refuse(_module: object, _args: object) -> None:
        raise torch.OutOfMemoryError("no room")

    handle = lm.causal.get_input_embeddings().register_forward_pre_hook(refuse)
    with pytest.raises(torch.OutOfMemoryError):
        update(lm, mixed(), UpdateConfig(steps=1))
    handle.remove()


def test_computing_activations_again_gives_the_same_gradient(
    lm: LanguageModel, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sparing = load_tiny(tiny_folder, checkpointing=True)
    lora.set_adapter(sparing.network, lora.get_adapter(lm.network))
    recomputed: list[int] = []
    handle = sparing.causal.model.layers[0].self_attn.register_forward_hook(lambda *_: recomputed.append(1))
    report, (gradient,) = learn(sparing, mixed(), ONE_STEP, monkeypatch)
    handle.remove()
    assert len(recomputed) == 2
    expected, (other,) = learn(lm, mixed(), ONE_STEP, monkeypatch)
    assert report.loss_win == pytest.approx(expected.loss_win, rel=1e-5)
    assert_same(gradient, other)
