"""SIGKILL at every named point of `train`: what was recorded stays, what was not is as if it had never begun."""

from __future__ import annotations

import random
import signal

import pytest

from tests.cli import Cli
from tests.faults.trainer import training
from tests.homes import assert_sound, assert_tidy, told, winnable
from training.faults import FAULT_POINTS
from training.history import History

TOLD = 9
KEPT_POINTS = {"history.after-commit", "store.after-prune"}
"""Behind the commit: the round is recorded."""


def supply(device: Cli) -> tuple[int, int]:
    """How many attempts wait to be trained on, and how many were."""
    outcome = device("train", "--dry-run", "--json")
    assert outcome.code == 0
    found = outcome.envelope["data"]["supply"]
    return found["waiting"], found["already_trained"]


def assert_accepted(device: Cli) -> None:
    """Asserts that `status` and the next `train` take the home as a kill left it."""
    assert_sound(device.home)
    status = device("status", "--json")
    assert status.code == 0
    assert status.envelope["data"]["health"] == []
    assert status.envelope["data"]["training"]["running"] is None
    with History(device.home.history_path) as history:
        rounds, versions = history.next_round(), history.next_version()
    waiting, trained = supply(device)
    assert waiting + trained == TOLD
    outcome = device("train", "--rounds", "1", "--json")
    assert outcome.code == 0, outcome.envelope
    (report,) = outcome.envelope["data"]["rounds"]
    assert (report["round"], report["adapter"]) == (rounds, f"local:{versions}")
    assert supply(device) == (waiting - report["told"], trained + report["told"])
    assert_sound(device.home)
    assert_tidy(device.home)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("point", FAULT_POINTS)
def test_a_kill_at_any_point_leaves_a_home_that_status_and_train_accept(device: Cli, point: str, times: int) -> None:
    device.log(*winnable(6), *told(TOLD, losses=2))
    with training(device.home, "--rounds", "2", point=point, times=times) as trainer:
        trainer.wait_for(point)
        assert trainer.kill() == -signal.SIGKILL
    with History(device.home.history_path) as history:
        recorded = len(history.rounds())
    tidied_first = point == "store.after-prune"
    assert recorded == (2 * (times - 1) if tidied_first else times - (point not in KEPT_POINTS))
    assert_accepted(device)


def test_a_kill_in_the_middle_of_deleting_old_versions_is_finished_by_the_next_train(device: Cli) -> None:
    device.log(*winnable(6))
    with training(device.home, "--rounds", "3", point="store.after-prune", times=2) as trainer:
        trainer.wait_for("store.after-prune")
        assert trainer.kill() == -signal.SIGKILL
    with History(device.home.history_path) as history:
        assert [version.present for version in history.versions()] == [False, False, True]
    assert {path.name for path in device.home.adapters_path.iterdir()} == {"local-1", "local-2", "local-3"}
    assert_sound(device.home)
    assert device("train", "--rounds", "1").code == 0
    assert {path.name for path in device.home.adapters_path.iterdir()} == {"local-3", "local-4"}


@pytest.mark.parametrize("point", FAULT_POINTS)
def test_status_and_eval_work_while_a_trainer_stands_at_any_point(device: Cli, point: str) -> None:
    log = device.log(*winnable(6), *told(TOLD, losses=2))
    with training(device.home, "--rounds", "2", point=point, times=1) as trainer:
        trainer.wait_for(point)
        status = device("status", "--json")
        assert status.code == 0
        assert status.envelope["data"]["training"]["running"]["pid"] == trainer.process.pid
        assert device("eval", "--data", str(log), "--limit", "1").code == 0
        trainer.go_on()
        assert trainer.end() == 0
    assert_sound(device.home)


@pytest.mark.soak
def test_kills_at_random_times_in_a_row_lose_nothing(device: Cli) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201  # shown when the test fails
    rng = random.Random(seed)
    device.log(*winnable(6))
    killed = 0
    for step in range(100):
        device.log(*(entry | {"id": f"{entry['id']}-{step}"} for entry in told(2, losses=step % 2)))
        with training(device.home, "--rounds", "1000") as trainer:
            trainer.process.join(rng.uniform(0.0, 2.0))
            killed += trainer.kill() == -signal.SIGKILL
        assert_sound(device.home)
        assert device("status", "--json").code == 0
    assert killed == 100
    assert device("train", "--rounds", "100").code == 0
    assert_sound(device.home)
    assert_tidy(device.home)
    assert supply(device) == (0, 200)
