"""`spearctl doctor` on a member: keys, ledger, node and what was learned in a swarm."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p.identity import FILE_NAME, generate, save
from p2p.increments import waiting
from spearctl.home import Home
from tests.checkups import examined, line, mend, states
from tests.homes import files_of, winnable
from tests.swarms import Device, agree, homes, invite, swarm, until


@pytest.fixture
def anna(tmp_path: Path, template: Home) -> Iterator[Device]:
    with homes(tmp_path, template, "anna") as (made,):
        yield made


@pytest.fixture
def member(anna: Device) -> Device:
    """The founder and only member of a swarm; its node does not run."""
    invite(anna)
    return anna


def test_a_stopped_member_is_told_how_to_start_its_node_and_nothing_is_changed(member: Device) -> None:
    before = files_of(member.home.root)
    checks = examined(member)
    assert files_of(member.home.root) == before
    assert states(checks) == {"node": "warn"}
    mend(member, line(checks, "node"))
    assert states(examined(member)) == {}
    assert "runs in process" in line(examined(member), "node")["message"]


def test_a_ledger_is_looked_at_even_if_settings_are_damaged(member: Device) -> None:
    member.home.config_path.write_text("nonsense = = 1\n")
    checks = examined(member, 4)
    assert states(checks) == {"home": "fail", "node": "warn"}
    assert line(checks, "ledger")["message"] == "whole"


def test_keys_that_others_can_read(anna: Device) -> None:
    (anna.home.root / FILE_NAME).chmod(0o644)
    checks = examined(anna, 5)
    assert states(checks) == {"keys": "fail"}
    mend(anna, line(checks, "keys"))
    assert states(examined(anna)) == {}


@pytest.mark.parametrize("how", ["gone", "cut", "others"])
def test_keys_that_are_gone_damaged_or_others(member: Device, how: str) -> None:
    path = member.home.root / FILE_NAME
    raw = path.read_bytes()
    path.unlink()
    if how == "cut":
        path.write_bytes(raw[:-40])
        path.chmod(0o600)
    elif how == "others":
        save(member.home.root, generate())
    checks = examined(member, 5)
    assert states(checks) == {"keys": "fail", "node": "warn"}
    words = {"gone": "the keys are gone", "cut": "the keys are damaged", "others": "by other keys"}[how]
    assert words in line(checks, "keys")["message"]
    mend(member, line(checks, "keys"))
    assert "keys" not in states(examined(member))


def test_damaged_keys_that_no_swarm_knows_can_go(anna: Device) -> None:
    path = anna.home.root / FILE_NAME
    path.write_bytes(path.read_bytes()[:-40])
    mend(anna, line(examined(anna, 5), "keys"))
    assert states(examined(anna)) == {}
    assert invite(anna)


def test_locked_keys_are_ok_and_nobody_is_asked(anna: Device) -> None:
    (anna.home.root / FILE_NAME).unlink()
    save(anna.home.root, generate(), b"open sesame")
    assert line(examined(anna), "keys")["message"] == "locked by a passphrase"


def test_a_flipped_byte_in_what_was_shared_is_fetched_again(tmp_path: Path, template: Home) -> None:
    with swarm(tmp_path, template, "anna", "ben") as (anna, ben):
        anna.train(winnable(6))
        state = agree(anna, ben, head=1)
        assert ben("down").code == 0
        blobs = sorted((ben.places.swarm / "blobs").iterdir(), key=lambda path: path.stat().st_size)
        raw = bytearray(blobs[-1].read_bytes())
        raw[len(raw) // 2] ^= 1
        blobs[-1].write_bytes(raw)
        checks = examined(ben, 9)
        assert states(checks) == {"ledger": "fail", "node": "warn"}
        assert line(checks, "ledger")["message"] == f"{blobs[-1]}: not what its name says"
        assert line(checks, "ledger")["mend"] == f"rm {blobs[-1]}"
        mend(ben, line(checks, "ledger"))
        assert states(examined(ben)) == {"node": "warn"}
        ben.up()
        assert agree(anna, ben, head=1) == state
        assert states(examined(ben)) == {}
        assert states(examined(anna)) == {}


def test_a_flipped_byte_in_what_only_this_device_has_is_gone(member: Device) -> None:
    member.train(winnable(6))
    member.up()
    until(lambda: not list(member.places.outbox.glob("*.safetensors")))
    assert member("down").code == 0
    blobs = [*(member.places.swarm / "blobs").iterdir()]
    for blob in blobs:
        raw = bytearray(blob.read_bytes())
        raw[-1] ^= 1
        blob.write_bytes(raw)
    found = [check for check in examined(member, 9) if check["name"] == "ledger"]
    assert len(found) == len(blobs) > 0
    for check in found:
        assert check["mend"] == f"restore it from a backup, or: spearctl --home {member.home.root} leave"


def test_a_ledger_that_is_nonsense(member: Device) -> None:
    (member.places.swarm / "ledger.db").write_bytes(b"nonsense" * 1000)
    checks = examined(member, 9)
    assert states(checks) == {"ledger": "fail", "node": "warn"}
    mend(member, line(checks, "ledger"))
    assert states(examined(member)) == {}


def test_a_damaged_version_is_not_in_use_by_a_member(member: Device) -> None:
    member.train(winnable(6))
    for path in member.home.adapters_path.iterdir():
        shutil.rmtree(path)
    checks = examined(member)
    assert states(checks) == {"adapters": "warn", "node": "warn"}
    assert "damaged or missing; not in use" in line(checks, "adapters")["message"]


def test_what_is_learned_after_a_history_was_put_aside_is_shared(member: Device) -> None:
    for name in ("one", "two"):
        member.train(winnable(6, name=name))
    member.home.history_path.write_bytes(b"nonsense" * 512)
    mend(member, line(examined(member, 9), "history"))
    before = len(waiting(member.places.outbox))
    assert member.train(winnable(6, name="three"))["adapter"]
    assert len(waiting(member.places.outbox)) == before + 1


def test_a_ledger_that_is_gone(member: Device) -> None:
    (member.places.swarm / "ledger.db").unlink()
    checks = examined(member, 9)
    assert states(checks) == {"swarm": "fail"}
    assert line(checks, "swarm")["message"].endswith("ledger.db: the ledger is gone")
    mend(member, line(checks, "swarm"))
    assert states(examined(member)) == {}
    assert invite(member)


def test_a_copy_of_a_home(member: Device) -> None:
    shutil.copytree(member.home.root, member.folder / "copy", symlinks=True)
    copy = Device("copy", Home(member.folder / "copy"), member.folder)
    assert "this home is a copy or an old backup" in line(examined(copy), "ledger")["message"]
    assert line(examined(member), "ledger")["state"] == "ok"


def test_a_port_that_is_taken(member: Device) -> None:
    with socket.create_server(("127.0.0.1", member.port)):
        checks = examined(member, 6)
        assert states(checks) == {"node": "warn", "port": "fail"}
        assert f"cannot listen on 127.0.0.1:{member.port}: Address already in use" in line(checks, "port")["message"]
        mend(member, line(checks, "port"))
        assert states(examined(member)) == {}


def test_a_node_that_has_no_time_is_not_waited_for(member: Device) -> None:
    process = member.up()
    os.kill(process.pid, signal.SIGSTOP)
    try:
        checks = examined(member)
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert states(checks) == {"node": "warn"}
    assert "did not answer within 2 s" in line(checks, "node")["message"]
    assert line(examined(member), "node")["state"] == "ok"


def test_a_socket_that_a_killed_node_left_is_ok(member: Device) -> None:
    process = member.up()
    process.kill()
    process.wait()
    checks = examined(member)
    assert line(checks, "socket")["message"] == "left by a node that was killed; the next one replaces it"
    mend(member, line(checks, "node"))
    assert states(examined(member)) == {}


def test_a_runtime_folder_that_others_can_enter(member: Device) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:  # a short one, which has room for a socket
        folder = Path(runtime, "spearctl")
        folder.mkdir()
        folder.chmod(0o755)
        checks = examined(member, 6, XDG_RUNTIME_DIR=runtime)
        assert states(checks) == {"socket": "fail"}
        mend(member, line(checks, "socket"))
        assert states(examined(member, XDG_RUNTIME_DIR=runtime)) == {"node": "warn"}


def test_a_leave_that_was_interrupted(member: Device) -> None:
    kit = member.places.swarm / "leaving"
    kit.mkdir()
    save(kit, generate())
    member.places.swarm.rename(member.home.root / "swarm.left-0123")
    (found,) = (check for check in examined(member) if check["state"] != "ok")
    assert (found["state"], found["message"]) == ("warn", "leaving was interrupted: swarm.left-0123")
    mend(member, found)
    assert states(examined(member)) == {}


def test_of_several_failures_all_are_told_and_the_worst_decides(member: Device) -> None:
    (member.home.root / FILE_NAME).chmod(0o644)
    with socket.create_server(("127.0.0.1", member.port)):
        assert states(examined(member, 5)) == {"keys": "fail", "port": "fail", "node": "warn"}
        (member.places.swarm / "ledger.db").write_bytes(b"nonsense" * 1000)
        outcome = member("doctor")
    assert outcome.code == 9
    assert outcome.out.count("  fail  ") == 3
    assert outcome.out.endswith("3 failures, 1 warning; below each, what mends it\n")
    assert outcome.err.startswith("error: ")


def test_it_works_beside_a_trainer_and_a_node(member: Device) -> None:
    member.up()
    with member.home.training_lock("train"):
        checks = examined(member)
    assert states(checks) == {}
    assert f"process {os.getpid()} (train)" in line(checks, "training")["message"]
