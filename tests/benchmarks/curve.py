"""Accuracy after each of five equal rounds: ``python -m tests.benchmarks.curve WAY FOLDER --seed N``.

WAY is ``ours`` or ``baseline``, FOLDER holds downloaded models. Both play the demo's questions with the same sizes.
Both adapters are judged by one model's greedy answers to questions that neither saw. Prints a JSON line a round. A
round of the baseline takes minutes on two cores, so what was measured so far is kept in ``curve.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from spearctl.questions import demo_log
from tests.benchmarks import baseline
from tests.benchmarks.round import NEW_TOKENS, ROLLOUTS, load
from training import lora, rounds, selfplay
from training.evaluate import evaluate
from training.history import History
from training.pool import Pool
from training.rounds import RoundConfig, annealed
from training.selfplay import PlayConfig
from training.store import AdapterStore
from training.update import UpdateConfig

ROUNDS, SEEN, UNSEEN = 5, 200, 120
LEARNING_RATE = 1e-3
"""Of the rates tried, the one by which five small rounds learn the most (``--calibrate``)."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.curve", description=__doc__)
    parser.add_argument("way", choices=["ours", "baseline"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of ours; the profile's own by default")
    options = parser.parse_args()
    seen, unseen = demo_log(train=SEEN, test=UNSEEN, seed=0)
    lm, profile = load(options.way, options.folder, dtype=options.dtype)
    judge, _ = load("ours", options.folder)
    if options.way == "baseline":
        selfplay.sample, rounds.update = baseline.sample, baseline.update
    with tempfile.TemporaryDirectory() as home, History(Path(home) / "node.db") as history:
        store = AdapterStore(
            Path(home) / "adapters", history, base_model="", fingerprint=lm.source.fingerprint, shape=lm.adapter_shape,
            dropout=0.1,
        )  # fmt: skip
        for number in range(ROUNDS):
            config = RoundConfig(
                rollouts=ROLLOUTS,
                play=PlayConfig(rollout_batch=profile.rollout_batch, most_new_tokens=NEW_TOKENS),
                update=UpdateConfig(
                    steps=5, batch=16, micro_batch=profile.micro_batch,
                    learning_rate=annealed(LEARNING_RATE, number, ROUNDS),
                ),
                seed=options.seed,
            )  # fmt: skip
            report = rounds.run_round(lm, store, history, Pool(seen, trained=frozenset(), played={}), config)
            lora.set_adapter(judge.network, lora.get_adapter(lm.network))
            found = evaluate(judge, unseen, batch=16, most_new_tokens=NEW_TOKENS)
            line = {
                "way": options.way, "seed": options.seed, "round": number + 1, "wins": report.wins,
                "losses": report.losses, "formatted": found.format_rate.count, "right": found.accuracy.count,
                "of": found.accuracy.n,
            }  # fmt: skip
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
