"""`spearctl leave`, killed at every point: the home is a member's as before, or nobody's, and can go on either way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p.identity import FILE_NAME, load
from p2p.leaving import FAULT_POINTS, unfinished
from spearctl.home import Home
from tests.cli import clean_environment
from tests.homes import adapter_of, winnable
from tests.swarms import Device, furthest, homes, invite
from training.adapters import adapter_digest
from training.history import History

KILLED = """
import os, signal, sys
import p2p.faults, training.faults
wanted = sys.argv.pop(1)
def hook(point):
    if point == wanted:
        os.kill(os.getpid(), signal.SIGKILL)
p2p.faults.hook = training.faults.hook = hook
from spearctl.main import entry
entry()
"""
STORE_POINTS = ("store.after-write", "store.after-rename")


@pytest.fixture
def anna(tmp_path: Path, template: Home) -> Iterator[Device]:
    with homes(tmp_path, template, "anna") as (made,):
        invite(made)
        made.train(winnable(6))
        yield made


def leave_killed_at(device: Device, point: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, point, "leave", "--yes", "--home", str(device.home.root)],
        env=clean_environment(device.folder),
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9, (point, done.stderr)


@pytest.mark.parametrize("point", [*STORE_POINTS, *FAULT_POINTS])
def test_a_kill_leaves_the_old_or_the_new(anna: Device, point: str) -> None:
    used, who = anna.export(), load(anna.home.root).node_id
    leave_killed_at(anna, point)
    was_member = anna.places.is_member
    assert was_member == (point in STORE_POINTS or point in FAULT_POINTS[:2])
    assert furthest(anna.export(), used) <= 2.0**-22
    assert load(anna.home.root)
    if was_member:
        assert load(anna.home.root).node_id == who
        assert anna.places.outbox.exists()
        assert unfinished(anna.places) is None
        assert anna.status_of_stopped()["swarm"]["members"] == 1
    assert anna("leave", "--yes").code in ({0} if was_member or unfinished(anna.places) else {0, 4})
    (left,) = anna.home.root.glob("swarm.left-*")
    assert {"ledger.db", FILE_NAME, "outbox", "recovery.pem"} <= {path.name for path in left.iterdir()}
    assert "leaving" not in {path.name for path in left.iterdir()}
    assert load(left).node_id == who
    assert load(anna.home.root).node_id != who
    assert not anna.places.outbox.exists()
    assert not anna.places.recovery.exists()
    assert_whole(anna)
    assert furthest(anna.export(), used) <= 2.0**-22


def assert_whole(device: Device) -> None:
    """Asserts that history and folders agree, as far as versions that no round made let them."""
    with History(device.home.history_path) as history:
        versions = history.versions()
    for version in versions:
        assert adapter_digest(adapter_of(device.home, version.name)) == version.sha256


def test_what_is_pending_counts_once_however_often_leaving_begins(tmp_path: Path, template: Home) -> None:
    with homes(tmp_path, template, "anna") as (anna,):
        anna.train(winnable(6))
        invite(anna)
        anna.train(winnable(6, name="more"))
        used = anna.export()
        for _ in range(2):
            leave_killed_at(anna, "leave.after-keys")
            assert furthest(anna.export(), used) <= 2.0**-22
        anna.data("leave", "--yes")
        assert furthest(anna.export(), used) <= 2.0**-22
        with History(anna.home.history_path) as history:
            assert history.version(history.current).wins == 6


def test_what_was_left_is_named_by_the_run_that_finishes_it(anna: Device) -> None:
    genesis = anna.status_of_stopped()["swarm"]["genesis"]
    leave_killed_at(anna, "leave.after-rename")
    said = anna.data("leave", "--yes")
    assert said["swarm"] == {"name": "anna", "genesis": genesis}
    assert said["founder"]
    assert said["adapter"] == anna.data("adapter", "list")["current"]


@pytest.mark.parametrize("point", FAULT_POINTS[2:])
def test_whoever_joins_or_founds_next_finishes_it_first(anna: Device, point: str) -> None:
    who = load(anna.home.root).node_id
    leave_killed_at(anna, point)
    assert invite(anna, "--name", "second")
    assert load(anna.home.root).node_id != who
    assert unfinished(anna.places) is None
    assert anna.status_of_stopped()["swarm"]["name"] == "second"
