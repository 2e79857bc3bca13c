"""SIGKILL between learning and sharing: nothing that was learned is lost, nothing counts twice."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p.increments import read_increments, waiting, write_increment
from spearctl.home import Home
from tests.faults.trainer import training
from tests.homes import adapter_of, winnable, write_log
from tests.swarms import GRID, Device, Tensors, furthest, homes, invite, until
from training.history import History

KILLED_BETWEEN_LEDGER_AND_FILE = """
import os, pathlib, signal, sys
import p2p.faults
outbox = pathlib.Path(sys.argv[-1], "outbox")
def hook(point):
    if point == "ledger.after-commit" and list(outbox.glob("*.safetensors")):
        os.kill(os.getpid(), signal.SIGKILL)
p2p.faults.hook = hook
from spearctl.main import entry
entry()
"""
"""A node that takes an increment and dies before it removes the file."""


@pytest.fixture
def anna(template: Home, tmp_path: Path) -> Iterator[Device]:
    """The founder and only member of a swarm, with a log to learn from; its node does not run."""
    with homes(tmp_path, template, "anna") as (made,):
        invite(made)
        write_log(made.home.feedback_path, winnable(6))
        yield made


def kill_after_commit(device: Device, *words: str) -> None:
    """A `train` that dies between recording its round and handing it over."""
    with training(device.home, "--rounds", "1", *words, point="history.after-commit") as trainer:
        trainer.wait_for("history.after-commit")
        assert trainer.kill() == -signal.SIGKILL
    assert waiting(device.places.outbox) == ()


def learned(device: Device, version: str) -> Tensors:
    """A version as its export would be."""
    kept = adapter_of(device.home, version)
    return {f"base_model.model.{name}.weight": values for name, values in kept.items()}


def up(device: Device, wins: int) -> None:
    """Runs the node until it has taken so many wins in all."""
    process = device.up()
    until(lambda: not waiting(device.places.outbox))
    assert sum(device.wins()) == wins
    assert device("down").code == 0
    assert process.wait() == 0


def test_a_round_that_was_killed_before_its_hand_over_is_shared_at_the_next_up(anna: Device) -> None:
    kill_after_commit(anna)
    up(anna, wins=6)
    assert furthest(anna.export(), learned(anna, "local:1")) <= GRID
    up(anna, wins=6)


def test_a_round_that_was_killed_before_its_hand_over_is_shared_by_the_next_train(anna: Device) -> None:
    anna.up()
    kill_after_commit(anna)
    said = anna.train(winnable(6))
    assert said["shared"]["wins"] == 12
    until(lambda: not waiting(anna.places.outbox))
    assert sum(anna.wins()) == 12
    assert furthest(anna.export(), learned(anna, said["adapter"])) <= 2 * GRID


def test_a_hand_over_that_was_killed_between_file_and_marker_counts_once(anna: Device) -> None:
    marker = anna.places.outbox / ".handed-over"
    before = marker.read_bytes()
    anna.train(winnable(6))
    up(anna, wins=6)
    marker.write_bytes(before)
    up(anna, wins=6)
    marker.write_bytes(before)
    assert anna.train(winnable(6), "--again")["shared"]["wins"] == 12
    up(anna, wins=12)


def test_a_node_that_was_killed_between_ledger_and_file_takes_an_increment_once(anna: Device) -> None:
    anna.train(winnable(6))
    before = anna.export()
    process = anna.process("up", code=KILLED_BETWEEN_LEDGER_AND_FILE)
    assert process.wait() == -signal.SIGKILL
    assert len(waiting(anna.places.outbox)) == 1
    assert furthest(anna.export(), before) <= GRID
    up(anna, wins=6)
    assert furthest(anna.export(), before) <= GRID


def test_what_a_killed_run_meant_to_keep_is_kept(anna: Device) -> None:
    kill_after_commit(anna, "--no-share")
    up(anna, wins=0)
    anna.train(winnable(6))
    up(anna, wins=6)
    assert anna.data("train", "--share-kept")["shared_increments"] == 1
    up(anna, wins=12)


def test_what_a_killed_run_meant_to_share_is_shared_although_the_next_one_keeps(anna: Device) -> None:
    kill_after_commit(anna)
    anna.train(winnable(6), "--no-share")
    up(anna, wins=6)
    assert anna.data("train", "--share-kept")["shared_increments"] == 1


def test_a_version_that_is_damaged_before_its_hand_over_keeps_nothing_else_back(anna: Device) -> None:
    kill_after_commit(anna)
    path = anna.home.adapters_path / "local-1" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\xff\xff\xff\xff")
    up(anna, wins=0)
    assert anna.train(winnable(6))["shared"]["wins"] == 6
    up(anna, wins=6)


def test_what_a_killed_trainer_left_half_written_is_neither_taken_nor_in_the_way(anna: Device) -> None:
    outbox = anna.places.outbox
    (outbox / ".half.writing").write_bytes(b"half")
    anna.train(winnable(6))
    (path,) = waiting(outbox)
    (increment,) = read_increments(outbox, _parameters(path))
    half = outbox / f".{increment.id}.writing"
    half.write_bytes(b"half")
    write_increment(outbox, increment.id, increment.values, increment.wins, increment.base)
    assert not half.exists()
    up(anna, wins=6)
    assert anna.status_of_stopped()["health"] == []


def _parameters(path: Path) -> int:
    from safetensors.numpy import load_file

    return int(next(iter(load_file(path).values())).size)


@pytest.mark.soak
def test_trainers_and_nodes_that_are_killed_at_random_lose_nothing_and_count_nothing_twice(anna: Device) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201  # shown when the test fails
    rng = random.Random(seed)
    for _ in range(40):
        node = anna.up()
        with training(anna.home, "--rounds", "1000") as trainer:
            trainer.process.join(rng.uniform(0.0, 1.5))
            if rng.random() < 0.5:
                os.kill(node.pid, signal.SIGKILL)
            trainer.process.join(rng.uniform(0.0, 0.5))
            assert trainer.kill() == -signal.SIGKILL
        node.kill()
        node.wait()
    with History(anna.home.history_path) as history:
        made = sum(version.wins for version in history.versions() if not version.parent.startswith("round:"))
    assert made > 0
    up(anna, wins=made)
