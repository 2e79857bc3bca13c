"""The real default model: fetched, loaded once for all tests here, trained a little, and compared path by path."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import platformdirs
import pytest
import torch
from peft.tuners.lora import Linear as PeftLinear
from torch.nn import functional

import profiles
from spearctl.questions import demo_log
from training import lora, models, sources
from training.adapters import initial_adapter
from training.checks import Verdict
from training.evaluate import evaluate
from training.feedback import Entry
from training.rollout import GREEDY, sample
from training.score import log_probabilities
from training.traces import Trace
from training.update import UpdateConfig, completion_states, update

pytestmark = pytest.mark.model

QUESTIONS = 48


def cache() -> Path:
    named = os.environ.get("SPEARCTL_CACHE")
    return Path(named) if named else platformdirs.user_cache_path("spearctl") / "models"


def load(dtype: str | None = None) -> models.LanguageModel:
    profile = profiles.resolve(profiles.load("cpu"), profiles.detect(accelerators=False))
    # One thread: other tests run beside these, and threads that wait for each other spin.
    changed = {"threads": 1} if dtype is None else {"threads": 1, "dtype": dtype}
    wanted = profiles.Profile(**{**_fields(profile), **changed})
    source = sources.resolve("smollm2-135m", cache())
    lm = models.load(source, wanted, models.LoraSettings())
    lora.set_adapter(lm.network, initial_adapter(source.fingerprint, lm.adapter_shape))
    return lm


def _fields(profile: profiles.Profile) -> dict[str, object]:
    return {name: getattr(profile, name) for name in profile.__dataclass_fields__}


def pairs(lm: models.LanguageModel, entries: list[Entry]) -> list[tuple[list[int], list[int]]]:
    """Prompts with their right answers."""
    return [
        (lm.encode_prompt(entry.conversation), [*lm.encode_text(str(entry.check.expect)), lm.eos_id])
        for entry in entries
        if entry.check is not None
    ]


def scores(lm: models.LanguageModel, chosen: list[tuple[list[int], list[int]]]) -> npt.NDArray[np.float64]:
    return np.array([float(found.sum()) for found in log_probabilities(lm, chosen, batch=16)])


@pytest.fixture(scope="module")
def entries() -> tuple[list[Entry], list[Entry]]:
    return demo_log(train=QUESTIONS, test=24, seed=3)


@pytest.fixture(scope="module")
def learned(entries: tuple[list[Entry], list[Entry]]) -> models.LanguageModel:
    """The model in its profile's own dtype, after a few steps on right answers."""
    lm = load()
    wins = [
        Trace(prompt=tuple(prompt), completion=tuple(answer), win=True, answer=str(i))
        for i, (prompt, answer) in enumerate(pairs(lm, entries[0]))
    ]
    report = update(lm, wins, UpdateConfig(steps=6, batch=12))
    assert report.steps == 6
    return lm


def test_a_few_steps_teach_it_to_answer_unseen_questions_in_one_word(
    learned: models.LanguageModel, entries: tuple[list[Entry], list[Entry]]
) -> None:
    before = lora.get_adapter(learned.network)
    after = evaluate(learned, entries[1], batch=24)
    with learned.network.disable_adapter():
        base = evaluate(learned, entries[1], batch=24)
    assert base.format_rate.count <= 2
    assert after.format_rate.count >= 20
    assert after.accuracy.count > base.accuracy.count + 3
    assert all(answer.judgement.verdict is not Verdict.RIGHT or answer.contains for answer in after.answers)
    assert all(np.array_equal(before[name], array) for name, array in lora.get_adapter(learned.network).items())


def test_the_rollout_path_keeps_the_whole_of_a_delta(
    learned: models.LanguageModel,
    entries: tuple[list[Entry], list[Entry]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = pairs(learned, entries[1])
    ours = scores(learned, chosen)
    with learned.network.disable_adapter():
        base = scores(learned, chosen)
    with monkeypatch.context() as patch:
        patch.setattr(lora.LowRankLinear, "forward", PeftLinear.forward)
        explicit = scores(learned, chosen)
    exact = load("float32")
    lora.set_adapter(exact.network, lora.get_adapter(learned.network))
    truth = scores(exact, chosen)
    with exact.network.disable_adapter():
        exact_base = scores(exact, chosen)
    moved, wanted = ours - base, truth - exact_base
    kept = float(moved @ wanted / (wanted @ wanted))
    distance, away = abs(moved).mean(), abs(ours - explicit).mean()
    with capsys.disabled():
        sys.stdout.write(f"[{learned.dtype}: {kept:.3f} of the delta kept; moved {distance:.2f}, {away:.3f} off PEFT] ")
    assert distance > 1.0
    assert away < 0.1 * distance
    assert kept == pytest.approx(1.0, abs=0.05)


@torch.no_grad()
def test_tokens_are_chosen_by_logits_nearer_to_float32_than_the_heads(
    learned: models.LanguageModel, entries: tuple[list[Entry], list[Entry]], capsys: pytest.CaptureFixture[str]
) -> None:
    if learned.dtype == torch.float32:
        pytest.skip("this CPU's profile computes in float32")
    chosen, exact = pairs(learned, entries[1]), load("float32")
    lora.set_adapter(exact.network, lora.get_adapter(learned.network))
    truth, states = exact.head(completion_states(exact, chosen)), completion_states(learned, chosen)
    unrounded = states.float() @ learned.causal.get_output_embeddings().weight.float().T
    candidates = {"rounded": learned.head(states).float(), "chosen by": learned.logits(states), "exact": unrounded}
    apart = {name: divergence(truth, logits) for name, logits in candidates.items()}
    with capsys.disabled():
        sys.stdout.write(f"[nats a token to float32: {', '.join(f'{name} {kl:.5f}' for name, kl in apart.items())}] ")
    assert apart["chosen by"] < 0.9 * apart["rounded"]
    assert divergence(unrounded, candidates["chosen by"]) < 0.25 * divergence(unrounded, candidates["rounded"])


def divergence(of: torch.Tensor, by: torch.Tensor) -> float:
    """Mean Kullback-Leibler divergence a row of logits ``[N, V]``."""
    return float(functional.kl_div(by.log_softmax(-1), of.log_softmax(-1), log_target=True, reduction="batchmean"))


def test_decoding_step_by_step_takes_the_path_that_scoring_takes(
    learned: models.LanguageModel, entries: tuple[list[Entry], list[Entry]]
) -> None:
    prompts = [learned.encode_prompt(entry.conversation) for entry in entries[1]]
    completions = sample(learned, prompts, [8] * len(prompts), GREEDY, batch=24)
    gaps: list[float] = []
    for prompt, completion in zip(prompts, completions, strict=True):
        tokens = list(completion.tokens)
        with torch.no_grad():
            logits = learned.logits(completion_states(learned, [(prompt, tokens)]))
        gaps += (logits.amax(-1) - logits[range(len(tokens)), tokens]).tolist()
    assert len(gaps) >= len(prompts)
    # In bfloat16 the order of sums decides between tokens that are as likely: logits of 30 differ by a tenth.
    assert max(gaps) < 0.25
