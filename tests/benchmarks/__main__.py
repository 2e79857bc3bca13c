"""`make bench`: figures of this machine, each beside a plain baseline measured in the same run.

    python -m tests.benchmarks                    deltas of the network; speed and precision on the default model
    python -m tests.benchmarks --data FOLDER      the learning curve on FOLDER/strategyqa.{train,dev}.jsonl too
    python -m tests.benchmarks --calibrate        accuracy after a few rounds at several learning rates instead
    python -m tests.benchmarks --json FILE        also as JSON

The baseline is transformers' `generate` and PEFT's own layers with fp32 adapters, and logits at all positions.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch
from peft.tuners.lora import Linear as PeftLinear
from torch.nn import functional

import profiles
from spearctl.questions import demo_log
from tests.benchmarks import idle, p2p
from training import lora, models, sources
from training.adapters import initial_adapter
from training.evaluate import evaluate
from training.history import History
from training.pool import Pool
from training.rollout import SAMPLED, sample
from training.rounds import RoundConfig, run_round
from training.selfplay import PlayConfig
from training.store import AdapterStore
from training.traces import Trace
from training.update import UpdateConfig, update

SEQUENCES = 32
NEW_TOKENS = 16
REPEATS = 3
LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3)

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with strategyqa.train.jsonl and strategyqa.dev.jsonl")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    parser.add_argument("--calibrate", action="store_true", help="try several learning rates on the demo's questions")
    options = parser.parse_args()
    if not options.calibrate:
        p2p.main()
        idle.main()
    lm = load()
    if options.calibrate:
        for rate in LEARNING_RATES:
            print(told(calibration_row(lm, rate)), flush=True)
        return
    print(f"default model, {lm.dtype}, {torch.get_num_threads()} threads; medians of {REPEATS}")
    rows = [rollout_row(lm), step_row(lm)]
    if options.data:
        rows += strategyqa_rows(options.data)
    for row in rows:
        print(told(row))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def told(row: Row) -> str:
    """A row as one line."""
    cells = [str(row["row"])]
    for key, value in row.items():
        if key != "row":
            cells.append(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}")
    return "  ".join(cells)


def load() -> models.LanguageModel:
    """The default model in its profile's dtype, with the start every device shares."""
    profile = profiles.resolve(profiles.load("cpu"), profiles.detect(accelerators=False))
    source = sources.resolve("smollm2-135m", platformdirs.user_cache_path("spearctl") / "models", say=print)
    lm = models.load(source, profile, models.LoraSettings())
    lora.set_adapter(lm.network, initial_adapter(source.fingerprint, lm.adapter_shape))
    return lm


def rollout_row(lm: models.LanguageModel) -> Row:
    """Sampled tokens a second against `generate`, with adapters in both."""
    prompts = [lm.encode_prompt(entry.conversation) for entry in demo_log(train=SEQUENCES, test=1, seed=0)[0]]

    def ours() -> int:
        return sum(len(found.tokens) + found.ended for found in sample(lm, prompts, [NEW_TOKENS] * SEQUENCES, SAMPLED,
                                                                      batch=SEQUENCES))  # fmt: skip

    def theirs() -> int:
        lm.tokenizer.padding_side = "left"
        texts = [lm.tokenizer.decode(prompt) for prompt in prompts]
        inputs = lm.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode(), peft_layers():
            found = lm.network.generate(**inputs, do_sample=True, temperature=0.8, top_p=0.95, top_k=0,
                                        max_new_tokens=NEW_TOKENS, pad_token_id=lm.pad_id)  # fmt: skip
        new = found[:, inputs["input_ids"].shape[1] :]
        return int((new != lm.pad_id).sum()) + SEQUENCES

    return compared("rollout", "tokens/s", ours, theirs)


def step_row(lm: models.LanguageModel) -> Row:
    """Tokens a second through a training step against separate passes with logits everywhere."""
    rng = np.random.default_rng(0)
    traces = [
        Trace(prompt=tuple(rng.integers(10, 40000, 48).tolist()), completion=tuple(rng.integers(10, 40000, 8).tolist()),
              win=i % 2 == 0, answer=str(i))
        for i in range(16)
    ]  # fmt: skip
    tokens = sum(trace.length for trace in traces)

    def ours() -> int:
        return update(lm, traces, UpdateConfig(steps=1, batch=8)).tokens

    def theirs() -> int:
        lm.network.train()
        with peft_layers():
            for wins in (True, False):
                ids = torch.tensor([trace.prompt + trace.completion for trace in traces if trace.win is wins])
                logits = lm.network(input_ids=ids).logits.float()
                functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()  # type: ignore[no-untyped-call]
        lm.network.zero_grad(set_to_none=True)
        return tokens

    return compared("training step", "tokens/s", ours, theirs)


@contextmanager
def peft_layers() -> Iterator[None]:
    """PEFT's own forward in place of ours."""
    own = lora.LowRankLinear.forward
    lora.LowRankLinear.forward = PeftLinear.forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        lora.LowRankLinear.forward = own  # type: ignore[method-assign]


def compared(name: str, unit: str, ours: Callable[[], int], theirs: Callable[[], int]) -> Row:
    """Runs both in turn and gives the median rate of each and of their ratio."""
    rates = []
    for _ in range(REPEATS + 1):
        pair = []
        for run in (ours, theirs):
            started = time.perf_counter()
            done = run()
            pair.append(done / (time.perf_counter() - started))
        rates.append(pair)
    found = np.array(rates[1:])
    return {
        "row": f"{name}, {unit}:",
        "ours": float(np.median(found[:, 0])),
        "baseline": float(np.median(found[:, 1])),
        "ratio": float(np.median(found[:, 0] / found[:, 1])),
    }


def calibration_row(lm: models.LanguageModel, rate: float) -> Row:
    """Accuracy on unseen demo questions after three rounds at a learning rate, from the same start and seed."""
    train, test = demo_log(train=200, test=60, seed=0)
    lora.set_adapter(lm.network, initial_adapter(lm.source.fingerprint, lm.adapter_shape))
    config = RoundConfig(
        rollouts=48, play=PlayConfig(rollout_batch=SEQUENCES), update=UpdateConfig(learning_rate=rate), seed=0
    )
    with tempfile.TemporaryDirectory() as folder, History(Path(folder) / "node.db") as history:
        store = AdapterStore(
            Path(folder) / "adapters", history, base_model=lm.source.reference, fingerprint=lm.source.fingerprint,
            shape=lm.adapter_shape, dropout=0.1,
        )  # fmt: skip
        pool = Pool(train, trained=frozenset(), played={})
        wins = [run_round(lm, store, history, pool, config).wins for _ in range(3)]
    found = evaluate(lm, test, batch=SEQUENCES)
    return {
        "row": f"learning rate {rate:g}:",
        "wins": "+".join(map(str, wins)),
        "accuracy": found.accuracy.value,
        "format_rate": found.format_rate.value,
    }


def strategyqa_rows(folder: Path) -> list[Row]:
    """Format rate and accuracy before and after `spearctl train`, as a person would run it."""
    with tempfile.TemporaryDirectory() as home:

        def spearctl(*words: str) -> dict[str, Any]:
            command = [sys.executable, "-m", "spearctl", "--home", str(Path(home) / "home"), "--json", *words]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            data: dict[str, Any] = json.loads(done.stdout)["data"]
            return data

        spearctl("init")
        dev = ("eval", "--data", str(folder / "strategyqa.dev.jsonl"))
        rows = [_eval_row("strategyqa before:", spearctl(*dev))]
        started = time.perf_counter()
        spearctl("train", "--feedback", str(folder / "strategyqa.train.jsonl"))
        seconds = time.perf_counter() - started
        rows.append({**_eval_row("strategyqa after:", spearctl(*dev)), "train_s": seconds})
        return rows


def _eval_row(name: str, data: dict[str, Any]) -> Row:
    keys = ("n", "accuracy", "low", "high", "best_constant", "format_rate", "common_answer_share")
    return {"row": name, **{key: data[key] for key in keys}}


if __name__ == "__main__":
    main()
