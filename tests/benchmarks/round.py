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
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

import profiles
from tests.benchmarks import baseline
from tests.benchmarks.limits import decoding, finish, reading_s
from tests.benchmarks.products import Products, alone_s, linear
from training import lora, models, rounds, selfplay, sources
from training.adapters import initial_adapter
from training.checks import Choice
from training.feedback import Entry
from training.history import History
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


def load(
    way: str, folder: Path, *, gpu: bool = False, dtype: Literal["float32", "bfloat16"] | None = None
) -> tuple[LanguageModel, profiles.Profile]:
    """The default model, with the start that every device shares; in the profile's dtype, if no other is asked for."""
    hardware = profiles.detect(accelerators=gpu)
    profile = profiles.resolve(profiles.load(profiles.choose(hardware).profile if gpu else "cpu"), hardware)
    profile = replace(profile, dtype=dtype or profile.dtype)
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
    sampled, stepped = Counted(selfplay.sample), Counted(rounds.update, repeats=True)
    if way == "baseline":
        sampled, stepped = Counted(baseline.sample), Counted(baseline.update)
    selfplay.sample, rounds.update = sampled, stepped  # type: ignore[assignment]
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
    report, taken = play(lm, config)
    peak_bytes = gauge(profile.device).peak()
    limits = {} if way == "baseline" else against_limits(lm, profile, stepped)
    return {
        "seconds": taken,
        "sampled": sampled.amount,
        "sampling_s": sampled.seconds,
        "stepped": stepped.amount,
        "stepping_s": stepped.seconds,
        "peak_bytes": peak_bytes,
        "wins": report.wins,
        "losses": report.losses,
        **limits,
    }


def against_limits(lm: LanguageModel, profile: profiles.Profile, stepped: Counted) -> dict[str, float]:
    """Which part of the machine's own rates was reached: of its products, and of its memory."""
    with Products() as products:
        stepped.again()
    of_layers = linear(products.done, lm.causal.config.vocab_size)
    found = {
        "linear_of_machine": alone_s(of_layers, lm.device) / stepped.seconds,
        "products_of_machine": alone_s(products.done, lm.device) / stepped.seconds,
    }
    for name, batch in (("one", 1), ("batch", profile.rollout_batch)):
        seconds, n_bytes = decoding(lm, batch)
        found[f"{name}_of_memory"] = reading_s(n_bytes, lm.device) / seconds
        found[f"{name}_tokens_per_s"] = batch / seconds
    return found


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


class Counted:
    """A function that is timed; counts new tokens of completions, or tokens learned from.

    Attributes:
        again: Does what was done last once more, untimed; with ``repeats``, for which what it was given is kept.
    """

    def __init__(self, function: Callable[..., Any], *, repeats: bool = False) -> None:
        self.function = function
        self.repeats = repeats
        self.seconds = 0.0
        self.amount = 0
        self.again: Callable[[], Any] = lambda: None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.repeats:
            self.again = partial(self.function, *args, **kwargs)
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
