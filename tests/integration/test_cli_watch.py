"""`spearctl status --watch`: what a person sees in a terminal, and what a program reads."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pexpect import fdpexpect

from spearctl.home import Home
from tests.cli import Cli, clean_environment
from tests.homes import winnable, write_log
from tests.swarms import Device, agree, homes, invite, swarm, until
from tests.terminal import Terminal, terminal

FRAMES = 8
PARTS = ("  node ", "  swarm     anna, 2 members", "  round ", "FROM (WINS OF EACH)", "PEER ", "TRAINED ")
TITLE = re.compile(r"anna  \d\d:\d\d:\d\d, every 0\.2 s")


@pytest.fixture(scope="module")
def pair(template: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Device]]:
    """Two members whose nodes run and who have learned something; tests leave them so."""
    with swarm(tmp_path_factory.mktemp("pair"), template, "anna", "ben") as made:
        for number, device in enumerate(made):
            device.train(winnable(6, name=device.name))
            agree(*made, head=number + 1)
        yield made


@pytest.fixture
def anna(template: Home, tmp_path: Path) -> Iterator[Device]:
    """A device that belongs to no swarm yet."""
    with homes(tmp_path, template, "anna") as (made,):
        yield made


def words(device: Device) -> tuple[str, ...]:
    home = str(device.home.root)
    return (sys.executable, "-m", "spearctl", "status", "--watch", "--interval", "0.2", "--home", home)


def shows(window: Terminal, pattern: str) -> list[str]:
    """Waits until a screen shows something, and returns it."""
    found: list[str] = []

    def look() -> bool:
        found[:] = window.screen()
        return re.search(pattern, "\n".join(found)) is not None

    try:
        until(look, f"{pattern} was never shown")
    except AssertionError as error:
        error.add_note("\n".join(found))
        raise
    return found


# In a terminal.


@pytest.mark.parametrize("columns", [80, 120])
def test_every_frame_is_whole_and_nothing_is_cleared_between_two(pair: list[Device], columns: int) -> None:
    anna, _ = pair
    with terminal(clean_environment(anna.folder), anna.folder, columns) as window:
        window.type(*words(anna))
        shows(window, r"ben +linked +\d+ .* \d+ [KM]?B +\d.*/s")

        def look() -> bool:
            screen = window.screen()
            text = "\n".join(screen)
            assert TITLE.fullmatch(screen[0]), text
            for part in PARTS:
                assert part in text, text
            assert max(map(len, screen)) <= columns
            assert re.search(r"^ +\d+ +6  ben 6", text, re.MULTILINE), text
            return window.raw.read_bytes().count(b"\x1b[H") > FRAMES

        until(look)
        written = window.raw.read_bytes().partition(b"\x1b[?1049h")[2]
        frames = written.split(b"\x1b[H")[1:-1]  # the last may be about to be written
        assert len(frames) >= FRAMES - 1
        for frame in frames:
            assert frame.startswith(b"\x1b[1manna  ")
            assert b"TRAINED" in frame
        for clears in (b"\x1b[2J", b"\x1b[3J", b"\x1b[1J", b"\x1bc"):
            assert clears not in written


def test_ctrl_c_gives_the_terminal_back_as_it_was(pair: list[Device]) -> None:
    anna, _ = pair
    with terminal(clean_environment(anna.folder), anna.folder) as window:
        window.type("sh", "-c", "stty -g | md5sum")
        (before,) = (line for line in shows(window, r"\n[0-9a-f]{32} ") if line.endswith("  -"))
        window.type(*words(anna))
        shows(window, "PEER ")
        assert (window.state("alternate_on"), window.state("cursor_flag")) == ("1", "0")
        window.key("C-c")
        until(lambda: window.state("alternate_on") == "0")
        window.tmux("send-keys", "-l", "echo code $?; stty -g | md5sum")
        window.key("Enter")
        screen = shows(window, r"code 0\n[0-9a-f]{32} ")
        assert window.state("cursor_flag") == "1"
        assert screen.count(before) == 2
        assert not [line for line in screen if TITLE.fullmatch(line)]


def test_another_signal_restores_the_terminal_too_and_is_told(pair: list[Device]) -> None:
    anna, _ = pair
    with terminal(clean_environment(anna.folder), anna.folder) as window:
        window.type(*words(anna))
        shows(window, "PEER ")
        shell = psutil.Process(int(window.state("pane_pid")))
        (process,) = shell.children()
        process.send_signal(signal.SIGTERM)
        until(lambda: window.state("alternate_on") == "0")
        window.tmux("send-keys", "-l", "echo code $?")
        window.key("Enter")
        shows(window, r"code 143")
        assert window.state("cursor_flag") == "1"


def test_it_follows_the_size_of_the_terminal(pair: list[Device]) -> None:
    anna, _ = pair
    environ = {**clean_environment(anna.folder), "LINES": "40", "COLUMNS": "100"}  # as some shells export them
    with terminal(environ, anna.folder, 100, 40) as window:
        long = list(words(anna))
        long[long.index("0.2")] = "3600"  # only a resize makes it draw again
        window.type(*long)
        shows(window, "TRAINED ")
        window.resize(60, 12)
        screen = shows(window, r"\d+ lines more: a taller terminal shows them")
        assert len(screen) == 12
        assert max(map(len, screen)) <= 60
        assert screen[0].startswith("anna  ")
        window.resize(110, 40)
        screen = shows(window, "TRAINED ")
        assert not [line for line in screen if "taller" in line]


def test_a_terminal_that_does_not_know_its_size_is_taken_for_a_usual_one(anna: Device) -> None:
    ours, theirs = pty.openpty()  # of no rows and no columns
    environ = clean_environment(anna.folder)
    process = subprocess.Popen(words(anna), stdin=theirs, stdout=theirs, stderr=theirs, env=environ, cwd=anna.folder)
    os.close(theirs)
    screen = fdpexpect.fdspawn(ours, timeout=60)
    try:
        screen.expect(rb"anna  \d\d:\d\d:\d\d, every 0\.2 s.*training.*none yet.*\x1b\[H")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert b"taller" not in screen.after
    finally:
        process.kill()
        process.wait()
        screen.close()


def test_it_shows_what_is_on_the_disk_and_then_what_the_node_says(anna: Device) -> None:
    invite(anna)
    with terminal(clean_environment(anna.folder), anna.folder) as window:
        window.type(*words(anna))
        text = " ".join("\n".join(shows(window, "node +stopped")).split())
        assert "! the node does not run; what is shown is on the disk. To start it: spearctl" in text
        assert anna("up", "--detach").code == 0
        screen = shows(window, rf"node +runs, 127.0.0.1:{anna.port}")
        assert not [line for line in screen if "does not run" in line]
        assert anna("down").code == 0
        shows(window, "node +stopped")


def test_it_shows_how_far_training_is_and_when_that_was_killed(anna: Device) -> None:
    with terminal(clean_environment(anna.folder), anna.folder) as window:
        window.type(*words(anna))
        shows(window, "training +none yet")
        log = write_log(anna.folder / "log.jsonl", winnable(360))
        process = anna.process("train", "--feedback", str(log), "--rounds", "60")
        screen = shows(window, r"training  \[[#.]{16}\] round \d+ of 60, .*left")
        assert re.search(r"about \d+ (second|minute)s? left", "\n".join(screen))
        status = anna("status").out
        assert re.search(r"running in process \d+ since .*, round \d+ of 60.*; \d+ rounds?", status), status
        process.kill()
        process.wait()
        shows(window, "training +none now; ")
        assert anna.home.progress_path.exists()
        assert "running" not in anna("status").out


# As a stream.


def read(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    envelope = json.loads(line)
    assert set(envelope) == {"spearctl", "command", "ok", "data", "errors"}
    assert envelope["command"] == "status"
    return dict(envelope)


def stream(device: Device) -> subprocess.Popen[str]:
    return device.process("status", "--watch", "--interval", "0.2", "--json")


def next_where(process: subprocess.Popen[str], found: Any) -> dict[str, Any]:
    """Reads lines until one fits, which `until` gives up on."""

    def look() -> dict[str, Any]:
        line = read(process)
        return line if found(line) else {}

    return until(look, "no such line came")


def test_a_program_reads_an_object_a_line_with_rates(pair: list[Device]) -> None:
    anna, ben = pair
    process = stream(anna)
    first, second = read(process), read(process)
    assert first["ok"]
    (peer,) = first["data"]["peers"]
    assert (peer["name"], peer["sent_bytes_s"], peer["received_bytes_s"]) == ("ben", None, None)
    (peer,) = second["data"]["peers"]
    assert peer["sent_bytes_s"] >= 0
    assert peer["received_bytes_s"] >= 0
    assert second["data"]["at"] > first["data"]["at"]
    assert [round["round"] for round in first["data"]["contributions"][:2]] == [2, 1]
    assert first["data"]["contributions"][0]["authors"] == [{"id": ben.status()["id"], "name": "ben", "wins": 6}]
    assert first["data"].keys() - {"at", "note"} == anna.data("status").keys()
    next_where(process, lambda line: line["data"]["peers"][0]["received_bytes_s"] > 0)  # there are beats
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_a_stream_goes_on_while_the_node_stops_and_starts(anna: Device) -> None:
    process = stream(anna)
    assert read(process)["data"]["swarm"] is None
    invite(anna)
    stopped = next_where(process, lambda line: line["data"]["swarm"])
    assert (stopped["ok"], stopped["errors"][0]["code"], stopped["data"]["node"]["running"]) == (False, 3, False)
    anna.up()
    running = next_where(process, lambda line: line["data"]["node"]["running"])
    assert (running["ok"], running["errors"]) == (True, [])
    assert anna("down").code == 0
    next_where(process, lambda line: not line["data"]["node"]["running"])
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM


def test_a_node_that_does_not_answer_is_told_with_what_it_said_last(anna: Device) -> None:
    invite(anna)
    anna.up()
    process, pid = stream(anna), anna.pid
    assert read(process)["data"]["note"] is None
    os.kill(pid, signal.SIGSTOP)
    try:
        silent = next_where(process, lambda line: line["data"]["note"])
    finally:
        os.kill(pid, signal.SIGCONT)
    assert silent["data"]["note"].startswith("the node did not answer within 2 s; this is from ")
    assert silent["data"]["swarm"]["name"] == "anna"
    next_where(process, lambda line: line["data"]["note"] is None)


def test_nobody_who_reads_ends_it(anna: Device) -> None:
    process = stream(anna)
    read(process)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait() == 128 + signal.SIGPIPE
    process.stdout = None


def test_train_and_status_say_alike_what_a_member_uses(pair: list[Device]) -> None:
    anna, _ = pair
    agree(*pair)
    head = anna.status()["swarm"]["head_round"]
    assert head
    write_log(anna.home.feedback_path, winnable(1))
    assert f"adapter in use: round:{head}\n" in anna("train", "--dry-run").out
    assert f"adapter   round {head} of the swarm\n" in anna("status").out
    anna.home.feedback_path.write_bytes(b"")


# What is refused.


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (("--watch",), "--watch needs a terminal"),
        (("--interval", "2"), "--interval goes with --watch"),
        (("--watch", "--interval", "0"), "--interval 0: it must be a number of seconds from 0.2 to 3600"),
        (("--watch", "--interval", "nan"), "--interval nan"),
        (("--watch", "--interval", "1e9"), "--interval 1e+09"),
        (("--watch", "--interval", "soon"), "'--interval'"),
    ],
)
def test_what_cannot_be_watched_is_a_usage_error(cli: Cli, more: tuple[str, ...], part: str) -> None:
    cli.make_home()
    outcome = cli("status", *more)
    assert outcome.code == 2
    assert part in outcome.err
    assert "hint: " in outcome.err
    assert outcome.out == ""


def test_without_a_home_it_says_how_to_make_one(cli: Cli) -> None:
    assert cli("status", "--watch", "--json").code == 4
