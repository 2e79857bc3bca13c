"""One whole round in a process of its own: ``python -m tests.benchmarks.round WAY FOLDER [--gpu]``.

WAY is ``ours`` or ``baseline``, FOLDER holds downloaded models. With --gpu both work on the GPU, ours with the profile
that is chosen for it. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

import profiles
from tests.benchmarks import baseline
from training import lora, models, rounds, selfplay, sources
from training.adapters import initial_adapter
from training.checks import Choice
from training.feedback import Entry
from training.history import History
from training.lowrank import LowRankLinear
from training.memory import gauge
from training.models import LanguageModel, LoraSettings
from training.pool import Pool
from training.rounds import RoundConfig, RoundReport
from training.selfplay import PlayConfig
from training.store import AdapterStore
from training.update import UpdateConfig

ROLLOUTS, NEW_TOKENS = 64, 16


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.round", description=__doc__)
    parser.add_argument("way", choices=["ours", "baseline"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gpu", action="store_true")
    options = parser.parse_args()
    print(json.dumps(measure(options.way, options.folder, gpu=options.gpu)))


def load(way: str, folder: Path, *, gpu: bool = False) -> tuple[LanguageModel, profiles.Profile]:
    """The default model, with the start that every device shares."""
    hardware = profiles.detect(accelerators=gpu)
    profile = profiles.resolve(profiles.load(profiles.choose(hardware).profile if gpu else "cpu"), hardware)
    source = sources.resolve("smollm2-135m", folder, say=lambda _: None)
    if profile.threads:
        torch.set_num_threads(profile.threads)
    if way == "baseline":
        lm = baseline.load(source, LoraSettings(), profile.device)
    else:
        lm = models.load(source, profile, LoraSettings())
    lora.set_adapter(lm.network, initial_adapter(source.fingerprint, lm.adapter_shape))
    return lm, profile


def measure(way: str, folder: Path, *, gpu: bool = False) -> dict[str, Any]:
    """Times a round, its rollouts and its steps."""
    lm, profile = load(way, folder, gpu=gpu)
    sampled, stepped = Counted(selfplay.sample), Counted(rounds.update)
    if way == "baseline":
        sampled, stepped = Counted(baseline.sample), Counted(baseline.update)
    selfplay.sample, rounds.update = sampled, stepped  # type: ignore[assignment]
    learned = Rows(lm)
    config = RoundConfig(
        rollouts=ROLLOUTS,
        play=PlayConfig(rollout_batch=profile.rollout_batch, most_new_tokens=NEW_TOKENS),
        update=UpdateConfig(steps=5, batch=16, micro_batch=profile.micro_batch),
    )
    sampled(lm, [[1, 2, 3]] * 2, [2] * 2, selfplay.SAMPLED, batch=2)  # libraries make themselves ready
    if gpu:  # it loads each of its programs when that is needed first
        play(lm, config)
        lora.set_adapter(lm.network, initial_adapter(lm.source.fingerprint, lm.adapter_shape))
    for counted in (sampled, stepped):
        counted.seconds = counted.amount = 0
    learned.rows.clear()
    report, seconds = play(lm, config)
    peak_bytes = gauge(profile.device).peak()
    base_s, linear_s = (0.0, 0.0) if way == "baseline" else machine_s(lm, profile.micro_batch * 128, learned.rows)
    return {
        "seconds": seconds,
        "sampled": sampled.amount,
        "sampling_s": sampled.seconds,
        "stepped": stepped.amount,
        "stepping_s": stepped.seconds,
        "peak_bytes": peak_bytes,
        "base_of_machine": base_s / stepped.seconds,
        "linear_of_machine": linear_s / stepped.seconds,
        "wins": report.wins,
        "losses": report.losses,
    }


def play(lm: LanguageModel, config: RoundConfig) -> tuple[RoundReport, float]:
    """A round, and its seconds."""
    with tempfile.TemporaryDirectory() as home, History(Path(home) / "node.db") as history:
        store = AdapterStore(
            Path(home) / "adapters", history, base_model="", fingerprint=lm.source.fingerprint, shape=lm.adapter_shape,
            dropout=0.1,
        )  # fmt: skip
        pool = Pool(questions(ROLLOUTS), trained=frozenset(), played={})
        started = time.perf_counter()
        report = rounds.run_round(lm, store, history, pool, config)
        finish()
        return report, time.perf_counter() - started


Shape = tuple[int, tuple[int, ...], tuple[int, ...]]
"""Of layers that share an input: its width, theirs, and the ranks of their adapters."""


class Rows:
    """Counts the rows that linear layers of each shape are given while a model learns."""

    def __init__(self, lm: LanguageModel) -> None:
        self.rows: Counter[Shape] = Counter()
        layers = [module for module in lm.network.modules() if isinstance(module, LowRankLinear)]
        for group in {layer._group for layer in layers if layer._group is not None}:
            shape = (group.members[0].base.in_features, tuple(group.widths), tuple(group.ranks))
            group.members[0].register_forward_pre_hook(partial(self._count, shape))

    def _count(self, shape: Shape, layer: LowRankLinear, args: tuple[torch.Tensor, ...]) -> None:
        if layer.training:
            self.rows[shape] += args[0].shape[:-1].numel()


def machine_s(lm: LanguageModel, rows: int, done: Mapping[Shape, int]) -> tuple[float, float]:
    """How long the products of linear layers take here by themselves, forward and backward, in passes of ``rows``.

    Args:
        lm: On the device.
        rows: Of a pass.
        done: How many there were of each shape.

    Returns:
        Seconds for them: with base weights alone, and with adapters. Products of the same input are one, and B is a
        part of the base weights' matrix, as in a step.
    """
    base = linear = 0.0
    with torch.inference_mode():
        for shape, count in done.items():
            found = _group_s(lm, rows, *shape)
            base, linear = base + count / rows * found[0], linear + count / rows * found[1]
    return base, linear


def _group_s(
    lm: LanguageModel, rows: int, inputs: int, widths: tuple[int, ...], ranks: tuple[int, ...]
) -> tuple[float, float]:
    """Seconds for layers that share an input ``[rows, inputs]``: without adapters, and with them."""
    outs, rank = sum(widths), sum(ranks)
    x, y, low, both = (
        torch.randn(rows, width).to(lm.device, lm.dtype) for width in (inputs, outs, rank, inputs + rank)
    )
    parts = [*zip(y.split(widths, 1), low.split(ranks, 1), strict=True)]
    base = _seconds(lambda weight: (functional.linear(x, weight), y @ weight), (outs, inputs), lm)
    down = _seconds(lambda down: (functional.linear(x, down), low @ down, low.t() @ x), (rank, inputs), lm)
    wide = _seconds(lambda weight: (functional.linear(both, weight), y @ weight), (outs, inputs + rank), lm)
    to_ups = _seconds(lambda _: [its.t() @ part for part, its in parts], (1, 1), lm)
    return base, wide + down + to_ups


def _seconds(product: Callable[[torch.Tensor], object], shape: tuple[int, int], lm: LanguageModel) -> float:
    """Of products with a weight of that shape, another one each time, as in a model."""
    weights, found = [torch.randn(shape).to(lm.device, lm.dtype) for _ in range(8)], []
    for _ in range(5):
        finish()
        started = time.perf_counter()
        for weight in weights:
            product(weight)
        finish()
        found.append((time.perf_counter() - started) / len(weights))
    return float(np.median(found))


def finish() -> None:
    """Waits for what a GPU was given to do; one that was given nothing is not woken, which takes memory."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


class Counted:
    """A function that is timed; counts new tokens of completions, or tokens learned from."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.seconds = 0.0
        self.amount = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        found = self.function(*args, **kwargs)
        finish()
        self.seconds += time.perf_counter() - started
        self.amount += sum(len(c.tokens) + c.ended for c in found) if isinstance(found, list) else found.tokens
        return found


KINDS = {
    "a fruit": ["apple", "pear", "plum", "cherry", "peach", "grape", "lemon", "mango"],
    "an animal": ["horse", "sparrow", "trout", "beetle", "rabbit", "goose", "camel", "otter"],
    "a tool": ["hammer", "chisel", "wrench", "shovel", "saw", "rake", "drill", "plane"],
    "a piece of clothing": ["jacket", "scarf", "glove", "sock", "shirt", "apron", "cap", "vest"],
    "a vehicle": ["tram", "ferry", "lorry", "bicycle", "glider", "barge", "taxi", "sledge"],
}


def questions(count: int) -> list[Entry]:
    """Multiple-choice questions of about a hundred tokens."""
    rng = random.Random(0)
    made = []
    for number in range(count):
        kind = rng.choice(list(KINDS))
        right = rng.choice(KINDS[kind])
        wrong = [rng.choice(KINDS[other]) for other in rng.sample([k for k in KINDS if k != kind], 3)]
        options = rng.sample([right, *wrong], 4)
        story = rng.sample([thing for things in KINDS.values() for thing in things], 6)
        prompt = (
            f"In the morning Mrs. {rng.choice('ABCDEFGH')}. wrote a list of what she had seen on her way through town: "
            f"{', '.join(story)}. In the evening she sorted the list and was asked about the words on it, one by one, "
            f"by her neighbours.\nWhich of these is {kind}?\n"
            + "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True))
            + "\nAnswer with the letter only."
        )
        check = Choice(expect="ABCD"[options.index(right)], options=4, format="bare")
        made.append(Entry(v=1, id=str(number), prompt=prompt, check=check, hint=f"Only one of them is {kind}."))
    return made


if __name__ == "__main__":
    main()
