"""`spearctl peers`: who is there, linking to somebody no more, and ending a membership."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from spearctl.home import Home
from tests.homes import winnable
from tests.swarms import Device, agree, furthest, homes, invite, let_in, swarm, until


@pytest.fixture(scope="module")
def trio(template: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Device]]:
    """A founder and two members whose nodes run; tests leave them so."""
    with swarm(tmp_path_factory.mktemp("trio"), template, "anna", "ben", "carol") as made:
        yield made


def test_list_has_a_row_for_everybody_else(trio: list[Device]) -> None:
    anna, ben, carol = trio
    data = ben.data("peers", "list")
    assert data["running"]
    assert [(peer["name"], peer["id"], peer["state"]) for peer in data["peers"]] == [
        ("anna", anna.status()["id"], "linked"),
        ("carol", carol.status()["id"], "linked"),
    ]
    assert [peer["founder"] for peer in data["peers"]] == [True, False]
    lines = ben("peers", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == ["PEER", "anna", "carol"]


def test_a_member_is_shown_by_its_name_or_the_beginning_of_its_id(trio: list[Device]) -> None:
    anna, ben, carol = trio
    id = carol.status()["id"]
    for words in (("carol",), (id,), (id[:4],), (id[:12].upper(),)):
        assert ben.data("peers", "show", *words)["peer"]["id"] == id
    founder = anna.status()["id"][:12]
    rows = [" ".join(line.split()) for line in ben("peers", "show", "carol").out.splitlines()]
    wanted = ("carol", f"id {id}", "state linked", f"let in by anna ({founder})", f"addresses 127.0.0.1:{carol.port}")
    assert set(wanted) <= set(rows)
    assert f"let in by   this device ({founder})" in anna("peers", "show", "carol").out
    assert "role        founder" in ben("peers", "show", "anna").out


@pytest.mark.parametrize("command", ["show", "ban", "revoke"])
def test_nobody_of_that_name_is_code_2(trio: list[Device], command: str) -> None:
    for name in ("dora", "an", "zzzz", ""):
        outcome = trio[0]("peers", command, name)
        assert outcome.code == 2
        assert f"no member is called {name!r}" in outcome.err
        assert "peers list" in outcome.err


def test_two_of_one_name_are_told_apart_by_their_ids(trio: list[Device], template: Home, tmp_path: Path) -> None:
    anna, ben, _ = trio
    with homes(tmp_path, template, "ben") as (double,):
        let_in(anna, double)
        ids = {double.status()["id"], ben.status()["id"]}
        outcome = anna("peers", "show", "ben")
        assert outcome.code == 2
        assert "2 members are called 'ben'" in outcome.err
        assert all(id[:12] in outcome.err for id in ids)
        assert anna("peers", "revoke", double.status()["id"], "--yes").code == 0
        outcome = anna("peers", "revoke", double.status()["id"], "--yes")
        assert outcome.code == 5
        assert "is no member" in outcome.err
    assert anna.data("peers", "show", "ben")["peer"]["id"] == ben.status()["id"]


def test_a_ban_ends_the_link_for_good_until_it_is_undone_and_for_this_device_alone(trio: list[Device]) -> None:
    anna, ben, carol = trio
    outcome = ben("peers", "ban", "carol")
    assert outcome.code == 0
    assert outcome.out == "this device holds no link to carol any more; for the others it stays a member\n"
    assert ben("peers", "ban", "carol").out == "carol was banned here already; nothing was changed\n"
    dropped = [drop["name"] for drop in ben.data("status")["dropped"]]
    assert "carol" not in dropped  # what this device did itself is nothing to look into
    until(lambda: carol.peer("ben")["state"] == "away")
    assert ben.peer("carol")["state"] == "banned"
    # What the banned one learns comes by the third: the ban is nobody else's.
    head = anna.status()["swarm"]["head_round"]
    carol.train(winnable(6, name="banned"))
    agree(anna, ben, carol, head=head + 1)
    assert (ben.peer("carol")["state"], carol.peer("ben")["state"]) == ("banned", "away")
    assert ben("down").code == 0
    assert ben.data("peers", "show", "carol")["peer"]["state"] == "banned"
    ben.up()
    until(lambda: ben.peer("anna")["state"] == "linked")
    head = anna.status()["swarm"]["head_round"]
    anna.train(winnable(6, name="meanwhile"))
    agree(anna, ben, carol, head=head + 1)
    assert (ben.peer("carol")["state"], carol.peer("ben")["state"]) == ("banned", "away")
    assert ben.peer("carol")["sent_bytes"] == 0
    outcome = ben("peers", "ban", "carol", "--undo")
    assert outcome.out == "this device links to carol again\n"
    assert ben("peers", "ban", "carol", "--undo").out == "carol was not banned here; nothing was changed\n"
    until(lambda: ben.peer("carol")["state"] == "linked")
    assert ben.data("peers", "ban", "anna")["banned"]
    assert not ben.data("peers", "ban", "anna", "--undo")["banned"]
    until(lambda: ben.peer("anna")["state"] == "linked")


def test_only_the_founder_and_who_let_a_member_in_may_revoke_it(trio: list[Device]) -> None:
    anna, ben, _ = trio
    for device, name, said in [
        (ben, "carol", "only the founder and whoever let a member in"),
        (ben, "anna", "nobody can revoke the founder"),
    ]:
        outcome = device("peers", "revoke", name, "--yes")
        assert outcome.code == 5
        assert said in outcome.err
        assert "hint: " in outcome.err
    outcome = anna("peers", "revoke", "carol")
    assert outcome.code == 2
    assert "nobody can be asked here: carol (" in outcome.err
    assert anna.peer("carol")["state"] == "linked"


def test_who_let_a_member_in_may_revoke_it(trio: list[Device], template: Home, tmp_path: Path) -> None:
    anna, ben, _ = trio
    with homes(tmp_path, template, "dora") as (dora,):
        let_in(ben, dora)
        assert dora("invite").code == 5
        data = ben.data("peers", "revoke", "dora", "--yes", "--reason", "moved away")
        assert (data["name"], data["revoked"]) == ("dora", True)
        until(lambda: anna.peer("dora").get("state") == "revoked")


def test_what_a_revoked_member_learns_later_does_not_count(trio: list[Device], template: Home, tmp_path: Path) -> None:
    anna, ben, carol = trio
    with homes(tmp_path, template, "dora") as (dora,):
        let_in(anna, dora)
        head = agree(*trio, dora) and anna.status()["swarm"]["head_round"]
        dora.train(winnable(6, name="before"))
        state = agree(*trio, dora, head=head + 1)
        outcome = anna("peers", "revoke", "dora", "--yes")
        assert outcome.code == 0
        assert outcome.out == f"dora is no member any more; what it shares from round {head + 2} on counts nothing\n"
        until(lambda: dora.peer("anna").get("state") == "away")
        until(lambda: {device.peer("dora").get("state") for device in trio} == {"revoked"})
        until(lambda: dora.holds(member=False))
        said = dora.train(winnable(6, name="after"))
        assert said["shared"]["line"] == (
            "6 wins shared with nobody: this device is no member of the swarm any more, so what it learns stays here"
        )
        until(lambda: not list(dora.places.outbox.glob("*.safetensors")))
        again = dora("join", invite(anna), "--detach")
        assert again.code == 5
        assert "this device is no member of the swarm anna any more" in again.err
        assert "hint: to join as a new device, make another home: " in again.err
        assert dora("down").code == 0
        assert any("is no member" in line for line in dora.status_of_stopped()["health"])
        assert agree(*trio) == state
        assert anna.status()["swarm"]["members"] == 3
        ben.train(winnable(6, name="goes on"))
        agree(*trio, head=head + 2)
        assert furthest(carol.export(), anna.export()) == 0
        assert invite(anna)


def test_ban_and_revoke_need_the_node_and_show_and_list_do_not(template: Home, tmp_path: Path) -> None:
    with swarm(tmp_path, template, "anna", "ben") as (anna, _):
        assert anna("down").code == 0
        for words in (("ban", "ben"), ("ban", "ben", "--undo"), ("revoke", "ben", "--yes")):
            outcome = anna("peers", *words)
            assert outcome.code == 3
            assert "this needs the running node, and it does not run" in outcome.err
            assert f"start it: spearctl --home {anna.home.root} up --detach" in outcome.err
        data = anna.data("peers", "list")
        assert not data["running"]
        assert [(peer["name"], peer["state"]) for peer in data["peers"]] == [("ben", "away")]
        assert "not linked" in anna("peers", "show", "ben").out
        assert anna("peers", "list").out.splitlines()[1].split()[0] == "ben"


def test_a_founder_alone_is_told_so(template: Home, tmp_path: Path) -> None:
    with homes(tmp_path, template, "anna") as (anna,):
        invite(anna)
        assert anna("peers", "list").out == "this device is the only member so far\n"
