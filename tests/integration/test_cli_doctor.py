"""`spearctl doctor`: each thing is broken for real, its line is looked for, and the command in that line mends it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2p.identity import FILE_NAME, generate, save
from spearctl import checkup
from spearctl.commands.doctor import LOOKS
from spearctl.home import Home
from tests.cli import spawn
from tests.homes import files_of, make_template, winnable
from tests.swarms import Device, agree, homes, invite, swarm, until
from tests.tiny import make_tiny_model
from tests.tiny_gguf import write_gguf

Line = dict[str, Any]


@pytest.fixture
def anna(tmp_path: Path, template: Home) -> Iterator[Device]:
    with homes(tmp_path, template, "anna") as (made,):
        yield made


@pytest.fixture
def member(anna: Device) -> Device:
    """The founder and only member of a swarm; its node does not run."""
    invite(anna)
    return anna


def examined(device: Device, code: int = 0, **environ: str) -> list[Line]:
    outcome = device("doctor", "--json", **environ)
    assert outcome.code == code, outcome.out
    assert outcome.envelope["ok"] == (code == 0)
    return list(outcome.envelope["data"]["checks"])


def line(checks: list[Line], name: str) -> Line:
    (found,) = (check for check in checks if check["name"] == name)
    return found


def states(checks: list[Line]) -> dict[str, str]:
    """How things are that are not ok."""
    return {check["name"]: check["state"] for check in checks if check["state"] != "ok"}


def mend(device: Device, check: Line, **environ: str) -> None:
    """Runs the command of a line, as somebody would who copies it."""
    command = check["mend"].rpartition(": ")[2]
    if command.startswith("spearctl "):
        words = shlex.split(command)[1:]
        assert device(*words, *(["--yes"] if "leave" in words else []), **environ).code == 0, command
    else:
        subprocess.run(["sh", "-c", command], check=True)


def test_a_healthy_home_is_all_ok_and_nothing_is_changed(anna: Device) -> None:
    anna.train(winnable(6))
    before = files_of(anna.home.root), anna.home.root.stat().st_mtime_ns
    outcome = anna("doctor")
    assert outcome.code == 0
    assert outcome.err == ""
    assert outcome.out.endswith("nothing needs a hand\n")
    assert (files_of(anna.home.root), anna.home.root.stat().st_mtime_ns) == before
    assert {check["state"] for check in examined(anna)} == {"ok"}
    assert {name for name, _ in LOOKS} - {"training", "ledger", "node"} <= {check["name"] for check in examined(anna)}


def test_a_stopped_member_is_told_how_to_start_its_node_and_nothing_is_changed(member: Device) -> None:
    before = files_of(member.home.root)
    checks = examined(member)
    assert files_of(member.home.root) == before
    assert states(checks) == {"node": "warn"}
    mend(member, line(checks, "node"))
    assert states(examined(member)) == {}
    assert "runs in process" in line(examined(member), "node")["message"]


def test_without_a_home_it_says_how_to_make_one(tmp_path: Path, template: Home, tiny_model: Path) -> None:
    device = Device("new", Home(tmp_path / "new"), tmp_path)
    checks = examined(device, 4)
    assert line(checks, "home")["code"] == 4
    own = {"SPEARCTL_MODEL": str(tiny_model), "SPEARCTL_PROFILE": str(template.root.parent / "small.toml")}
    mend(device, line(checks, "home"), **own)
    assert states(examined(device)) == {}


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("nonsense = = 1\n", 4, "not valid TOML"),
        ("format = 99\n", 9, "has format 99"),
        ("name = 'x'\n", 9, "no format number"),
        ("format = 1\n", 4, "is missing"),
    ],
)
def test_damaged_settings_are_told_beside_everything_else(anna: Device, text: str, code: int, words: str) -> None:
    kept = anna.home.config_path.read_bytes()
    anna.home.config_path.write_text(text)
    checks = examined(anna, code)
    assert states(checks) == {"home": "fail"}
    assert words in line(checks, "home")["message"]
    assert line(checks, "home")["mend"]
    assert {"libraries", "disk", "clock", "feedback", "history", "keys"} <= {check["name"] for check in checks}
    anna.home.config_path.write_bytes(kept)
    assert states(examined(anna)) == {}


def test_a_ledger_is_looked_at_even_if_settings_are_damaged(member: Device) -> None:
    member.home.config_path.write_text("nonsense = = 1\n")
    checks = examined(member, 4)
    assert states(checks) == {"home": "fail", "node": "warn"}
    assert line(checks, "ledger")["message"] == "whole"


def test_a_home_that_others_can_read(anna: Device) -> None:
    anna.home.root.chmod(0o755)
    checks = examined(anna)
    assert states(checks) == {"permissions": "warn"}
    mend(anna, line(checks, "permissions"))
    assert states(examined(anna)) == {}


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
    if how != "cut":
        mend(member, line(checks, "keys"))
    else:
        path.write_bytes(raw)
    assert "keys" not in states(examined(member))


def test_locked_keys_are_ok_and_nobody_is_asked(anna: Device) -> None:
    (anna.home.root / FILE_NAME).unlink()
    save(anna.home.root, generate(), b"open sesame")
    assert line(examined(anna), "keys")["message"] == "locked by a passphrase"


def test_a_model_that_is_gone(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "tiny")
    device = Device("own", make_template(tmp_path, model), tmp_path)
    assert states(examined(device)) == {}
    model.rename(tmp_path / "elsewhere")
    checks = examined(device, 7)
    assert states(checks) == {"model": "fail"}
    assert f"{model}: no such model folder" in line(checks, "model")["message"]
    (tmp_path / "elsewhere").rename(model)
    assert states(examined(device)) == {}


def test_a_model_that_is_another(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "tiny")
    device = Device("own", make_template(tmp_path, model), tmp_path)
    path = model / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    checks = examined(device, 4)
    assert states(checks) == {"model": "fail"}
    assert "is not the model that this home was made for (fingerprint " in line(checks, "model")["message"]


def test_a_model_in_the_cache_is_looked_at_and_never_made(tmp_path: Path, tiny_model: Path) -> None:
    device = Device(
        "own", make_template(tmp_path, write_gguf(tiny_model, tmp_path / "tiny.gguf", quantised=False)), tmp_path
    )
    assert states(examined(device)) == {}
    shutil.rmtree(tmp_path / "cache")
    checks = examined(device)
    assert states(checks) == {"model": "warn"}
    assert not (tmp_path / "cache").exists()
    device.home.feedback_path.write_text("".join(json.dumps(entry) + "\n" for entry in winnable(2)))
    mend(device, line(checks, "model"))
    assert states(examined(device)) == {}


def test_a_model_of_the_catalogue_is_not_fetched(tmp_path: Path, anna: Device) -> None:
    anna.set(model="smollm2-135m")
    checks = examined(anna, 7)
    assert line(checks, "model")["message"] == "smollm2-135m: not in the model cache yet"
    assert not (tmp_path / "cache" / "gguf").exists()


def test_a_line_of_the_log_that_cannot_be_read(anna: Device) -> None:
    anna.home.feedback_path.write_text("no JSON\n")
    checks = examined(anna)
    assert states(checks) == {"feedback": "warn"}
    assert line(checks, "feedback")["mend"] == f"spearctl --home {anna.home.root} feedback check"


def test_a_damaged_history_is_put_aside(anna: Device) -> None:
    anna.train(winnable(6))
    path = anna.home.history_path
    for leftover in anna.home.root.glob("node.db-*"):
        leftover.unlink()
    path.write_bytes(path.read_bytes()[:4096] + b"nonsense" * 512)
    checks = examined(anna, 9)
    assert states(checks) == {"history": "fail"}
    mend(anna, line(checks, "history"))
    assert states(examined(anna)) == {}
    assert path.with_name("node.db.damaged").exists()
    anna.train(winnable(6))


def test_a_damaged_adapter_version(anna: Device) -> None:
    first, second = (anna.train(winnable(6, name=name))["adapter"] for name in ("one", "two"))
    path = anna.home.adapters_path / second.replace(":", "-") / "adapter_model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)
    checks = examined(anna, 9)
    assert states(checks) == {"adapters": "fail"}
    assert line(checks, "adapters")["mend"].endswith(f"adapter use {first}")
    mend(anna, line(checks, "adapters"))
    assert states(examined(anna)) == {"adapters": "warn"}


def test_a_damaged_adapter_version_that_a_member_does_not_use(member: Device) -> None:
    made = member.train(winnable(6))["adapter"]
    (member.home.adapters_path / made.replace(":", "-") / "adapter_model.safetensors").unlink()
    (adapters,) = (check for check in examined(member) if check["name"] == "adapters")
    assert (adapters["state"], adapters["mend"]) == ("warn", "put it back from a backup, or let it be")


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


def test_a_clock_that_runs_behind(anna: Device) -> None:
    later = time.time() + 86_400
    os.utime(anna.home.feedback_path, (later, later))
    checks = examined(anna)
    assert states(checks) == {"clock": "warn"}
    assert "feedback.jsonl was written later than now" in line(checks, "clock")["message"]
    mend(anna, line(checks, "clock"))
    assert states(examined(anna)) == {}


def test_a_disk_that_is_full(anna: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "LOW_BYTES", 2**62)
    assert states(examined(anna)) == {"disk": "warn", "model cache": "warn"}
    monkeypatch.setattr(checkup, "EMPTY_BYTES", 2**62)
    checks = examined(anna, 9)
    assert states(checks) == {"disk": "fail", "model cache": "fail"}
    mend(anna, line(checks, "disk"))


def test_libraries_that_are_missing_or_too_old(anna: Device, tmp_path: Path) -> None:
    told = tmp_path / "site" / "spearctl-0.1.0.dist-info" / "METADATA"
    told.parent.mkdir(parents=True)
    wanted = ["numpy>=99", "no-such-package>=1", "rich>=1", 'zeroconf>=99; extra == "lan"']
    told.write_text(
        "Metadata-Version: 2.1\nName: spearctl\nVersion: 0.1.0\n"
        + "".join(f"Requires-Dist: {line}\n" for line in wanted)
    )
    path = os.pathsep.join([str(told.parent.parent), str(Path(__file__).parents[2])])
    outcome = spawn("doctor", "--json", "--home", str(anna.home.root), folder=tmp_path, PYTHONPATH=path)
    assert outcome.code == 4
    found = line(outcome.envelope["data"]["checks"], "libraries")
    assert found["message"].startswith("numpy is ")
    assert found["message"].endswith("no-such-package is not installed")
    assert found["mend"] == "pip install 'numpy>=99' 'no-such-package>=1'"


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
