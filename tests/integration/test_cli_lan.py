"""`--lan`: devices whose addresses have changed find each other by multicast, over the loopback interface alone."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p.addresses import free_port
from p2p.identity import load
from p2p.nearby import Nearby, networks
from spearctl.home import Home
from tests.nodes import tiny_genesis
from tests.swarms import Device, homes, invite, let_in, until


@pytest.fixture
def pair(template: Home, tmp_path: Path) -> Iterator[list[Device]]:
    """A device that founded a swarm, and one that belongs to none; no node runs."""
    with homes(tmp_path, template, "anna", "ben") as made:
        invite(made[0])
        yield made


def move(device: Device) -> None:
    """Gives a device another address, which nobody is told of."""
    device.set(listen=f"127.0.0.1:{free_port()}")


def test_a_ticket_with_an_old_address_lets_in_who_looks_in_the_local_network(pair: list[Device]) -> None:
    anna, ben = pair
    ticket = invite(anna)
    move(anna)
    anna.up("--lan")
    assert ben("join", ticket, "--timeout", "1").code == 6
    outcome = ben("join", ticket, "--lan", "--detach")
    assert outcome.code == 0, outcome.err
    assert f"found there: 127.0.0.1:{anna.port}\n" in outcome.err
    until(lambda: ben.peer("anna").get("state") == "linked")


def test_members_whose_addresses_all_changed_find_each_other(pair: list[Device]) -> None:
    anna, ben = pair
    anna.up()
    let_in(anna, ben)
    for device in pair:
        assert device("down").code == 0
        move(device)
        device.set(lan=True)
    anna.up()
    ben.up()
    until(lambda: ben.peer("anna").get("state") == "linked" and anna.peer("ben").get("state") == "linked")
    assert anna.status()["health"] == []


def test_a_ticket_is_not_refused_by_somebody_it_does_not_name(pair: list[Device], template: Home) -> None:
    anna, ben = pair
    ticket = invite(anna)
    with homes(anna.folder.parent / "other", template, "mallory") as (mallory,):
        invite(mallory)
        mallory.up("--lan")
        outcome = ben("join", ticket, "--lan", "--timeout", "1")
    assert outcome.code == 6
    assert "nobody was found there\n" in outcome.err


@pytest.mark.parametrize("words", [("up", "--lan"), ("up", "--lan", "--detach")])
def test_without_zeroconf_nothing_is_started(
    pair: list[Device], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    outcome = pair[0](*words)
    assert outcome.code == 6
    assert "pip install 'spearctl[lan]'" in outcome.err
    assert not pair[0].is_running


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # zeroconf leaves a socket open
def test_where_there_is_no_multicast_a_health_line_says_so(pair: list[Device]) -> None:
    async def run() -> tuple[str, ...]:
        found = Nearby(genesis, bytes(32), lambda key, told: pytest.fail("found somebody"))
        found.start("203.0.113.77:4242")
        await asyncio.to_thread(until, lambda: found.health)
        await found.close()
        return found.health

    genesis = tiny_genesis(load(pair[0].home.root))
    (line,) = asyncio.run(run())
    assert "multicast does not work here" in line


@pytest.mark.parametrize(
    ("bound", "where"),
    [("0.0.0.0:1", None), ("[::]:1", None), ("127.0.0.1:1", ["127.0.0.1"]), ("[fd00::2]:1", ["fd00::2"])],
)
def test_a_node_is_announced_where_it_can_be_reached(bound: str, where: list[str] | None) -> None:
    assert networks(bound) == where
