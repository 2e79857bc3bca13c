"""Ctrl-C and its kin during `train`: the round in progress is dropped or kept whole, and the person is told which."""

from __future__ import annotations

import os
import shutil
import signal

import pytest

from spearctl.home import Home
from tests.cli import Cli
from tests.faults.trainer import training
from tests.homes import assert_sound, assert_tidy, files_of, told, winnable, write_log
from training.history import BASE, History

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
TOO_LATE = ["store.after-write", "store.after-rename", "history.before-commit", "history.after-commit"]
"""Behind the last point at which a round can be dropped."""


def name_of(value: object) -> str:
    return value.name if isinstance(value, signal.Signals) else str(value)


def current(device: Cli) -> str:
    with History(device.home.history_path) as history:
        return history.current


@pytest.mark.parametrize("number", SIGNALS, ids=name_of)
def test_a_signal_drops_the_first_round_and_changes_nothing(device: Cli, number: signal.Signals) -> None:
    device.log(*winnable(6), *told(4))
    with training(device.home, point="round.after-play") as trainer:
        trainer.wait_for("round.after-play")
        trainer.signal(number)
        trainer.wait_for_line("stopping at the next safe point")
        trainer.go_on()
        assert trainer.end() == 128 + number
        assert trainer.errors.splitlines() == ["round 1 dropped; 0 rounds kept", f"error: stopped by {number.name}"]
    assert current(device) == BASE
    with History(device.home.history_path) as history:
        assert history.rounds() == ()
        assert history.trained_count() == 0
    assert_tidy(device.home)


@pytest.mark.parametrize("point", ["round.before-play", "round.after-play"])
def test_a_signal_drops_the_round_in_progress_and_keeps_those_before_it(device: Cli, point: str) -> None:
    device.log(*winnable(6), *told(4))
    with training(device.home, "--rounds", "3", "--json", point=point, times=2) as trainer:
        trainer.wait_for(point)
        kept = files_of(device.home.adapters_path)
        trainer.signal(signal.SIGINT)
        trainer.wait_for_line("stopping")
        trainer.go_on()
        assert trainer.end() == 130
        assert trainer.errors.splitlines() == ["round 2 dropped; 1 round kept"]
    envelope = trainer.envelope
    assert (envelope["ok"], envelope["command"]) == (False, "train")
    assert [(error["code"], error["kind"]) for error in envelope["errors"]] == [(130, "Signalled")]
    assert [report["round"] for report in envelope["data"]["rounds"]] == [1]
    assert envelope["data"]["adapter"] == current(device) == "local:1"
    assert files_of(device.home.adapters_path) == kept
    assert_sound(device.home)
    assert_tidy(device.home)


def test_what_a_dropped_round_used_up_waits_for_the_next_train(device: Cli) -> None:
    device.log(*told(4))
    with training(device.home, point="round.after-play") as trainer:
        trainer.wait_for("round.after-play")
        trainer.signal(signal.SIGINT)
        trainer.wait_for_line("stopping")
        trainer.go_on()
        assert trainer.end() == 130
    outcome = device("train", "--json").envelope["data"]
    assert [(report["round"], report["told"]) for report in outcome["rounds"]] == [(1, 4)]


def test_the_round_after_a_dropped_one_is_the_one_that_it_would_have_been(device: Cli, template: Home) -> None:
    entries = [*winnable(6), *told(4)]
    device.log(*entries)
    undisturbed = Home(device.folder / "undisturbed")
    shutil.copytree(template.root, undisturbed.root)
    write_log(undisturbed.feedback_path, entries)
    with training(device.home, "--rounds", "2", point="round.after-play", times=2) as trainer:
        trainer.wait_for("round.after-play")
        trainer.signal(signal.SIGINT)
        trainer.wait_for_line("stopping")
        trainer.go_on()
        assert trainer.end() == 130
    assert device("train", "--rounds", "1").code == 0
    for _ in range(2):  # in one run the learning rate would fall
        assert device("train", "--home", str(undisturbed.root), "--rounds", "1").code == 0
    assert files_of(device.home.adapters_path) == files_of(undisturbed.adapters_path)


def test_a_signal_while_the_model_is_loaded_stops_at_once(device: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    device.log(*told(4))
    monkeypatch.setattr("spearctl.learner.load_model", stopped)
    outcome = device("train")
    assert (outcome.code, outcome.err) == (143, "error: stopped by SIGTERM\n")
    assert current(device) == BASE


@pytest.mark.parametrize("point", TOO_LATE)
def test_a_signal_that_comes_too_late_keeps_the_round_and_runs_no_other(device: Cli, point: str) -> None:
    device.log(*winnable(6), *told(4))
    with training(device.home, "--rounds", "3", "--json", point=point) as trainer:
        trainer.wait_for(point)
        trainer.signal(signal.SIGINT)
        trainer.wait_for_line("stopping")
        trainer.go_on()
        assert trainer.end() == 130
        assert trainer.errors.splitlines()[1:] == ["1 round kept"]
    assert [report["round"] for report in trainer.envelope["data"]["rounds"]] == [1]
    assert [error["code"] for error in trainer.envelope["errors"]] == [130]
    assert current(device) == "local:1"
    assert_sound(device.home)
    assert_tidy(device.home)


@pytest.mark.parametrize("point", ["round.before-play", "round.after-play", *TOO_LATE[:3]])
def test_a_second_signal_stops_at_once(device: Cli, point: str) -> None:
    device.log(*winnable(6), *told(4))
    with training(device.home, "--rounds", "2", point=point, times=2) as trainer:
        trainer.wait_for(point)
        kept = files_of(device.home.adapters_path / "local-1")
        trainer.signal(signal.SIGINT)
        trainer.wait_for_line("stopping")
        trainer.signal(signal.SIGTERM)
        assert trainer.end() == 143  # although nobody told it to go on
        assert trainer.errors.splitlines() == ["error: stopped by SIGTERM"]
    assert current(device) == "local:1"
    assert files_of(device.home.adapters_path / "local-1") == kept
    assert_sound(device.home)
    assert device("train", "--rounds", "1").code == 0
    assert_sound(device.home)
    assert_tidy(device.home)


def test_a_trainer_that_ignores_hangups_goes_on(device: Cli) -> None:
    """As `nohup` has it."""
    device.log(*told(4))
    with training(device.home, point="round.after-play", ignored=signal.SIGHUP) as trainer:
        trainer.wait_for("round.after-play")
        trainer.signal(signal.SIGHUP)
        trainer.go_on()
        assert trainer.end() == 0
    assert current(device) == "local:1"
