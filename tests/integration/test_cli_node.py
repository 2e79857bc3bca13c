"""The node behind the commands: starting and stopping, links that it lost, its log, and bugs of its own."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from p2p.ledger import Ledger
from spearctl import serving
from spearctl.home import Home
from tests.homes import winnable
from tests.swarms import Device, agree, homes, invite, let_in, swarm, until

BROKEN_NODE = """
import p2p.node

async def broken(*_, **__):
    raise KeyError("surprise")

{} = broken
from spearctl.main import entry
entry()
"""


SLOW_TO_FAIL = """
import asyncio, subprocess, sys
from p2p.errors import NetworkError
from p2p.transport import Transport

async def start(self):
    asked = [sys.executable, "-m", "spearctl", "down", *sys.argv[2:]]  # whose node runs is stopped by this
    done = await asyncio.create_subprocess_exec(*asked, stdout=subprocess.PIPE)
    raise NetworkError((await done.communicate())[0].decode().strip())

Transport.start = start
from spearctl.main import entry
entry()
"""


@pytest.fixture
def anna(template: Home, tmp_path: Path) -> Iterator[Device]:
    """A device that founded a swarm, and whose node does not run."""
    with homes(tmp_path, template, "anna") as (made,):
        invite(made)
        yield made


def test_down_and_up_at_once_find_the_port_and_the_ledger_free(anna: Device) -> None:
    anna.up()
    assert anna("down").code == 0
    anna.up()
    assert anna.status()["addresses"] == [f"127.0.0.1:{anna.port}"]


def test_a_node_answers_nobody_before_it_can_be_reached(anna: Device) -> None:
    process = anna.process("up", code=SLOW_TO_FAIL)
    _, err = process.communicate()
    assert process.returncode == 6
    assert err == "error: no node runs here; nothing was changed\n"


def test_a_node_that_is_started_to_ignore_a_hang_up_does(anna: Device) -> None:
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\nfrom spearctl.main import entry; entry()"
    process = anna.process("up", code=code)
    assert process.stdout is not None
    assert "runs now" in process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    asked_s = anna.status()["uptime_s"]
    until(lambda: anna.status()["uptime_s"] > asked_s + 0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0


def test_a_bug_in_the_node_is_code_1_and_names_its_log_and_down_still_works(anna: Device) -> None:
    process = anna.process("up", code=BROKEN_NODE.format("p2p.node.Node._status = p2p.node.Node._wake"))
    until(lambda: anna.is_running)
    for words in (("status",), ("peers", "list"), ("up",), ("invite", "--addr", "127.0.0.1:1")):
        outcome = anna(*words)
        assert outcome.code == 1, words
        assert outcome.err.startswith("error: the node failed: KeyError: 'surprise'\nhint: this is a bug in spearctl: ")
        assert str(anna.places.log) in outcome.err
        (error,) = anna(*words, "--json").envelope["errors"]
        assert (error["code"], error["kind"]) == (1, "NodeFailedError")
    assert anna.train(winnable(6))["shared"]["wins"] == 6  # to wake the node is a courtesy
    assert anna("down").out == "the node was stopped\n"
    assert process.wait() == 0


def test_a_bug_while_a_node_joins_another_swarm_is_code_1_and_the_node_goes_on(
    anna: Device, template: Home, tmp_path: Path
) -> None:
    process = anna.process("up", code=BROKEN_NODE.format("p2p.node.join"))
    until(lambda: anna.is_running)
    with homes(tmp_path / "elsewhere", template, "zoe") as (zoe,):
        outcome = anna("join", invite(zoe), "--yes")
    assert outcome.code == 1
    assert outcome.err.startswith("error: the node failed: KeyError('surprise')\nhint: this is a bug in spearctl: ")
    assert process.poll() is None
    assert anna.data("status")["swarm"]["name"] == "anna"


def test_a_start_removes_what_crashes_left_and_nothing_else(template: Home, tmp_path: Path) -> None:
    with swarm(tmp_path, template, "anna", "ben") as (anna, ben):
        ben.train(winnable(6))
        state = agree(anna, ben, head=1)
        assert anna("down").code == 0
        folder = anna.places.swarm / "blobs"
        needed = set(folder.iterdir())
        assert needed
        for name in ("ab" * 32, "cd" * 32 + ".part", "ef" * 32 + ".new"):
            (folder / name).write_bytes(b"left behind")
        anna.up()
        assert set(folder.iterdir()) == needed
        assert anna.holds(state_hash=state)
        with Ledger.open_readonly(anna.places.ledger) as reader:
            assert not reader.is_suspect


def test_status_shows_which_links_were_dropped_and_why(template: Home, tmp_path: Path) -> None:
    with swarm(tmp_path, template, "anna", "ben") as (anna, ben):
        until(lambda: anna.peer("ben")["addresses"])
        assert anna.data("status")["dropped"] == []
        assert "DROPPED" not in anna("status").out
        id, address = ben.status()["id"], f"127.0.0.1:{ben.port}"
        assert anna("peers", "revoke", "ben", "--yes").code == 0
        until(lambda: anna.status()["dropped"])
        (drop,) = anna.data("status")["dropped"]
        assert drop.keys() == {"id", "name", "key", "address", "reason", "seconds_ago"}
        said = (drop["id"], drop["name"], drop["address"], drop["reason"])
        assert said == (id, "ben", address, "its key is not admitted any more")
        rows = [line.split() for line in anna("status").out.splitlines()]
        heading = rows.index(["DROPPED", "TIMES", "WHO", "ADDRESS", "WHY"])
        assert rows[heading + 1][3:] == ["1", "ben", address, *drop["reason"].split()]


def test_a_node_that_goes_down_is_no_dropped_link(template: Home, tmp_path: Path) -> None:
    with swarm(tmp_path, template, "anna", "ben") as (anna, ben):
        assert ben("down").code == 0
        until(lambda: anna.peer("ben")["state"] == "away")
        assert anna.data("status")["dropped"] == []


# Its log.


def test_a_log_that_is_long_is_put_aside_at_the_next_start(anna: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MOST_LOG_BYTES", 1000)
    log, older = anna.places.log, anna.home.root / "node.log.1"
    log.write_text("short\n")
    assert anna("up", "--detach").code == 0
    assert anna("down").code == 0
    assert log.read_text().startswith("short\n")
    assert not older.exists()
    log.write_text("x" * 5000 + "last words\n")
    log.chmod(0o644)
    assert anna("up", "--detach").code == 0
    assert "x" not in log.read_text()[:1]
    assert older.read_text() == "x" * 989 + "last words\n"
    assert [oct(path.stat().st_mode & 0o777) for path in (log, older)] == ["0o600", "0o600"]
    anna.home.prepare()  # takes it for a home, and nothing else


def test_a_log_is_kept_short_while_its_node_runs_and_no_other_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "MOST_LOG_BYTES", 1000)
    log, older, other = (tmp_path / name for name in ("node.log", "node.log.1", "a person's own"))

    def say_a_lot(stream: TextIO) -> None:
        monkeypatch.setattr(sys, "stderr", stream)
        said = serving._Said(log)
        for number in range(100):
            said.emit(logging.LogRecord("node", logging.INFO, "", 0, f"line {number:3} {'.' * 90}", None, None))

    with open(log, "a") as stream:
        say_a_lot(stream)
    assert os.path.getsize(log) <= 1000
    assert os.path.getsize(older) <= 1000
    assert "line  99" in log.read_text() + older.read_text()
    log.write_text("of another run" * 500)
    with open(other, "a") as stream:
        say_a_lot(stream)
    say_a_lot(io.StringIO())
    assert len(other.read_text().splitlines()) == 100
    assert log.read_text() == "of another run" * 500


# What a member uses.


def test_a_member_is_told_that_there_is_no_version_to_choose(template: Home, tmp_path: Path) -> None:
    with homes(tmp_path, template, "anna", "ben") as (anna, ben):
        anna.train(winnable(6))
        assert anna.data("adapter", "use", "base")["current"] == "base"
        assert anna.data("adapter", "use", "local:1")["current"] == "local:1"
        invite(anna)
        anna.up()
        let_in(anna, ben)
        head = anna.status()["swarm"]["head_round"]
        for words in (("use", "base"), ("use", "local:7"), ("rollback",), ("rollback", "9")):
            outcome = anna("adapter", *words)
            assert outcome.code == 2, words
            assert "this home belongs to the swarm anna, and uses what its members share" in outcome.err
            assert f"hint: see what that is: spearctl --home {anna.home.root} status;" in outcome.err
        assert anna.data("adapter", "list")["current"] == f"round:{head}"
        assert anna.data("status")["adapter"]["current"] == f"round:{head}"
        out = anna("adapter", "list").out
        assert f"In use: round {head} of the swarm\n" in out
        assert "*" not in out
