"""One SPEAR update: the loss it follows, what does not change it, and what it never does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.learner import load_tiny, log_probability, on_head, stir, trace
from training import lora
from training.adapters import adapter_digest
from training.errors import Interrupted
from training.losses import likelihood_loss, unlikelihood_loss
from training.models import LanguageModel
from training.traces import Trace
from training.update import LOGITS_ROWS, UpdateConfig, UpdateReport, completion_states, update

ONE_STEP = UpdateConfig(steps=1, batch=16, clip=1e9)


def mixed(*, prompt_tokens: int = 12) -> list[Trace]:
    """Wins and losses of different lengths, weights and windows."""
    wins = [trace(seed, prompt_tokens=prompt_tokens + 9 * seed, completion_tokens=3 + seed) for seed in range(4)]
    losses = [
        trace(10, win=False, prompt_tokens=prompt_tokens, completion_tokens=9, weight=0.5, tail_tokens=4),
        trace(11, win=False, prompt_tokens=prompt_tokens + 40, completion_tokens=5, weight=1.0),
        trace(12, win=False, completion_tokens=7, protected=frozenset(trace(12, completion_tokens=7).completion[2:5])),
    ]
    return [*wins, *losses]


@pytest.fixture
def lm(tiny: LanguageModel) -> LanguageModel:
    """With an adapter that is not the start: there, the gradient of A is 0."""
    stir(tiny, scale=0.05)
    return tiny


def believe_in(lm: LanguageModel, losses: Sequence[Trace]) -> None:
    """Makes the model say these, for unlikelihood acts only on what it believes in."""
    for _ in range(8):
        update(lm, [replace(item, win=True) for item in losses], UpdateConfig(steps=5, learning_rate=1e-2))


def learn(
    lm: LanguageModel, traces: Sequence[Trace], config: UpdateConfig, monkeypatch: pytest.MonkeyPatch
) -> tuple[UpdateReport, list[dict[str, torch.Tensor]]]:
    """Updates from the adapter that ``lm`` carries, puts that back, and tells each step's gradient."""
    before = lora.get_adapter(lm.network)
    gradients: list[dict[str, torch.Tensor]] = []
    step = torch.optim.AdamW.step

    def spy(optimiser: torch.optim.AdamW, *args: object) -> None:
        gradients.append({name: p.grad.clone() for name, p in lm.network.named_parameters() if p.grad is not None})
        step(optimiser)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        report = update(lm, traces, config)
    lora.set_adapter(lm.network, before)
    return report, gradients


def published(
    lm: LanguageModel, traces: Sequence[Trace], config: UpdateConfig
) -> tuple[float, float, dict[str, torch.Tensor]]:
    """Both losses and the gradient of their sum by the losses' public surface, all traces in one padded batch."""
    lm.network.eval()
    width = max(item.length for item in traces)
    ids = torch.zeros(len(traces), width, dtype=torch.int64)
    labels = torch.full((len(traces), width), -100)
    for row, item in enumerate(traces):
        ids[row, : item.length] = torch.tensor(item.prompt + item.completion)
        labels[row, len(item.prompt) - 1 : item.length - 1] = torch.tensor(item.completion)
    logits = lm.causal(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    wins = torch.tensor([item.win for item in traces])
    win = likelihood_loss(logits[wins], labels[wins])
    # One window and one set of protected tokens a call: the sums of traces, over the count of all.
    parts, count = [], 0
    for row, item in enumerate(traces):
        if not item.win:
            options = {"margin": config.margin, "tail_tokens": item.tail_tokens, "ignore_ids": item.protected}
            part = unlikelihood_loss(
                logits[row : row + 1], labels[row : row + 1], torch.tensor([item.weight]), eos_id=lm.eos_id, **options
            )
            kept = [token for token in item.completion if token != lm.eos_id]
            kept = kept[-item.tail_tokens :] if item.tail_tokens else kept
            tokens = sum(token not in item.protected for token in kept)
            parts.append(part * max(1, tokens))
            count += tokens
    lose = torch.stack(parts).sum() / max(1, count) if parts else torch.zeros(())
    lm.network.zero_grad(set_to_none=True)
    (config.lambda_win * win + config.lambda_lose * lose).backward()
    gradient = {name: p.grad.clone() for name, p in lm.network.named_parameters() if p.grad is not None}
    lm.network.zero_grad(set_to_none=True)
    return float(win.detach()), float(lose.detach()), gradient


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()) + 1e-9)


@pytest.mark.parametrize("margin", [0.0, 0.3])
@pytest.mark.parametrize("lambda_lose", [0.1, 2.0])
def test_a_step_follows_the_published_losses(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, margin: float, lambda_lose: float
) -> None:
    config = replace(ONE_STEP, batch=4, margin=margin, lambda_lose=lambda_lose, lambda_win=0.7)
    traces = mixed()
    losses = [item for item in traces if not item.win]
    traces[4] = replace(losses[0], completion=(*losses[0].completion, lm.eos_id))
    believe_in(lm, traces[4:])
    report, (gradient,) = learn(lm, traces, config, monkeypatch)
    win, lose, expected = published(lm, traces, config)
    assert lose > 0.01
    assert (report.wins, report.losses, report.steps, report.skipped_steps) == (4, 3, 1, 0)
    assert report.loss_win == pytest.approx(win, rel=1e-4)
    assert report.loss_lose == pytest.approx(lose, rel=1e-4)
    assert_same(gradient, expected)
    norm = math.sqrt(sum(float(part.double().square().sum()) for part in expected.values()))
    assert report.gradient_norm == pytest.approx(norm, rel=1e-3)


def test_wins_without_losses_are_pure_likelihood(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    wins = mixed()[:4]
    report, (gradient,) = learn(lm, wins, replace(ONE_STEP, batch=4), monkeypatch)
    win, _, expected = published(lm, wins, ONE_STEP)
    assert (report.loss_win, report.loss_lose) == (pytest.approx(win, rel=1e-4), 0.0)
    assert_same(gradient, expected)


@pytest.fixture
def exact_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of tokens are not filled up."""
    monkeypatch.setattr("training.attention.ROUNDED_TO", 1 << 30)


def passes(lm: LanguageModel, work: Callable[[], object]) -> list[int]:
    """Tokens of every forward pass."""
    counts: list[int] = []
    embed = lm.causal.get_input_embeddings()
    handle = embed.register_forward_hook(lambda _module, args, _out: counts.append(args[0].numel()))
    work()
    handle.remove()
    return counts


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


def test_unequal_multiplicities_weigh_as_repetitions_do(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    wins = [replace(item, answer=None) for item in mixed()[:2]]
    report, (gradient,) = learn(lm, wins, replace(ONE_STEP, batch=3), monkeypatch)
    candidates = [published(lm, [*wins, again], ONE_STEP) for again in wins]
    closest = min(candidates, key=lambda found: abs(found[0] - report.loss_win))
    assert report.loss_win == pytest.approx(closest[0], rel=1e-4)
    assert_same(gradient, closest[2])


def test_wins_are_balanced_by_answer(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ("yes", "yes", "yes", "no")
    wins = [trace(at, kind="yes_no", answer=answer) for at, answer in enumerate(answers)]
    balanced = learn(lm, wins, replace(ONE_STEP, batch=4), monkeypatch)[0].loss_win
    alone = [published(lm, [win], ONE_STEP)[0] for win in wins]
    assert balanced == pytest.approx((sum(alone[:3]) / 3 + alone[3]) / 2, rel=1e-4)


@pytest.mark.parametrize("traces", [[], mixed()[4:]])
def test_without_wins_nothing_is_changed(lm: LanguageModel, traces: list[Trace]) -> None:
    before = adapter_digest(lora.get_adapter(lm.network))
    report = update(lm, traces, UpdateConfig())
    assert adapter_digest(lora.get_adapter(lm.network)) == before
    assert (report.wins, report.steps, report.skipped_steps) == (0, 0, 0)
    assert math.isnan(report.loss_win)
    assert math.isnan(report.loss_lose)


def test_a_step_that_is_not_finite_is_skipped_and_counted(lm: LanguageModel) -> None:
    calls = 0

    def poison(logits: torch.Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            with torch.no_grad():
                logits[..., 0] = torch.nan

    handle = on_head(lm, poison)
    report = update(lm, mixed()[:5], UpdateConfig(steps=4, micro_batch=64))
    handle.remove()
    assert calls == 4
    assert (report.steps, report.skipped_steps) == (3, 1)
    assert math.isfinite(report.loss_win + report.loss_lose + report.gradient_norm)
    assert all(np.isfinite(array).all() for array in lora.get_adapter(lm.network).values())


def test_a_gradient_that_is_not_finite_is_skipped_too(lm: LanguageModel) -> None:
    before = adapter_digest(lora.get_adapter(lm.network))
    parameter = next(p for p in lm.network.parameters() if p.requires_grad)
    handle = parameter.register_hook(lambda gradient: gradient * torch.inf)
    report = update(lm, mixed(), UpdateConfig(steps=2))
    handle.remove()
    assert (report.steps, report.skipped_steps) == (0, 2)
    assert adapter_digest(lora.get_adapter(lm.network)) == before
    assert math.isnan(report.loss_win)


@pytest.fixture(scope="module")
def dropping(tiny_folder: Path) -> LanguageModel:
    return load_tiny(tiny_folder, dropout=0.1)


def test_the_seed_alone_decides(dropping: LanguageModel) -> None:
    stir(dropping, scale=0.05)
    before = lora.get_adapter(dropping.network)
    digests = []
    for seed in (1, 1, 2):
        lora.set_adapter(dropping.network, before)
        torch.rand(seed + 3)  # what others drew before must not matter
        update(dropping, mixed(), UpdateConfig(steps=3, batch=2, seed=seed))
        digests.append(adapter_digest(lora.get_adapter(dropping.network)))
    assert digests[0] == digests[1] != digests[2]


def test_dropout_is_on_and_leaves_the_callers_random_numbers_alone(
    dropping: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    stir(dropping, scale=0.3)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    report, _ = learn(dropping, mixed(), replace(ONE_STEP, batch=4), monkeypatch)
    assert torch.equal(torch.rand(3), expected)
    assert report.loss_win != pytest.approx(published(dropping, mixed(), ONE_STEP)[0], rel=1e-4)


def test_learning_makes_wins_likelier_and_losses_less_likely(lm: LanguageModel) -> None:
    wins = [trace(seed) for seed in range(3)]
    lose = trace(9, win=False)
    believe_in(lm, [lose])
    before = {item: log_probability(lm, item) for item in (*wins, lose)}
    first = update(lm, [*wins, lose], UpdateConfig(steps=1, learning_rate=3e-3))
    assert first.loss_lose > 0.1
    last = update(lm, [*wins, lose], UpdateConfig(steps=20, learning_rate=3e-3, lambda_lose=1.0))
    assert last.loss_win < first.loss_win
    assert last.loss_lose < first.loss_lose
    for win in wins:
        assert log_probability(lm, win) > before[win]
    assert log_probability(lm, lose) < before[lose]


def test_clipping_bounds_the_gradient_and_reports_what_it_was(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = learn(lm, mixed(), ONE_STEP, monkeypatch)
    clipped, (gradient,) = learn(lm, mixed(), replace(ONE_STEP, clip=0.01), monkeypatch)
    norm = math.sqrt(sum(float(part.double().square().sum()) for part in gradient.values()))
    assert whole.gradient_norm > 0.01
    assert clipped.gradient_norm == pytest.approx(whole.gradient_norm)
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_batches_draw_every_trace_before_any_is_drawn_again(lm: LanguageModel) -> None:
    wins = [trace(seed, prompt_tokens=10 + seed) for seed in range(6)]
    counts = passes(lm, lambda: update(lm, wins, UpdateConfig(steps=6, batch=2, micro_batch=1)))
    assert len(counts) == 6
    for half in (counts[:3], counts[3:]):
        assert sum(half) == sum(item.length for item in wins)


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


def test_logits_over_the_vocabulary_exist_for_a_few_positions_at_a_time(lm: LanguageModel) -> None:
    seen: list[int] = []
    handle = on_head(lm, lambda logits: seen.append(logits.shape[0]))
    long = [trace(seed, completion_tokens=LOGITS_ROWS - 10) for seed in range(3)]
    update(lm, long, UpdateConfig(steps=1, micro_batch=64))
    handle.remove()
    assert seen == [LOGITS_ROWS, LOGITS_ROWS, LOGITS_ROWS - 30]


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


def test_progress_is_told_and_can_stop_it(lm: LanguageModel) -> None:
    told: list[tuple[str, int, int]] = []
    update(lm, mixed(), UpdateConfig(steps=3), notify=lambda *step: told.append(step))
    assert told == [("learning", 1, 3), ("learning", 2, 3), ("learning", 3, 3)]

    def stop(phase: str, done: int, total: int) -> None:
        raise Interrupted("enough")

    with pytest.raises(Interrupted):
        update(lm, mixed(), UpdateConfig(steps=3), notify=stop)


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


def test_half_precision_learns_too(tiny_folder: Path) -> None:
    half = load_tiny(tiny_folder, dtype="bfloat16")
    before = lora.get_adapter(half.network)
    report = update(half, mixed(), UpdateConfig(steps=3, learning_rate=1e-3))
    after = lora.get_adapter(half.network)
    assert report.steps == 3
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in after.values())
    moved = [name for name, array in after.items() if not np.array_equal(array, before[name])]
    assert len(moved) == len(after)
