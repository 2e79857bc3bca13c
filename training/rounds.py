"""A round: draw from the log, play, update, keep. All of it happens or nothing does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from training import lora
from training.faults import reach
from training.history import History, NewVersion
from training.holdout import HoldOut, Judgement
from training.memory import trim
from training.models import LanguageModel
from training.pool import Draw, Pool
from training.rollout import Notify
from training.selfplay import PlayConfig, play
from training.store import AdapterStore
from training.tally import Tally
from training.told import told_traces
from training.traces import Trace
from training.update import UpdateConfig, UpdateReport, update


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundConfig:
    """How to run rounds.

    Attributes:
        rollouts: Prompts played and judged attempts used, together.
        play: How to play.
        update: How to learn.
        max_lose_ratio: Losses are capped at so many times the wins.
        seed: Everything random in a round follows from this and the round's number.
    """

    rollouts: int
    play: PlayConfig
    update: UpdateConfig
    max_lose_ratio: float = 2.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """What a round did. Shares are None where there was too little to say, and held-out figures without a slice."""

    round: int
    adapter: str
    played: int
    told: int
    replayed: int
    right_first: int
    reformatted: int
    revised: int
    wins: int
    losses: int
    dropped: int
    echoes: int
    cut: int
    prompts_cut: int
    completions_cut: int
    common_answer: str | None
    common_share: float | None
    revisions: int
    changed_share: float | None
    steps: int
    skipped_steps: int
    loss_win: float | None
    loss_lose: float | None
    held_out: int
    drop: float | None
    discarded: str | None
    play_seconds: float
    update_seconds: float
    seconds: float
    health: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def annealed(rate: float, index: int, rounds: int) -> float:
    """The learning rate of round ``index`` (from 0) of a run of ``rounds``: full for half of it, then down to a tenth.

    Rounds at the full rate each overwrite a good part of what the one before learned, so where a run ends would be a
    matter of luck; small last rounds average it out. The fall is a straight line; a run of one round is at full rate.
    """
    full = (rounds + 1) // 2
    return rate if index < full else rate * (1 - 0.9 * (index + 1 - full) / (rounds - full))


def run_round(
    lm: LanguageModel,
    store: AdapterStore,
    history: History,
    pool: Pool,
    config: RoundConfig,
    *,
    hold_out: HoldOut | None = None,
    notify: Notify = lambda phase, done, total: None,
) -> RoundReport:
    """Runs one round from the current adapter version, keeps the new one, and returns the report that was recorded.

    The model must carry the current version. When anything raises before the round is recorded, ``Interrupted`` out of
    ``notify`` included, the model's adapter is put back, from disk, and nothing is kept.

    Args:
        lm: Carries the current version; carries the new one afterwards.
        store: Where versions are kept.
        history: Where the round is recorded.
        pool: What there is to learn from; what the round used is taken out.
        config: Sizes and seed.
        hold_out: Judges the update before it becomes a version. One that loses is discarded, and what people said in
            it is used up: history tells the reason.
        notify: Called at safe points; may raise.
    """
    started = time.monotonic()
    number, start = history.next_round(), history.current
    put_back = partial(_put_back, lm, store, start)
    try:
        reach("round.before-play")
        draw = pool.draw(config.rollouts, seed=_seed(config.seed, number, 0))
        tally = Tally()
        traces = _gather(lm, draw, config, number, tally, notify)
        reach("round.after-play")
        played_at = time.monotonic()
        learned, judgement = _learn(lm, put_back, traces, pool, config, number, hold_out, notify)
        reach("round.after-update")
        is_kept = learned.steps > 0 and judgement.reason is None
        version = _write(lm, store, start, learned.wins - len(draw.replays)) if is_kept else None
        # Where no step was taken nothing was learned from what people said: it stays for a round that has wins.
        used = draw if learned.steps else replace(draw, told=())
        adapter = f"local:{version.number}" if version else start
        times = _Times(started, played_at, time.monotonic())
        report = _report(number, adapter, draw, tally, learned, judgement, pool, times)
        _record(history, report, version, used)
    except BaseException:
        put_back()
        raise
    pool.use(used)
    return report


def _learn(
    lm: LanguageModel,
    put_back: Callable[[], None],
    traces: list[Trace],
    pool: Pool,
    config: RoundConfig,
    number: int,
    hold_out: HoldOut | None,
    notify: Notify,
) -> tuple[UpdateReport, Judgement]:
    """Updates the model's adapter, and says whether that may be kept; puts it back where it may not."""
    before = hold_out.scores(lm, notify=notify) if hold_out is not None else None
    settings = replace(config.update, seed=_seed(config.seed, number, 2))
    learned = update(lm, traces, settings, rates=pool.answer_rates(), notify=notify)
    trim()  # it may be long until the next round
    if hold_out is None or before is None or not learned.steps:
        return learned, Judgement(0, 0.0, 1.0, None)
    judgement = hold_out.judge(before, hold_out.scores(lm, notify=notify))
    if judgement.reason is not None:
        put_back()
    return learned, judgement


def _put_back(lm: LanguageModel, store: AdapterStore, version: str) -> None:
    lora.set_adapter(lm.network, store.load(version))


def _write(lm: LanguageModel, store: AdapterStore, parent: str, news: int) -> NewVersion:
    """Puts what was learned on disk. Others weigh a version by what it won; what was won before is no news."""
    return store.write(lora.get_adapter(lm.network), parent=parent, wins=max(1, news))


def _record(history: History, report: RoundReport, version: NewVersion | None, used: Draw) -> None:
    history.commit(
        number=report.round,
        seconds=report.seconds,
        report=report.as_dict(),
        version=version,
        trained=[told.key for told in used.told],
        played=[entry.prompt_key for entry in used.plays],
    )


def _gather(
    lm: LanguageModel, draw: Draw, config: RoundConfig, number: int, tally: Tally, notify: Notify
) -> list[Trace]:
    sampling = replace(config.play.sampling, seed=_seed(config.seed, number, 1))
    traces = told_traces(lm, (*draw.told, *draw.replays), tally)
    traces += play(lm, draw.plays, replace(config.play, sampling=sampling), tally, notify=notify)
    trim()
    return _capped(traces, config.max_lose_ratio, _seed(config.seed, number, 3))


def _capped(traces: list[Trace], ratio: float, seed: int) -> list[Trace]:
    """Keeps all wins and at most ``ratio`` times as many losses, drawn at random: too many unlearn how to speak."""
    losses = [i for i, trace in enumerate(traces) if not trace.win]
    most = int(ratio * (len(traces) - len(losses)))
    if len(losses) <= most:
        return traces
    kept = set(np.random.default_rng(seed).choice(losses, size=most, replace=False).tolist())
    return [trace for i, trace in enumerate(traces) if trace.win or i in kept]


@dataclass(frozen=True, slots=True)
class _Times:
    """When a round started, had played, and had learned, in seconds of one clock."""

    started: float
    played: float
    ended: float


def _report(
    number: int,
    adapter: str,
    draw: Draw,
    tally: Tally,
    learned: UpdateReport,
    judgement: Judgement,
    pool: Pool,
    times: _Times,
) -> RoundReport:
    common = tally.common_answer
    return RoundReport(
        round=number,
        adapter=adapter,
        played=tally.played,
        told=len(draw.told),
        replayed=len(draw.replays),
        right_first=tally.right_first,
        reformatted=tally.reformatted,
        revised=tally.revised,
        wins=learned.wins,
        losses=learned.losses,
        dropped=tally.dropped,
        echoes=tally.echoes,
        cut=tally.cut,
        prompts_cut=tally.prompts_cut,
        completions_cut=tally.completions_cut,
        common_answer=common and common[1],
        common_share=common and common[2],
        revisions=tally.revisions,
        changed_share=tally.changed_share,
        steps=learned.steps,
        skipped_steps=learned.skipped_steps,
        loss_win=_finite(learned.loss_win),
        loss_lose=_finite(learned.loss_lose),
        held_out=judgement.entries,
        drop=judgement.drop if judgement.entries else None,
        discarded=judgement.reason,
        play_seconds=times.played - times.started,
        update_seconds=times.ended - times.played,
        seconds=times.ended - times.started,
        health=tuple(tally.health(pool.answer_rates())),
    )


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence([part % 2**64 for part in parts]).generate_state(1, np.uint64)[0])
