"""Devices in a swarm, as a person sees them: `up`, `down`, `status`, and what `train` hands over."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from p2p.identity import FILE_NAME, load, save
from spearctl.home import Home
from tests.cli import Cli, clean_environment
from tests.homes import winnable
from tests.swarms import GRID, Device, agree, furthest, homes, invite, let_in, swarm, until

OPEN_PASSPHRASE = b"open sesame"


@pytest.fixture(scope="module")
def pair(template: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Device]]:
    """Two members whose nodes run; tests leave them so."""
    with swarm(tmp_path_factory.mktemp("pair"), template, "anna", "ben") as made:
        yield made


@pytest.fixture
def anna(template: Home, tmp_path: Path) -> Iterator[Device]:
    """A device that belongs to no swarm yet."""
    with homes(tmp_path, template, "anna") as (made,):
        yield made


# The node.


def test_only_invite_founds_a_swarm_and_up_says_so(anna: Device) -> None:
    for words in (("up",), ("up", "--detach"), ("peers", "list"), ("train", "--share-kept"), ("train", "--no-share")):
        outcome = anna(*words)
        assert outcome.code == 4, words
        assert outcome.err == (
            "error: this home belongs to no swarm\n"
            f"hint: found one: spearctl --home {anna.home.root} invite --out FILE,"
            f" or join one: spearctl --home {anna.home.root} join TICKET\n"
        )
    assert not anna.places.is_member


def test_a_detached_node_runs_until_down_and_twice_says_so(anna: Device) -> None:
    invite(anna)
    outcome = anna("up", "--detach")
    assert outcome.code == 0
    pid = anna.pid
    assert outcome.out.startswith(f"the node of the swarm anna runs now in process {pid}, on 127.0.0.1:{anna.port}\n")
    again = anna("up", "--detach")
    assert again.code == 0
    assert again.out.startswith(f"nothing was changed: the node of the swarm anna runs already in process {pid}")
    assert anna.pid == pid
    with open(f"/proc/{pid}/maps", encoding="utf-8") as file:
        maps = file.read()
    assert "zmq" in maps
    assert "torch" not in maps
    assert anna("down").out == "the node was stopped\n"
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert anna("down").out == "no node runs here; nothing was changed\n"
    said = anna.places.log.read_text()
    assert "Traceback" not in said
    assert oct(anna.places.log.stat().st_mode & 0o777) == "0o600"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_node_in_the_foreground_says_a_line_when_it_is_up_and_one_when_it_was_stopped(
    anna: Device, number: signal.Signals
) -> None:
    invite(anna)
    process = anna.up()
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == 0
    (envelope,) = (json.loads(line) for line in out.splitlines())
    assert (envelope["ok"], envelope["data"]["running"], envelope["data"]["swarm"]) == (True, False, "anna")
    assert err == "Ctrl-C stops the node\n"


@pytest.mark.parametrize("words", [("up",), ("up", "--detach")])
def test_a_port_in_use_is_code_6_and_named(anna: Device, words: tuple[str, ...]) -> None:
    invite(anna)
    with socket.create_server(("127.0.0.1", anna.port)):
        outcome = anna(*words)
    assert outcome.code == 6
    assert f"127.0.0.1:{anna.port}" in outcome.err
    assert "hint: " in outcome.err
    assert not anna.is_running


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--listen", "nowhere"), 6),
        (("--listen", "host.example.org:1"), 6),
        (("--advertise", "0.0.0.0:1"), 6),
        (("--listen", "127.0.0.1:1", "--no-listen"), 2),
    ],
)
def test_a_wrong_address_is_refused_before_anything_starts(anna: Device, words: tuple[str, ...], code: int) -> None:
    invite(anna)
    for more in ((), ("--detach",)):
        outcome = anna("up", *words, *more, "--json")
        assert outcome.code == code
        assert outcome.envelope["errors"][0]["hint"]
    assert not anna.places.log.exists()


def test_a_node_that_does_not_listen_dials(pair: list[Device], template: Home, tmp_path: Path) -> None:
    with homes(tmp_path, template, "carol") as (carol,):
        assert carol("join", invite(pair[0]), "--detach").code == 0
        assert carol("down").code == 0
        carol.up("--no-listen")
        assert carol.status()["addresses"] == []
        assert carol.data("status")["node"]["address"] is None
        assert "only dials others" in carol("status").out
        until(lambda: carol.peer("anna").get("state") == "linked")
        pair[0]("peers", "revoke", "carol", "--yes")


def test_neither_help_nor_up_nor_status_nor_peers_loads_torch(pair: list[Device]) -> None:
    anna, _ = pair
    code = (
        "import sys\nfrom spearctl.main import main\n"
        "lines = [['--help'], ['up', '--help'], ['up'], ['status'], ['peers', 'list'], ['export', '--peft', 'out']]\n"
        "codes = [main([*line, '--home', sys.argv[-1]]) for line in lines]\n"
        "print(codes, sorted({'torch', 'transformers', 'peft'} & set(sys.modules)), file=sys.stderr)"
    )
    process = anna.process(code=code)
    _, err = process.communicate()
    assert err.splitlines()[-1] == "[0, 0, 0, 0, 0, 0] []"


# Status.


def test_status_has_the_fields_that_scripts_may_rely_on(pair: list[Device]) -> None:
    anna, ben = pair
    state = agree(anna, ben)
    until(lambda: anna.peer("ben")["state_hash"] == state)
    data = anna.data("status")
    said = anna.status()
    assert data["node"] == {
        "id": said["id"],
        "name": "anna",
        "running": True,
        "address": f"127.0.0.1:{anna.port}",
    }
    wanted = {"name", "genesis", "members", "head_round", "sealed_round", "state_hash", "pending_wins"}
    assert wanted <= data["swarm"].keys()
    assert (data["swarm"]["name"], data["swarm"]["members"], data["swarm"]["pending_wins"]) == ("anna", 2, 0)
    assert data["swarm"]["state_hash"] == state
    (peer,) = [peer for peer in data["peers"] if peer["state"] != "revoked"]
    wanted = {"id", "name", "state", "head_round", "state_hash", "last_seen_s", "sent_bytes"}
    assert wanted | {"received_bytes"} <= peer.keys()
    assert (peer["id"], peer["name"], peer["state"]) == (ben.status()["id"], "ben", "linked")
    assert (peer["head_round"], peer["state_hash"]) == (data["swarm"]["head_round"], state)
    assert peer["last_seen_s"] >= 0
    assert min(peer["sent_bytes"], peer["received_bytes"]) > 0
    if sys.platform == "linux":
        assert 0 < peer["rtt_ms"] < 60_000
    assert data["health"] == []


def test_status_shows_the_swarm_and_a_row_a_peer(pair: list[Device]) -> None:
    anna, ben = pair
    outcome = anna("status")
    assert (outcome.code, outcome.err) == (0, "")
    rows = [" ".join(line.split()) for line in outcome.out.splitlines()]
    assert f"node runs, 127.0.0.1:{anna.port}" in rows
    assert any(row.startswith("swarm anna (") and row.endswith("2 members") for row in rows)
    assert any(row.startswith(f"ben {ben.status()['id'][:12]} linked ") for row in rows)


def test_a_stopped_member_still_shows_its_block_with_code_3_and_the_way_up(anna: Device) -> None:
    invite(anna)
    outcome = anna("status")
    assert outcome.code == 3
    assert "node      stopped" in outcome.out
    assert "swarm     anna (" in outcome.out
    assert outcome.err == (
        "error: the node does not run, so nothing is shared\n"
        f"hint: start it: spearctl --home {anna.home.root} up --detach\n"
    )
    envelope = anna("status", "--json").envelope
    assert (envelope["ok"], envelope["errors"][0]["code"]) == (False, 3)
    assert envelope["data"]["node"]["running"] is False
    assert envelope["data"]["node"]["id"] == load(anna.home.root).node_id.hex()
    assert envelope["data"]["swarm"]["members"] == 1


def test_a_device_outside_of_any_swarm_has_no_swarm_to_show(anna: Device) -> None:
    data = anna.data("status")
    assert (data["swarm"], data["peers"]) == (None, [])
    assert data["node"] == {
        "id": load(anna.home.root).node_id.hex(),
        "name": "anna",
        "running": False,
        "address": None,
    }


def test_learning_that_does_not_fit_is_put_aside_and_said(pair: list[Device]) -> None:
    anna, _ = pair
    (anna.places.outbox).mkdir(exist_ok=True)
    path = anna.places.outbox / "odd.safetensors"
    path.write_bytes(b"not an increment")
    until(lambda: not path.exists())
    (line,) = anna.data("status")["health"]
    assert line == f"learning that does not fit this swarm, or is damaged, was put aside: {path.parent}/*.refused"
    path.with_suffix(".refused").unlink()


# What train hands over.


def test_what_one_member_learns_the_other_gets(pair: list[Device]) -> None:
    for learner, other in (pair, pair[::-1]):
        head = agree(*pair) and learner.status()["swarm"]["head_round"]
        said = learner.train(winnable(6, name=f"{learner.name}-{head}"))
        assert said["shared"]["wins"] == 6
        assert said["shared"]["line"] == "6 wins handed to the node, which shares what was learned"
        agree(*pair, head=head + 1)
        mine, theirs = learner.export(), other.export()
        assert furthest(mine, theirs) == 0


def test_a_round_without_wins_hands_over_nothing(pair: list[Device]) -> None:
    from tests.homes import hopeless

    anna, _ = pair
    log = anna.folder / "lost.jsonl"
    log.write_text("".join(json.dumps(entry) + "\n" for entry in hopeless(3)))
    outcome = anna("train", "--feedback", str(log), "--rounds", "1")
    assert outcome.code == 0
    assert "handed" not in outcome.out
    assert not list(anna.places.outbox.glob("*.safetensors"))


def test_what_is_learned_while_the_node_is_stopped_is_shared_at_the_next_up(anna: Device, template: Home) -> None:
    invite(anna)
    anna.up()
    with homes(anna.folder / "other", template, "ben") as (ben,):
        let_in(anna, ben)
        assert ben("down").code == 0
        log = ben.folder / "log.jsonl"
        log.write_text("".join(json.dumps(entry) + "\n" for entry in winnable(6)))
        outcome = ben("train", "--feedback", str(log), "--rounds", "1")
        assert outcome.code == 0
        assert "6 wins waiting for the node, which does not run" in outcome.out
        assert f"spearctl --home {ben.home.root} up --detach" in outcome.out
        assert ben.status_of_stopped()["swarm"]["pending_wins"] == 6
        before = ben.export()
        ben.up()
        agree(anna, ben, head=1)
        assert furthest(anna.export(), before) <= GRID
        assert sum(ben.wins()) == 6
        assert not list(ben.places.outbox.glob("*.safetensors"))


def test_what_is_kept_stays_on_the_device_until_it_is_shared(pair: list[Device]) -> None:
    anna, ben = pair
    state = agree(anna, ben)
    head = anna.status()["swarm"]["head_round"]
    said = anna.train(winnable(6, name="secret"), "--no-share")
    assert said["shared"]["line"] == (
        f"6 wins kept on this device; to share later: spearctl --home {anna.home.root} train --share-kept"
    )
    assert said["shared"]["kept"]
    mine, theirs = anna.export(), ben.export()
    assert furthest(mine, theirs) > 0
    said = anna.data("status")
    assert (said["swarm"]["state_hash"], said["swarm"]["pending_wins"]) == (state, 0)
    assert any("1 round kept on this device; to share: " in line for line in said["health"])
    outcome = anna("train", "--share-kept")
    assert outcome.code == 0
    assert outcome.out.startswith("what 1 round learned is shared now\n")
    agree(anna, ben, head=head + 1)
    assert furthest(ben.export(), mine) <= GRID
    assert furthest(anna.export(), ben.export()) == 0
    assert anna("train", "--share-kept").out == "nothing was kept, so nothing was changed\n"
    assert anna("train", "--share-kept", "--no-share").code == 2


# Keys.


def lock(device: Device) -> Path:
    """Locks a home's keys; the file with the passphrase."""
    keys = load(device.home.root)
    (device.home.root / FILE_NAME).unlink()
    save(device.home.root, keys, OPEN_PASSPHRASE)
    path = device.folder / "passphrase"
    path.write_bytes(OPEN_PASSPHRASE + b"\n")
    return path


def test_locked_keys_need_their_passphrase_to_sign_and_not_to_look(anna: Device) -> None:
    path = lock(anna)
    assert anna.data("status")["node"]["id"] is None
    outcome = anna("invite")
    assert outcome.code == 2
    assert "the keys of this home are locked" in outcome.err
    assert "SPEARCTL_PASSPHRASE_FILE=FILE" in outcome.err
    assert anna("invite", SPEARCTL_PASSPHRASE_FILE=str(path)).code == 0
    for words in (("up",), ("up", "--detach")):
        assert anna(*words).code == 2
        path.write_bytes(b"guess")
        wrong = anna(*words, SPEARCTL_PASSPHRASE_FILE=str(path))
        assert wrong.code == 5
        assert "the passphrase is wrong" in wrong.err
        missing = anna(*words, SPEARCTL_PASSPHRASE_FILE=str(path) + ".txt")
        assert missing.code == 5
        assert "the passphrase cannot be read" in missing.err
        path.write_bytes(OPEN_PASSPHRASE)
    anna.train(winnable(6))
    assert anna("status").code == 3
    assert anna("up", "--detach", SPEARCTL_PASSPHRASE_FILE=os.path.relpath(path)).code == 0
    assert anna("status").code == 0


def test_a_passphrase_is_typed_once_and_a_detached_node_gets_it(anna: Device) -> None:
    path = lock(anna)
    assert anna("invite", SPEARCTL_PASSPHRASE_FILE=str(path)).code == 0
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "spearctl", "--home", str(anna.home.root), "up", "--detach"],
        env=clean_environment(anna.folder),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    with process:
        assert until(lambda: b"passphrase: " in os.read(ours, 1024))
        os.write(ours, OPEN_PASSPHRASE + b"\n")
        out, _ = process.communicate()
    os.close(ours)
    assert process.returncode == 0
    assert b"runs now" in out
    assert anna.is_running


def test_missing_damaged_or_open_keys_are_code_5(anna: Device) -> None:
    invite(anna)
    path = anna.home.root / FILE_NAME
    kept = path.read_bytes()
    for words in (("up",), ("up", "--detach")):
        path.write_bytes(kept[:-40])
        assert "the keys are damaged" in expect(anna, 5, *words)
        path.write_bytes(kept)
        path.chmod(0o644)
        assert "others on this machine may read" in expect(anna, 5, *words)
        path.unlink()
        assert "there are no keys" in expect(anna, 5, *words)
        assert not path.exists()
        path.write_bytes(kept)
        path.chmod(0o600)
    assert not anna.is_running


def test_a_damaged_ledger_is_code_9(anna: Device) -> None:
    invite(anna)
    (anna.places.swarm / "ledger.db").write_bytes(b"nonsense" * 1000)
    for words in (("up",), ("up", "--detach"), ("status",), ("peers", "list"), ("invite",), ("export", "--peft", "x")):
        expect(anna, 9, *words)


def expect(device: Device, code: int, *words: str) -> str:
    """What a command line that fails says; as text and as JSON it fails alike."""
    outcome = device(*words)
    assert outcome.code == code, (words, outcome)
    assert outcome.err.startswith("error: ")
    assert [error["code"] for error in device(*words, "--json").envelope["errors"]] == [code]
    return outcome.err


def test_without_a_home_every_command_of_a_swarm_is_code_4(cli: Cli) -> None:
    for words in ("up", "down", "invite", "join x", "peers list", "peers show x", "peers ban x", "peers revoke x"):
        outcome = cli(*words.split())
        assert outcome.code == 4, words
        assert outcome.err.endswith("hint: make one: spearctl init\n")
    assert cli("export", "--peft", "x").code == 4
    assert cli("export").code == 2
