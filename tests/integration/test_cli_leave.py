"""`spearctl leave`: real nodes, real ledgers, and what is there afterwards."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p.identity import FILE_NAME, load
from p2p.increments import waiting
from spearctl.home import Home
from tests.cli import clean_environment
from tests.homes import adapter_of, files_of, winnable
from tests.swarms import GRID, Device, agree, first_result, furthest, homes, invite, let_in, swarm, until
from training.adapters import adapter_digest
from training.history import History

PASSPHRASE = b"open sesame"


@pytest.fixture
def pair(tmp_path: Path, template: Home) -> Iterator[list[Device]]:
    with swarm(tmp_path, template, "anna", "ben") as made:
        yield made


@pytest.fixture
def anna(tmp_path: Path, template: Home) -> Iterator[Device]:
    with homes(tmp_path, template, "anna") as (made,):
        yield made


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A runtime folder other than the one in which nodes of other tests have their sockets; a short name has room."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def left_of(device: Device) -> list[Path]:
    return sorted(device.home.root.glob("swarm.left-*"))


def assert_whole(home: Home) -> None:
    """Asserts that every version is the one that was recorded."""
    with History(home.history_path) as history:
        for version in history.versions():
            assert adapter_digest(adapter_of(home, version.name)) == version.sha256


def is_linked(device: Device, other: Device) -> bool:
    """Whether a device has a link to another as it is now; who left and came back is somebody else."""
    id = load(other.home.root).node_id.hex()
    return (id, "linked") in {(peer["id"], peer["state"]) for peer in device.status().get("peers", ())}


def test_a_member_that_leaves_keeps_what_it_used_and_its_node_stops(pair: list[Device]) -> None:
    anna, ben = pair
    anna.train(winnable(6, name="anna"))
    agree(anna, ben, head=1)
    ben.train(winnable(6, name="ben"), "--no-share")
    used, who = ben.export(), load(ben.home.root).node_id
    genesis = ben.status()["swarm"]["genesis"]
    feedback = ben.home.feedback_path.read_bytes()
    pid = ben.pid
    said = ben.data("leave", "--yes")
    assert said["swarm"] == {"name": "anna", "genesis": genesis}
    assert not ben.is_running
    until(lambda: not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z")
    status = ben.data("status")
    assert (status["swarm"], status["node"]["running"]) == (None, False)
    assert furthest(ben.export(), used) == 0
    assert ben.data("adapter", "list")["current"] == said["adapter"]
    assert_whole(ben.home)
    assert ben.home.feedback_path.read_bytes() == feedback
    (left,) = left_of(ben)
    assert (said["put_aside"], said["deleted"]) == (str(left), False)
    assert {"ledger.db", FILE_NAME, "outbox"} <= {path.name for path in left.iterdir()}
    assert load(left).node_id == who
    assert load(ben.home.root).node_id != who
    assert not ben.places.outbox.exists()
    assert not (left / "leaving").exists()
    until(lambda: anna.peer("ben")["state"] == "away")


def test_what_it_says_names_all_that_is_kept_and_how_to_be_rid_of_everything(anna: Device, runtime: Path) -> None:
    invite(anna)
    (runtime / "spearctl").mkdir(mode=0o700)
    outcome = anna("leave", "--yes", XDG_RUNTIME_DIR=str(runtime))
    assert outcome.code == 0
    (left,) = left_of(anna)
    assert outcome.out.startswith("This device has left the swarm anna\n")
    for word in ("kept", "feedback log, training history, adapter versions, settings", left.name, "old keys"):
        assert word in outcome.out
    assert f"\n  rm -r {anna.home.root}\n" in outcome.out
    assert "no round is sealed" not in outcome.out
    assert (left / "recovery.pem").exists()
    assert not anna.places.recovery.exists()
    lines = [line.strip() for line in outcome.out.splitlines() if line.startswith("  rm -r ")]
    subprocess.run(["sh", "-c", "\n".join(lines)], check=True)
    assert not anna.home.root.exists()
    assert not (runtime / "spearctl").exists()


def test_deleting_leaves_neither_ledger_nor_old_keys(anna: Device) -> None:
    invite(anna)
    who = load(anna.home.root).node_id
    said = anna.data("leave", "--yes", "--delete")
    assert (said["put_aside"], said["deleted"]) == (None, True)
    assert left_of(anna) == []
    assert not anna.places.swarm.exists()
    assert load(anna.home.root).node_id != who
    assert not list(anna.home.root.rglob("recovery.pem"))


def test_without_a_terminal_it_asks_for_yes_and_changes_nothing(anna: Device) -> None:
    invite(anna)
    before = files_of(anna.home.root)
    outcome = anna("leave")
    assert outcome.code == 2
    assert "nobody can be asked here" in outcome.err
    assert "the swarm's ledger and the keys of this device" in outcome.err
    kept = {name: digest for name, digest in files_of(anna.home.root).items() if not name.endswith(("-shm", "-wal"))}
    assert kept == before


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 2), (b"\n", 2)])
def test_on_a_terminal_it_asks_and_does_as_told(anna: Device, answer: bytes, code: int) -> None:
    invite(anna)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "spearctl", "--home", str(anna.home.root), "leave"],
        env=clean_environment(anna.folder),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    with process:
        while b"[y/N]" not in shown:
            shown += os.read(ours, 4096)
        os.write(ours, answer)
        process.communicate()
    os.close(ours)
    assert b"this device leaves the swarm anna, of 0 other members; nobody is told" in b" ".join(shown.split())
    assert process.returncode == code
    assert anna.places.is_member == bool(code)


def test_a_founder_is_told_what_its_leaving_means(pair: list[Device]) -> None:
    anna, ben = pair
    outcome = anna("leave")
    assert outcome.code == 2
    assert "it founded the swarm: without its keys no round is sealed any more" in outcome.err
    assert anna.is_running
    assert "founded" not in ben("leave").err
    outcome = anna("leave", "--yes")
    assert "256 rounds after the last seal" in outcome.out
    ben.train(winnable(6, name="alone"))


def test_outside_of_a_swarm_there_is_nothing_to_leave(anna: Device) -> None:
    assert anna("leave", "--yes").code == 4
    invite(anna)
    assert anna("leave", "--yes").code == 0
    again = anna("leave", "--yes")
    assert again.code == 4
    assert "belongs to no swarm" in again.err


def test_who_comes_back_with_a_fresh_ticket_is_a_new_member_and_brings_only_what_is_new(pair: list[Device]) -> None:
    anna, ben = pair
    anna.train(winnable(6, name="anna"))
    state = agree(anna, ben, head=1)
    assert ben("leave", "--yes").code == 0
    said = first_result(ben.process("join", invite(anna), "--json", "--yes"))
    assert (said["joined"], said["took_along"]) == (True, False)
    until(lambda: is_linked(anna, ben))
    until(lambda: ben.holds(state_hash=state, pending_wins=0))
    assert anna.status()["swarm"]["members"] == 3
    assert furthest(anna.export(), ben.export()) == 0
    before = anna.export()
    assert ben("leave", "--yes").code == 0
    ben.train(winnable(6, name="alone"))
    alone = ben.export()
    assert furthest(alone, before) > 0
    said = first_result(ben.process("join", invite(anna), "--json", "--yes"))
    assert said["took_along"]
    until(lambda: not waiting(ben.places.outbox))
    agree(anna, ben, head=2)
    assert furthest(anna.export(), alone) <= 2 * GRID
    assert [path.name[-2:] for path in left_of(ben)][1:] == ["-2"]


def test_what_it_had_not_shared_goes_along_when_it_comes_back(pair: list[Device]) -> None:
    anna, ben = pair
    anna.train(winnable(6, name="anna"))
    agree(anna, ben, head=1)
    assert ben("down").code == 0
    ben.train(winnable(6, name="ben"))
    used = ben.export()
    assert ben("leave", "--yes").code == 0
    with History(ben.home.history_path) as history:
        parents = {version.name: version.parent for version in history.versions()}
        assert parents[parents[history.current]].startswith("round:")
    assert first_result(ben.process("join", invite(anna), "--json", "--yes"))["took_along"]
    until(lambda: not waiting(ben.places.outbox))
    agree(anna, ben, head=2)
    assert furthest(anna.export(), used) <= 2 * GRID


def test_after_leaving_training_and_versions_go_on_from_there(pair: list[Device]) -> None:
    anna, ben = pair
    anna.train(winnable(6, name="anna"))
    agree(anna, ben, head=1)
    left = ben.data("leave", "--yes")["adapter"]
    trained = ben.train(winnable(6, name="ben"))["adapter"]
    assert trained != left
    assert ben.data("adapter", "rollback")["current"] == left
    outcome = ben("adapter", "rollback")
    assert outcome.code == 2
    assert "what was taken over from a swarm (local:" in outcome.err
    assert ben("adapter", "use", "base").code == 0


def test_a_founder_that_leaves_may_found_another_swarm_with_what_it_has(anna: Device, template: Home) -> None:
    invite(anna)
    anna.train(winnable(6))
    used = anna.export()
    assert anna("leave", "--yes").code == 0
    recovery = (left_of(anna)[0] / "recovery.pem").read_bytes()
    invite(anna, "--name", "second")
    assert anna.places.recovery.read_bytes() != recovery
    assert furthest(anna.export(), used) <= GRID
    anna.up()
    with homes(anna.folder / "other", template, "ben") as (ben,):
        let_in(anna, ben)
        agree(anna, ben)


def test_locked_keys_are_followed_by_keys_under_the_same_passphrase(anna: Device) -> None:
    from p2p.identity import save

    invite(anna)
    keys = load(anna.home.root)
    (anna.home.root / FILE_NAME).unlink()
    save(anna.home.root, keys, PASSPHRASE)
    assert anna("leave", "--yes").code == 2
    file = anna.folder / "passphrase"
    file.write_bytes(b"guess")
    assert anna("leave", "--yes", SPEARCTL_PASSPHRASE_FILE=str(file)).code == 5
    assert anna.places.is_member
    file.write_bytes(PASSPHRASE)
    assert anna("leave", "--yes", SPEARCTL_PASSPHRASE_FILE=str(file)).code == 0
    assert load(anna.home.root, lambda: PASSPHRASE).node_id != keys.node_id
    assert load(left_of(anna)[0], lambda: PASSPHRASE).node_id == keys.node_id


def test_a_damaged_ledger_and_lost_keys_can_be_left(anna: Device) -> None:
    invite(anna)
    (anna.places.swarm / "ledger.db").write_bytes(b"nonsense" * 1000)
    (anna.home.root / FILE_NAME).unlink()
    outcome = anna("leave")
    assert outcome.code == 2
    assert "is damaged, so of what was learned there only adapter versions are left" in outcome.err
    assert anna.data("leave", "--yes")["swarm"] == {"name": None, "genesis": None}
    assert [path.name for path in left_of(anna)] == ["swarm.left-damaged"]
    assert load(anna.home.root)
    assert invite(anna)


def test_a_home_in_which_something_is_trained_is_not_left(anna: Device) -> None:
    invite(anna)
    anna.up()
    with anna.home.training_lock("train"):
        outcome = anna("leave", "--yes")
    assert outcome.code == 9
    assert anna.places.is_member
    assert anna.is_running


@pytest.mark.parametrize("words", [(), ("--delete",)])
def test_a_move_that_cannot_be_finished_is_left_too(anna: Device, words: tuple[str, ...]) -> None:
    invite(anna)
    shutil.copytree(anna.places.swarm, anna.places.next_swarm)
    (anna.places.swarm / "ledger.db").write_bytes(b"nonsense" * 1000)
    assert anna("leave", "--yes", *words).code == 0
    assert not anna.places.is_member
    assert not anna.places.next_swarm.exists()
    assert [(path / "unfinished" / "ledger.db").is_file() for path in left_of(anna)] == [True] * (not words)
    assert anna.data("status")["swarm"] is None


def test_wins_that_were_kept_count_in_the_version(anna: Device) -> None:
    invite(anna)
    anna.train(winnable(6), "--no-share")
    anna("leave", "--yes")
    with History(anna.home.history_path) as history:
        assert history.version(history.current).wins == 6


def test_a_copy_of_the_home_is_where_the_old_keys_stay(anna: Device) -> None:
    invite(anna)
    shutil.copytree(anna.home.root, anna.folder / "copy", symlinks=True)
    assert anna("leave", "--yes").code == 0
    assert load(anna.folder / "copy").node_id == load(left_of(anna)[0]).node_id
