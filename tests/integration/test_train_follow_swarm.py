"""`train --follow` in a swarm: each update stands on what all know by then, and only what is kept goes out."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p.increments import waiting
from spearctl.home import Home
from tests.faults.trainer import Trainer, training
from tests.homes import Entry, told
from tests.integration.test_train_follow import SHARE, split
from tests.swarms import Device, agree, first_result, homes, invite, swarm
from training.history import History, Version
from training.log import append
from training.parsing import parse_entry

FOLLOW = ("--follow", "--batch", "3", "--held-out", "0")


@pytest.fixture
def pair(template: Home, tmp_path: Path) -> Iterator[list[Device]]:
    """Two members whose nodes run."""
    with swarm(tmp_path, template, "anna", "ben") as made:
        yield made


@pytest.fixture
def strangers(template: Home, tmp_path: Path) -> Iterator[list[Device]]:
    """Two devices, of which the first has founded a swarm and the second belongs to none."""
    with homes(tmp_path, template, "anna", "ben") as made:
        invite(made[0])
        made[0].up()
        yield made


def wait_for_round(follower: Trainer, number: int) -> None:
    """Waits until a follower has learned three verdicts, and waits for more."""
    follower.wait_for_line(f"round {number}: 3 judged by people")
    follower.wait_for_line("following")


def say(device: Device, entries: list[Entry]) -> None:
    append(device.home.feedback_path, [parse_entry(json.dumps(entry)) for entry in entries])


def versions(device: Device) -> list[Version]:
    with History(device.home.history_path) as history:
        return list(history.versions())


def shared_by(device: Device) -> str:
    """Digest of what a device uses."""
    folder = device.folder / f"shared-{len(list(device.folder.glob('shared-*')))}"
    return str(device.data("export", "--peft", str(folder))["sha256"])


def head_of(*devices: Device, least: int) -> int:
    """Waits until all agree; the round that they stand at."""
    agree(*devices, head=least)
    return int(devices[0].status()["swarm"]["head_round"])


def test_each_update_stands_on_what_others_learned_meanwhile(pair: list[Device]) -> None:
    anna, ben = pair
    say(anna, told(3))
    with training(anna.home, *FOLLOW) as follower:
        wait_for_round(follower, 1)
        before = head_of(anna, ben, least=1)
        ben.train(told(6, right="perhaps"))
        head = head_of(anna, ben, least=before + 1)
        theirs = shared_by(ben)
        say(anna, told(6)[3:])
        wait_for_round(follower, 2)
    *_, taken, made = versions(anna)
    assert (taken.parent, taken.sha256, taken.round) == (f"round:{head}", theirs, None)
    assert (made.parent, made.round, made.wins) == (taken.name, 2, 3)
    head_of(anna, ben, least=head + 1)
    assert shared_by(anna) == shared_by(ben) != theirs
    assert sum(anna.wins()) == 6


def test_what_is_discarded_goes_to_nobody(pair: list[Device]) -> None:
    anna, ben = pair
    learned, held = split([{**entry, "id": f"e{at}"} for at, entry in enumerate(told(60))])
    for entry in held:  # the slice says the opposite of what is learned
        entry["attempts"][0]["verdict"] = "wrong"
    say(anna, [*learned, *held])
    ben.train(told(6, right="perhaps"))
    head = head_of(anna, ben, least=1)
    words = ("--follow", "--held-out", str(SHARE), "--max-drop", "0", "--rounds", "1", "--json")
    with training(anna.home, *words) as follower:
        assert follower.end() == 0
        said = [json.loads(line) for line in (anna.folder / "out").read_text().splitlines()]
    assert said[0]["data"]["round"]["discarded"]
    assert (said[1]["data"]["adapter"], said[1]["data"]["shared"]["wins"]) == (versions(anna)[-1].name, 0)
    assert [version.parent for version in versions(anna)] == [f"round:{head}"]
    assert not waiting(anna.places.outbox)
    assert sum(anna.wins()) == 0
    anna.train(told(3, right="surely"), "--seed", "1")
    head_of(anna, ben, least=head + 1)
    assert sum(anna.wins()) == 3
    assert shared_by(anna) == shared_by(ben)


def test_a_follower_shares_with_a_swarm_that_was_joined_meanwhile(strangers: list[Device]) -> None:
    anna, ben = strangers
    say(ben, told(3))
    with training(ben.home, *FOLLOW) as follower:
        wait_for_round(follower, 1)
        assert first_result(ben.process("join", invite(anna), "--json", "--yes"))["joined"]
        head = head_of(anna, ben, least=1)
        say(ben, told(6)[3:])
        wait_for_round(follower, 2)
        head_of(anna, ben, least=head + 1)
        assert shared_by(anna) == shared_by(ben)
        assert sum(ben.wins()) == 6


def test_a_follower_keeps_to_itself_once_the_swarm_was_left(pair: list[Device]) -> None:
    anna, ben = pair
    say(ben, told(3))
    with training(ben.home, *FOLLOW) as follower:
        wait_for_round(follower, 1)
        head_of(anna, ben, least=1)
        assert ben("leave", "--yes").code == 0
        say(ben, told(6)[3:])
        wait_for_round(follower, 2)
        follower.signal(signal.SIGINT)
        assert follower.end() == 130
        assert "Traceback" not in follower.errors
    assert not ben.places.is_member
    assert not waiting(ben.places.outbox)
    assert versions(ben)[-1].name == ben.data("adapter", "list")["current"]
