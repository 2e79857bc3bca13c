"""`make bench`: figures of this machine, each beside a plain baseline measured in the same run.

    python -m tests.benchmarks                    deltas of the network; speed and precision on the default model
    python -m tests.benchmarks --data FOLDER      the learning curve on FOLDER/strategyqa.{train,dev}.jsonl too
    python -m tests.benchmarks --calibrate        accuracy after a few rounds at several learning rates instead
    python -m tests.benchmarks --json FILE        also as JSON

The baseline is in `baseline.py`. A round of it takes five minutes on two CPU cores; --repeats 1 is quicker. Where there
is an NVIDIA GPU, the same rounds are played there too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

import profiles
from spearctl.questions import demo_log
from tests.benchmarks import idle, p2p
from tests.benchmarks.round import ROLLOUTS, questions
from training import lora, models, sources
from training.adapters import initial_adapter
from training.evaluate import evaluate
from training.history import History
from training.log import append
from training.pool import Pool
from training.rounds import RoundConfig, run_round
from training.selfplay import PlayConfig
from training.store import AdapterStore
from training.update import UpdateConfig

MODELS = platformdirs.user_cache_path("spearctl") / "models"
SEQUENCES = 32
REPEATS = 3
LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3)

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with strategyqa.train.jsonl and strategyqa.dev.jsonl")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="rounds of each way (default: %(default)s)")
    parser.add_argument("--calibrate", action="store_true", help="try several learning rates on the demo's questions")
    options = parser.parse_args()
    if not options.calibrate:
        p2p.main()
        idle.main()
    if options.calibrate:
        lm = load()
        for rate in LEARNING_RATES:
            print(told(calibration_row(lm, rate)), flush=True)
        return
    sources.resolve("smollm2-135m", MODELS, say=print)
    print(f"default model, one round each way; medians of {options.repeats}", flush=True)
    rows = [*round_rows(options.repeats), budget_row()]
    hardware = profiles.detect()
    if profiles.load(chosen := profiles.choose(hardware).profile).device == "cuda":
        print(f"the same on {hardware.accelerator_name}, with the profile {chosen}", flush=True)
        rows += [{**row, "row": f"GPU: {row['row']}"} for row in round_rows(options.repeats, "--gpu")]
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
    source = sources.resolve("smollm2-135m", MODELS, say=print)
    lm = models.load(source, profile, models.LoraSettings())
    lora.set_adapter(lm.network, initial_adapter(source.fingerprint, lm.adapter_shape))
    return lm


def round_rows(repeats: int, *options: str) -> list[Row]:
    """One whole round, ours and the plain way, in turn, each in a process of its own; medians of ratios."""
    pairs = [[one_round(way, *options) for way in ("ours", "baseline")] for _ in range(repeats)]
    rows = []
    for name, unit, figure in (
        ("rollouts", "tokens/s", lambda found: found["sampled"] / found["sampling_s"]),
        ("training steps", "tokens/s", lambda found: found["stepped"] / found["stepping_s"]),
        ("whole round", "rounds/s", lambda found: 1 / found["seconds"]),
        ("peak memory", "1/GB", lambda found: 1e9 / found["peak_bytes"]),
    ):
        found = np.array([[figure(one) for one in pair] for pair in pairs])
        ours, baseline = np.median(found, axis=0).tolist()
        ratio = float(np.median(found[:, 0] / found[:, 1]))
        rows.append({"row": f"{name}, {unit}:", "ours": ours, "baseline": baseline, "ratio": ratio})
    equal = [(same_work_s(*pair), pair[1]["seconds"]) for pair in pairs]
    seconds = [float(np.median([pair[way]["seconds"] for pair in pairs])) for way in (0, 1)]
    peaks = [float(np.median([pair[way]["peak_bytes"] for pair in pairs])) / 1e9 for way in (0, 1)]

    def limit(name: str) -> float:
        return float(np.median([ours[name] for ours, _ in pairs]))

    return [
        *rows,
        {"row": "whole round, s:", "ours": seconds[0], "baseline": seconds[1]},
        {
            "row": "whole round, as much sampled and learned as the baseline's, s:",
            "ours": float(np.median([ours for ours, _ in equal])),
            "ratio": float(np.median([baseline / ours for ours, baseline in equal])),
        },
        {"row": "peak memory, GB:", "ours": peaks[0], "baseline": peaks[1]},
        {
            "row": "training step, of the machine's rate of products:",
            "linear layers": limit("linear_of_machine"),
            "all products": limit("products_of_machine"),
        },
        *(
            {
                "row": f"step of decoding, {what}:",
                "tokens/s": limit(f"{name}_tokens_per_s"),
                "of the machine's memory bandwidth": limit(f"{name}_of_memory"),
            }
            for name, what in (("one", "one sequence"), ("batch", "a profile's batch"))
        ),
    ]


def same_work_s(ours: dict[str, Any], baseline: dict[str, Any]) -> float:
    """Seconds that ours would take, at its own rates, for as many tokens as the baseline sampled and learned from.

    What is sampled decides how many tokens a round is, so that two rounds are no equal work.
    """
    rest_s = float(ours["seconds"] - ours["sampling_s"] - ours["stepping_s"])
    for tokens, spent_s in (("sampled", "sampling_s"), ("stepped", "stepping_s")):
        rest_s += baseline[tokens] / ours[tokens] * ours[spent_s]
    return rest_s


def one_round(way: str, *options: str) -> dict[str, Any]:
    """What ``tests.benchmarks.round`` prints."""
    command = [sys.executable, "-m", "tests.benchmarks.round", way, str(MODELS), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def budget_row() -> Row:
    """Two rounds on the same questions by ``spearctl train``, within 1 GB."""
    with tempfile.TemporaryDirectory() as folder:
        questions_path, home = Path(folder) / "log.jsonl", Path(folder) / "home"
        append(questions_path, questions(ROLLOUTS))
        spearctl = [sys.executable, "-m", "spearctl", "--json", "--home", str(home)]
        train = ["train", "--feedback", str(questions_path), "--rounds", "2", "--memory-budget", "1GB"]
        for command in (["init"], train):
            done = subprocess.run([*spearctl, *command], stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout)["data"]
    return {
        "row": "two rounds with --memory-budget 1GB, GB:",
        "ours": found["peak_bytes"] / 1e9,
        "s a round": float(np.mean([one["seconds"] for one in found["rounds"]])),
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
