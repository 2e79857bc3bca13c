"""Accuracy after each of five equal rounds: ``python -m tests.benchmarks.curve WAY FOLDER --seed N``.

WAY is ``ours`` or ``baseline``, FOLDER holds downloaded models. Both play the demo's questions with the same sizes.
Adapters are judged by one model's greedy answers to questions that neither saw. Prints a JSON line a round. A round of
the baseline takes minutes on two cores, so what was measured so far is kept in ``curve.jsonl``.

What a model happens to get right in its first rounds decides what it learns from then on, so runs of one way differ
widely. With ``--beside``, a way in float32 starts each round from the same adapter, plays the same questions, and
learns from the traces of the first: what differs then is the way; or, beside ``ours``, which draws the same random
numbers in every dtype, the dtype alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spearctl.questions import demo_log
from tests.benchmarks import baseline
from tests.benchmarks.round import NEW_TOKENS, ROLLOUTS, load
from training import lora, rollout, rounds, selfplay, update
from training.checks import Verdict
from training.evaluate import evaluate
from training.feedback import Entry
from training.history import History
from training.models import LanguageModel
from training.pool import Pool
from training.rounds import RoundConfig, annealed
from training.selfplay import PlayConfig
from training.store import AdapterStore
from training.tally import Tally
from training.traces import Trace
from training.update import UpdateConfig, UpdateReport

ROUNDS, SEEN, UNSEEN = 5, 200, 120
LEARNING_RATE = 1e-3
"""Of the rates that the bench tries (``--calibrate``), the one by which five small rounds learn the most."""

_WAYS = {"ours": (rollout.sample, update.update), "baseline": (baseline.sample, baseline.update)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.curve", description=__doc__)
    parser.add_argument("way", choices=[*_WAYS])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of ours; the profile's own by default")
    parser.add_argument("--beside", choices=[*_WAYS], help="a way, in float32")
    options = parser.parse_args()
    seen, unseen = demo_log(train=SEEN, test=UNSEEN, seed=0)
    lm, profile = load(options.way, options.folder, dtype=options.dtype)
    judge, _ = load("ours", options.folder)
    selfplay.sample, rounds.update = _WAYS[options.way]  # type: ignore[assignment]
    beside = Beside(options.beside, options.folder) if options.beside else None
    if beside is not None:
        rounds.play, rounds.update = beside.play, beside.update  # type: ignore[assignment]
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
            line = {
                "way": options.way, "dtype": str(lm.causal.dtype).removeprefix("torch."), "seed": options.seed,
                "round": number + 1, "wins": report.wins, "losses": report.losses, **judged(judge, lm, unseen),
            }  # fmt: skip
            if beside is not None:
                found = judged(judge, beside.lm, unseen)
                line["beside"] = {"way": beside.name, "dtype": "float32", "wins": beside.wins, **found}
            print(json.dumps(line), flush=True)


def judged(judge: LanguageModel, learner: LanguageModel, unseen: Sequence[Entry]) -> dict[str, int]:
    """How many questions are answered in the asked form, how many rightly, and how many of these ask for a number."""
    lora.set_adapter(judge.network, lora.get_adapter(learner.network))
    found = evaluate(judge, unseen, batch=16, most_new_tokens=NEW_TOKENS)
    checks = [answered.entry.check for answered in found.answers if answered.judgement.verdict is Verdict.RIGHT]
    return {
        "formatted": found.format_rate.count,
        "right": found.accuracy.count,
        "numbers": sum(check is not None and str(check.expect).isdigit() for check in checks),
        "of": found.accuracy.n,
    }


class Beside:
    """A way in float32, that does each round of a run from the same adapter, on the same traces.

    Attributes:
        name: Of the way.
        lm: Its model; carries what it learned in the last round.
        wins: Of its own games in the last round.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.wins = name, 0
        self.lm, _ = load(name, folder, dtype="float32")
        self._sample, self._update = _WAYS[name]
        self._run_sample, self._run_update = selfplay.sample, rounds.update

    def play(
        self, lm: LanguageModel, entries: Sequence[Entry], config: PlayConfig, tally: Tally, **more: Any
    ) -> list[Trace]:
        """Takes the place of ``training.selfplay.play``: what the run learns from is the run's."""
        lora.set_adapter(self.lm.network, lora.get_adapter(lm.network))
        selfplay.sample = self._sample  # type: ignore[assignment]
        self.wins = sum(trace.win for trace in selfplay.play(self.lm, entries, config, Tally()))
        selfplay.sample = self._run_sample
        return selfplay.play(lm, entries, config, tally, **more)

    def update(self, lm: LanguageModel, traces: Sequence[Trace], config: UpdateConfig, **more: Any) -> UpdateReport:
        """Takes the place of ``training.update.update``."""
        self._update(self.lm, traces, config, **more)
        return self._run_update(lm, traces, config, **more)


if __name__ == "__main__":
    main()
