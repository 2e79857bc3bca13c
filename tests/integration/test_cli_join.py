"""`spearctl join`: with a ticket from anywhere, once, and what becomes of what a device had learned before."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p.founding import author_of_home, genesis_of
from p2p.identity import load
from p2p.issuing import make_ticket
from p2p.ledger import Ledger
from p2p.member import Member
from p2p.tickets import read
from spearctl.home import Home
from tests.cli import Cli
from tests.homes import make_template, winnable
from tests.swarms import GRID, LIMIT_S, Device, Tensors, agree, first_result, furthest, homes, invite, until
from tests.tiny import make_tiny_model


@pytest.fixture(scope="module")
def old_ticket() -> list[str]:
    """A ticket whose time is up, once there is a founder."""
    return []


@pytest.fixture(scope="module")
def founder(template: Home, tmp_path_factory: pytest.TempPathFactory, old_ticket: list[str]) -> Iterator[Device]:
    """A device that founded a swarm, and whose node runs."""
    with homes(tmp_path_factory.mktemp("founder"), template, "anna") as (anna,):
        invite(anna)
        old_ticket.append(expired(anna))
        anna.up()
        yield anna


@pytest.fixture
def ben(template: Home, tmp_path: Path) -> Iterator[Device]:
    """A device that belongs to no swarm yet."""
    with homes(tmp_path, template, "ben") as (made,):
        yield made


def expired(device: Device) -> str:
    """A ticket of a device whose node does not run, which was good until a minute ago."""
    keys, now_s = load(device.home.root), int(time.time())
    with Ledger(device.places.swarm) as ledger:
        author = author_of_home(ledger, keys)
        member = Member(
            genesis_of(ledger), author, ledger, rng=random.Random(0), instance=bytes(16), now=0.0, clock_s=now_s
        )
        text, record = make_ticket(member, keys, (f"127.0.0.1:{device.port}",), life_s=60, now_s=now_s - 120)
        member.add_own(record, now=0.0, clock_s=now_s)
    return text


# Ways in.


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_a_ticket_from_a_file_or_stdin_lets_a_device_in(founder: Device, ben: Device, source: str) -> None:
    text = invite(founder)
    path = ben.folder / "ticket.txt"
    path.write_text(f"{text}\n")
    words, stdin = {"file": (str(path), ""), "stdin": ("-", f"> {text}\r\n")}[source]
    outcome = ben("join", words, "--detach", stdin=stdin)
    assert outcome.code == 0
    assert outcome.out.startswith("This device is a member of the swarm anna now, and its node runs\n")
    assert outcome.err == "joining the swarm anna\n"
    assert text not in outcome.out
    assert ben.status()["swarm"]["genesis"] == read(text).genesis.hex()
    until(lambda: ben.peer("anna").get("state") == "linked")


def test_joining_in_the_foreground_says_so_at_once_and_runs_until_it_is_stopped(founder: Device, ben: Device) -> None:
    process = ben.process("join", invite(founder))
    assert process.stdout is not None
    assert process.stdout.readline() == "This device is a member of the swarm anna now, and its node runs\n"
    assert ben.is_running
    assert ben("down").code == 0
    out, err = process.communicate()
    assert process.returncode == 0
    assert out.endswith("the node was stopped\n")
    assert err == "joining the swarm anna\nCtrl-C stops the node\n"


def test_joining_again_changes_nothing_says_so_and_uses_up_no_ticket(
    founder: Device, ben: Device, template: Home, tmp_path: Path
) -> None:
    assert ben.data("join", invite(founder), "--detach")["joined"]
    pid, text = ben.pid, invite(founder)
    outcome = ben("join", text)
    assert outcome.code == 0
    assert outcome.out.startswith("this device is a member of the swarm anna already; nothing was changed\n")
    assert ben.pid == pid
    assert ben("down").code == 0
    again = ben.data("join", text, "--detach")
    assert (again["joined"], again["running"], ben.is_running) == (False, True, True)
    with homes(tmp_path / "other", template, "carol") as (carol,):
        assert carol.data("join", text, "--detach")["joined"]


# Ways that lead nowhere.


def test_nobody_there_is_code_6_after_the_time_that_was_asked(ben: Device, template: Home, tmp_path: Path) -> None:
    with homes(tmp_path / "off", template, "off") as (off,):
        outcome = ben("join", invite(off), "--timeout", "1")
    assert outcome.code == 6
    assert "nobody let this device in within 1 s" in outcome.err
    assert "spearctl up" in outcome.err
    assert not ben.places.is_member


def test_a_used_ticket_is_code_5(founder: Device, ben: Device, template: Home, tmp_path: Path) -> None:
    text = invite(founder)
    assert ben("join", text, "--detach").code == 0
    with homes(tmp_path / "other", template, "carol") as (carol,):
        outcome = carol("join", text)
        assert outcome.code == 5
        assert "the ticket was used by another device" in outcome.err
        assert "ask for a new one: spearctl invite" in outcome.err
        assert not carol.places.is_member


def test_an_expired_ticket_is_code_5(founder: Device, ben: Device, old_ticket: list[str]) -> None:
    outcome = ben("join", *old_ticket)
    assert outcome.code == 5
    assert "the ticket's time is up" in outcome.err
    assert not ben.places.is_member


def test_a_damaged_cut_or_missing_ticket_is_code_5_and_never_shown(founder: Device, ben: Device) -> None:
    text, path = invite(founder), ben.folder / "ticket"
    middle = len(text) // 2
    damaged = text[:middle] + ("a" if text[middle] != "a" else "b") + text[middle + 1 :]
    path.write_bytes(b"\xff\xfe\0")
    for words, stdin in [
        (damaged, ""),
        (text[:-8], ""),
        ("-", ""),
        ("-", damaged),
        (str(path), ""),
        (str(ben.folder / "nowhere"), ""),
    ]:
        outcome = ben("join", words, stdin=stdin)
        assert outcome.code == 5, words
        assert outcome.err.startswith("error: "), words
        assert "\nhint: " in outcome.err, words
        assert text[middle + 1 : -9] not in outcome.err
    assert not ben.places.is_member


def test_without_a_home_or_a_ticket_join_says_what_is_missing(cli: Cli) -> None:
    assert cli("join", "spear1").code == 4
    assert cli("join").code == 2


@pytest.mark.parametrize("seconds", ["0", "-1", "soon"])
def test_a_timeout_that_is_none_is_code_2(ben: Device, seconds: str) -> None:
    assert ben("join", "spear1", "--timeout", seconds).code == 2


def test_nothing_is_joined_while_something_is_trained_and_the_ticket_stays_good(founder: Device, ben: Device) -> None:
    text = invite(founder)
    with ben.home.training_lock("train"):
        outcome = ben("join", text)
    assert outcome.code == 9
    assert not ben.places.is_member
    assert ben("join", text, "--detach").code == 0


def test_a_member_of_a_swarm_cannot_join_another_one(
    founder: Device, ben: Device, template: Home, tmp_path: Path
) -> None:
    assert ben("join", invite(founder), "--detach").code == 0
    with homes(tmp_path / "other", template, "carol") as (carol,):
        text = invite(carol)
        for device in (ben, founder):
            outcome = device("join", text, "--yes")
            assert outcome.code == 2
            assert "this home belongs to the swarm anna" in outcome.err
            assert "spearctl --home DIR init" in outcome.err


# What was learned before.


def test_what_was_learned_before_is_asked_about_and_then_pending(ben: Device, template: Home, tmp_path: Path) -> None:
    with homes(tmp_path / "swarm", template, "anna") as (anna,):
        text = invite(anna)
        anna.up()
        ben.train(winnable(6))
        before = ben.export()
        outcome = ben("join", text)
        assert outcome.code == 2
        assert "nobody can be asked here: this device has learned by itself" in outcome.err
        assert "add --yes" in outcome.err
        assert not ben.places.is_member
        outcome = ben("join", text, "--yes", "--detach")
        assert outcome.code == 0
        assert "what it learned before is pending there: the next round shares it" in outcome.out
        agree(anna, ben, head=1)
        assert furthest(anna.export(), before) <= GRID
        assert furthest(ben.export(), before) <= GRID
        assert sum(ben.wins()) == 6
        assert ben.train(winnable(6, name="more"))["shared"]["wins"] == 6


def test_what_was_learned_stays_on_the_device_where_the_swarm_has_another_model(
    ben: Device, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("other")
    other = make_template(folder, make_tiny_model(folder / "model", seed=1))
    with homes(folder, other, "anna") as (anna,):
        text = invite(anna)
        anna.up()
        ben.train(winnable(6))
        before = ben.export()
        outcome = ben("join", text, "--yes", "--detach")
        assert outcome.code == 0
        assert "what it learned before stays on this device, as before" in outcome.out
        assert "! the swarm has another model or adapter than this home" in outcome.out
        assert furthest(ben.export(), before) == 0
        trained = ben.train(winnable(6, name="more"))
        assert (trained["adapter"], trained["shared"]) == ("local:2", None)
        status = ben.data("status")
        assert status["swarm"]["pending_wins"] == 0
        assert any("another model" in line for line in status["health"])
        assert not list(ben.places.outbox.glob("*.safetensors"))
        assert ben.status()["health"] == []
        assert anna.status()["swarm"]["head_round"] == 0


# Founders.


@pytest.fixture
def founders(template: Home, tmp_path: Path) -> Iterator[list[Device]]:
    """Two devices that both learned and then founded swarms; the first has the smaller hash."""
    with homes(tmp_path, template, "one", "two") as made:
        for device in made:
            device.train(winnable(6, name=device.name))
            invite(device)
        yield sorted(made, key=lambda device: str(device.status_of_stopped()["swarm"]["genesis"]))


def in_one_swarm(*founders: Device, expected: Tensors) -> None:
    """Asserts that two founders ended in one swarm with all that both learned."""
    agree(*founders, head=1)
    assert len({device.status()["swarm"]["genesis"] for device in founders}) == 1
    assert [device.status()["swarm"]["members"] for device in founders] == [2, 2]
    assert [sum(device.wins()) for device in founders] == [6, 6]
    for device in founders:
        assert furthest(device.export(), expected) <= 2 * GRID


def average(founders: list[Device]) -> Tensors:
    """What both together have learned, each from as many wins."""
    one, two = (device.export() for device in founders)
    return {name: (one[name] + two[name]) / 2 for name in one}


@pytest.mark.parametrize("running", [True, False], ids=["nodes run", "nodes do not run"])
def test_two_founders_who_join_each_other_at_once_end_in_one_swarm_with_what_both_learned(
    founders: list[Device], running: bool
) -> None:
    expected = average(founders)
    for device in founders if running else ():
        device.up()
    tickets = [invite(device) for device in founders]
    joins = [
        device.process("join", text, "--yes", "--json", "--timeout", "30")
        for device, text in zip(founders, reversed(tickets), strict=True)
    ]
    results = [first_result(join) for join in joins]
    assert [join.wait(LIMIT_S) for join in joins] == [0, 0]
    assert sorted((result["joined"], result["stays"]) for result in results) == [(False, True), (True, False)]
    assert results[0]["swarm"] == results[1]["swarm"]
    in_one_swarm(*founders, expected=expected)
    assert [device("down").code for device in founders] == [0, 0]
    for device in founders:
        device.up()
    in_one_swarm(*founders, expected=expected)


@pytest.mark.parametrize("first", [0, 1], ids=["smaller hash first", "larger hash first"])
def test_a_founder_alone_joins_another_and_the_other_may_answer_with_a_join(founders: list[Device], first: int) -> None:
    expected = average(founders)
    mover, stayer = founders[first], founders[1 - first]
    left = mover.status_of_stopped()["swarm"]["genesis"]
    back = invite(mover)
    stayer.up()
    mover.up()
    outcome = mover("join", invite(stayer))
    assert outcome.code == 2
    assert f"this device founded the swarm {mover.name}. To join {stayer.name} it gives that up" in outcome.err
    outcome = mover("join", invite(stayer), "--yes")
    assert outcome.code == 0
    assert f"This device is a member of the swarm {stayer.name} now, and its node runs\n" in outcome.out
    assert "what it learned before is pending there" in outcome.out
    in_one_swarm(stayer, mover, expected=expected)
    outcome = stayer("join", back, "--yes")
    assert outcome.code == 0
    assert f"who wrote the ticket joined this device's swarm, {stayer.name}, so nothing was changed" in outcome.out
    in_one_swarm(stayer, mover, expected=expected)
    assert (mover.home.root / f"swarm.left-{left[:16]}").is_dir()


def test_a_founder_whom_nobody_lets_in_stays_where_it_is(founders: list[Device]) -> None:
    mover, other = founders
    old = expired(other)
    before = mover.status_of_stopped()["swarm"]
    mover.up()
    outcome = mover("join", invite(other), "--yes", "--timeout", "1")
    assert outcome.code == 6
    assert "nobody let this device in within 1 s" in outcome.err
    other.up()
    outcome = mover("join", old, "--yes")
    assert outcome.code == 5
    assert "the ticket's time is up" in outcome.err
    assert mover.holds(**{name: before[name] for name in ("genesis", "state_hash", "head_round")})
    assert mover("join", invite(other), "--yes").code == 0


# Kills.


def test_a_move_that_was_killed_between_its_renames_is_read_and_finished(founder: Device, ben: Device) -> None:
    assert ben("join", invite(founder), "--detach").code == 0
    assert ben("down").code == 0
    os.rename(ben.places.swarm, ben.places.next_swarm)
    assert ben("status").code == 3
    assert ben.data("peers", "list")["peers"][0]["name"] == "anna"
    ben.up()
    assert ben.places.swarm.is_dir()
    assert ben.status()["health"] == []
