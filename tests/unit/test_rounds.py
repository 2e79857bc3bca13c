"""A round: all of it happens or nothing does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.learner import entry, on_head
from training import faults, lora
from training.adapters import adapter_digest
from training.checks import Exact, YesNo
from training.errors import Interrupted, StoreError
from training.feedback import Attempt, Entry
from training.history import History
from training.holdout import HoldOut, Judgement
from training.models import LanguageModel
from training.pool import Pool
from training.rollout import Completion, Notify
from training.rounds import RoundConfig, RoundReport, annealed, run_round
from training.selfplay import PlayConfig
from training.store import AdapterStore
from training.update import UpdateConfig

CONFIG = RoundConfig(
    rollouts=8, play=PlayConfig(rollout_batch=4), update=UpdateConfig(steps=2, batch=4, learning_rate=1e-3)
)
PARIS = Exact("Paris", format="bare")


class Home:
    """A home that learns: a tiny model, its versions and its history."""

    def __init__(self, lm: LanguageModel, folder: Path) -> None:
        self.lm = lm
        self.history = History(folder / "node.db")
        self.store = AdapterStore(
            folder / "adapters",
            self.history,
            base_model="tiny",
            fingerprint=lm.source.fingerprint,
            shape=lm.adapter_shape,
            dropout=0.0,
        )

    def pool(self, *entries: Entry) -> Pool:
        return Pool(entries, trained=self.history.trained(), played=self.history.plays())

    def round(self, pool: Pool, config: RoundConfig = CONFIG, **options: Any) -> RoundReport:
        return run_round(self.lm, self.store, self.history, pool, config, **options)

    @property
    def digest(self) -> str:
        return adapter_digest(lora.get_adapter(self.lm.network))

    @property
    def recorded(self) -> tuple[object, ...]:
        history = self.history
        return (history.current, history.versions(), history.rounds(), history.trained(), history.plays())


@pytest.fixture
def home(tiny: LanguageModel, tmp_path: Path) -> Home:
    return Home(tiny, tmp_path)


@pytest.fixture
def answers(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes self-play say one thing in the first wave and another in all later ones, and tell its progress."""

    def answers(first: str, later: str = "Oslo") -> None:
        def sample(lm: LanguageModel, prompts: Any, limits: Any, *_: Any, phase: str, notify: Notify, **__: Any) -> Any:
            said = first if phase == "answering" else later
            notify(phase, len(prompts), len(prompts))
            return [Completion(tuple(lm.encode_text(said)), True) for _ in prompts]

        monkeypatch.setattr("training.selfplay.sample", sample)

    return answers


def questions(count: int, check: Any = PARIS) -> list[Entry]:
    return [entry(check, id=f"p{at}", prompt=f"Question {at}?") for at in range(count)]


def comments(*verdicts: str) -> list[Entry]:
    return [
        entry(id=f"t{at}", prompt=f"Thing {at}?", attempts=(Attempt(f"It is {at}.", verdict),))  # type: ignore[arg-type]
        for at, verdict in enumerate(verdicts)
    ]


def test_a_round_makes_a_version_that_the_model_carries_and_the_history_knows(
    home: Home, answers: Callable[..., None]
) -> None:
    answers("Rome", "Paris")
    start = home.digest
    entries = [*questions(4), *comments("right", "wrong")]
    pool = home.pool(*entries)
    report = home.round(pool)
    assert home.digest != start
    assert home.history.current == report.adapter == "local:1"
    assert adapter_digest(home.store.load("local:1")) == home.digest
    (version,) = home.history.versions()
    assert (version.parent, version.round, version.wins) == ("base", 1, 5)
    assert (report.round, report.played, report.told, report.wins, report.losses) == (1, 4, 2, 5, 5)
    assert (report.right_first, report.revised, report.steps) == (0, 4, 2)
    (record,) = home.history.rounds()
    assert record.report == json.loads(json.dumps(report.as_dict()))
    assert record.seconds == report.seconds >= report.play_seconds >= 0
    assert home.history.plays() == {one.prompt_key: 1 for one in entries[:4]}
    assert home.history.trained_count() == 2
    assert (pool.waiting, home.pool(*entries).already_trained) == (0, 2)


def test_rounds_build_on_each_other(home: Home, answers: Callable[..., None]) -> None:
    answers("Paris")
    pool = home.pool(*questions(4))
    digests = []
    for _ in range(3):
        home.round(pool)
        digests.append(home.digest)
    assert [version.parent for version in home.history.versions()] == ["base", "local:1", "local:2"]
    assert [version.sha256 for version in home.history.versions()] == digests
    assert len(set(digests)) == 3


def test_a_round_without_wins_changes_nothing_and_is_recorded(home: Home, answers: Callable[..., None]) -> None:
    answers("Rome")
    start = home.digest
    pool = home.pool(*questions(3), *comments("wrong", "wrong"))
    report = home.round(pool)
    assert home.digest == start
    assert (report.adapter, report.wins, report.steps, report.loss_win, report.loss_lose) == ("base", 0, 0, None, None)
    assert (home.history.current, home.history.versions()) == ("base", ())
    (record,) = home.history.rounds()
    assert record.version is None
    assert record.report == json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert (home.history.trained_count(), pool.waiting) == (0, 2)
    assert home.round(pool).round == 2


def test_a_round_without_wins_still_counts_what_was_played(home: Home, answers: Callable[..., None]) -> None:
    answers("Rome")
    pool = home.pool(*questions(6))
    config = replace(CONFIG, rollouts=3)
    for _ in range(2):
        home.round(pool, config)
    assert set(home.history.plays().values()) == {1}
    assert len(home.history.plays()) == 6


def test_steps_that_were_all_skipped_make_no_version(home: Home, answers: Callable[..., None]) -> None:
    answers("Paris")
    start = home.digest

    def poison(logits: Any) -> None:
        if logits.requires_grad:
            logits.data.fill_(float("nan"))

    handle = on_head(home.lm, poison)
    report = home.round(home.pool(*questions(3)))
    handle.remove()
    assert (report.wins, report.steps, report.skipped_steps, report.adapter) == (3, 0, 2, "base")
    assert home.digest == start
    assert home.history.versions() == ()


class _Stop:
    """Raises at one point: a fault point, or a phase of ``notify``."""

    def __init__(self, point: str, error: type[BaseException]) -> None:
        self.point, self.error = point, error
        self.met = False

    def fault(self, reached: str) -> None:
        if reached == self.point:
            self.met = True
            raise self.error("stop here")

    def notify(self, phase: str, done: int, total: int) -> None:
        if self.point in (phase, f"{phase} {done}"):
            self.met = True
            raise self.error("stop here")


POINTS = (
    *("answering", "revising", "learning 1", "learning 2"),
    *("round.before-play", "round.after-play", "round.after-update", "store.after-write", "store.after-rename"),
    "history.before-commit",
)


@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt])
@pytest.mark.parametrize("point", POINTS)
def test_a_round_that_is_stopped_anywhere_leaves_no_trace(
    home: Home,
    answers: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    error: type[BaseException],
) -> None:
    answers("Rome", "Paris")
    pool = home.pool(*questions(6), *comments("right", "wrong"))
    home.round(pool, replace(CONFIG, rollouts=3))
    before, recorded, waiting = home.digest, home.recorded, pool.waiting
    stop = _Stop(point, error)
    monkeypatch.setattr(faults, "hook", stop.fault)
    with pytest.raises(error, match="stop here"):
        home.round(pool, notify=stop.notify)
    monkeypatch.setattr(faults, "hook", None)
    assert stop.met
    assert home.digest == before
    assert home.recorded == recorded
    assert pool.waiting == waiting
    assert adapter_digest(home.store.load(home.history.current)) == before
    home.store.tidy()
    assert home.round(pool).adapter == "local:2"
    assert adapter_digest(home.store.load("local:2")) == home.digest


def test_a_round_that_was_dropped_can_be_had_again_the_same(
    home: Home, answers: Callable[..., None], tmp_path: Path, tiny: LanguageModel
) -> None:
    answers("Rome", "Paris")
    start = lora.get_adapter(tiny.network)
    stop = _Stop("learning 1", Interrupted)
    with pytest.raises(Interrupted):
        home.round(home.pool(*questions(12)), notify=stop.notify)
    home.round(home.pool(*questions(12)))
    (tmp_path / "other").mkdir()
    for seed, same in ((0, True), (1, False)):
        lora.set_adapter(tiny.network, start)
        (tmp_path / f"{seed}").mkdir()
        other = Home(tiny, tmp_path / f"{seed}")
        other.round(other.pool(*questions(12)), replace(CONFIG, seed=seed))
        assert (other.history.versions()[0].sha256 == home.history.versions()[0].sha256) is same


def test_a_version_that_cannot_be_written_puts_the_adapter_back(
    home: Home, answers: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers("Paris")
    before, recorded = home.digest, home.recorded

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("training.store.os.rename", full)
        with pytest.raises(StoreError, match="No space left"):
            home.round(home.pool(*questions(3)))
    assert (home.digest, home.recorded) == (before, recorded)


@pytest.mark.parametrize(("ratio", "losses"), [(0.0, 0), (1.0, 2), (2.0, 4), (9.0, 6)])
def test_losses_are_capped_by_wins(home: Home, ratio: float, losses: int) -> None:
    pool = home.pool(*comments(*["right"] * 2, *["wrong"] * 6))
    report = home.round(pool, replace(CONFIG, max_lose_ratio=ratio))
    assert (report.wins, report.losses) == (2, losses)


def test_a_collapse_is_reported(home: Home, answers: Callable[..., None]) -> None:
    answers("yes", "yes")
    entries = [
        entry(YesNo("yes" if at % 2 else "no", format="bare"), id=f"p{at}", prompt=f"Is it {at}?") for at in range(20)
    ]
    report = home.round(home.pool(*entries), replace(CONFIG, rollouts=20))
    assert (report.common_answer, report.common_share) == ("yes", 1.0)
    assert (report.revisions, report.changed_share) == (20, 0.0)
    assert [line.split(":")[0] for line in report.health] == ["collapse", "revisions change nothing"]
    assert home.history.rounds()[0].report["health"] == list(report.health)


def test_a_healthy_round_reports_no_illness(home: Home, answers: Callable[..., None]) -> None:
    answers("Paris")
    report = home.round(home.pool(*questions(3)))
    assert (report.health, report.common_answer, report.changed_share) == ((), None, None)


def test_a_run_ends_with_small_steps() -> None:
    rates = [annealed(1.0, index, 8) for index in range(8)]
    assert rates[:4] == [1.0] * 4
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.1)
    assert [annealed(1.0, index, 3) for index in range(3)] == pytest.approx([1.0, 1.0, 0.1])
    assert annealed(3e-4, 0, 1) == 3e-4


class Strict:
    """Stands for a held-out slice: its scores are what the test says, before and after."""

    def __init__(self, *scores: float) -> None:
        self.found = [np.full(20, score) for score in scores]
        self.real = HoldOut((), 0.05, 4, 4)

    def scores(self, lm: LanguageModel, *, notify: Notify) -> Any:
        return self.found.pop(0)

    def judge(self, before: Any, after: Any) -> Judgement:
        return self.real.judge(before, after)


def test_an_update_that_loses_is_discarded_with_its_reason_and_what_it_used_is_used_up(
    home: Home, answers: Callable[..., None]
) -> None:
    answers("Paris")
    pool, start = home.pool(*questions(3), *comments("right", "wrong")), home.digest
    report = home.round(pool, hold_out=Strict(0.9, 0.2))
    assert report.discarded is not None
    assert "from 0.90 to 0.20" in report.discarded
    assert (report.held_out, report.steps, report.adapter) == (20, 2, "base")
    assert report.drop == pytest.approx(0.7)
    assert (home.digest, home.history.current, home.history.versions()) == (start, "base", ())
    assert home.history.rounds()[0].report["discarded"] == report.discarded
    assert len(home.history.trained()) == 2
    assert pool.waiting == 0


def test_an_update_that_does_not_lose_is_kept_with_its_figures(home: Home, answers: Callable[..., None]) -> None:
    answers("Paris")
    report = home.round(home.pool(*questions(3)), hold_out=Strict(0.5, 0.6))
    assert (report.adapter, report.discarded, report.held_out) == ("local:1", None, 20)
    assert report.drop == pytest.approx(-0.1)


def test_replays_are_learned_from_but_are_no_news_to_others(home: Home, answers: Callable[..., None]) -> None:
    answers("Rome", "Oslo")
    entries = comments("right", "right", "right", "wrong")
    assert home.round(home.pool(*entries)).wins == 3
    more = entry(id="new", prompt="More?", attempts=(Attempt("It is more.", "right"),))
    pool = Pool([*entries, more], trained=home.history.trained(), played=home.history.plays(), replay=0.25)
    report = home.round(pool)
    assert (report.told, report.replayed, report.wins) == (1, 2, 3)
    assert [version.wins for version in home.history.versions()] == [3, 1]
    assert len(home.history.trained()) == 5
