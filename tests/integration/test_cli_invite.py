"""`spearctl invite`: founds a swarm once, writes tickets, and says who can use them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p.founding import read_recovery_key
from p2p.identity import FILE_NAME
from p2p.tickets import Ticket, read
from spearctl.home import Home
from tests.homes import winnable
from tests.swarms import GRID, Device, furthest, homes


@pytest.fixture
def anna(template: Home, tmp_path: Path) -> Iterator[Device]:
    with homes(tmp_path, template, "anna") as (made,):
        yield made


def ticket_of(device: Device, *words: str) -> Ticket:
    return read(device.data("invite", *words)["ticket"])


def test_the_first_invite_founds_a_swarm_and_says_so_and_the_next_one_does_not(anna: Device) -> None:
    first = anna("invite")
    assert first.code == 0
    assert first.out.startswith("Founded the swarm anna\n")
    assert "recovery.pem: move it to a safe place off this device" in first.out
    (line,) = [line for line in first.out.splitlines() if line.startswith("spear1")]
    assert read(line).name == "anna"
    again = anna.data("invite")
    assert (again["founded"], again["recovery"]) == (None, None)
    assert read(again["ticket"]).genesis == read(line).genesis
    assert read(again["ticket"]).secret != read(line).secret


def test_a_name_for_the_swarm_is_taken_when_it_is_founded_and_refused_later(anna: Device) -> None:
    assert ticket_of(anna, "--name", "the lab").name == "the lab"
    outcome = anna("invite", "--name", "another")
    assert outcome.code == 2
    assert "belongs to a swarm already" in outcome.err


@pytest.mark.parametrize("name", ["bell\a", "line\nbreak", "n" * 65])
def test_a_name_that_no_ticket_could_carry_founds_nothing(anna: Device, name: str) -> None:
    outcome = anna("invite", "--name", name)
    assert outcome.code == 2
    assert "is no name for a swarm" in outcome.err
    assert not anna.places.is_member


def test_a_device_with_the_longest_names_founds_a_swarm_and_invites(anna: Device) -> None:
    anna.set(name="a" * 200)
    assert ticket_of(anna).name == "a" * 64


def test_the_recovery_key_and_the_keys_are_for_their_owner_alone(anna: Device) -> None:
    (anna.home.root / FILE_NAME).unlink()
    path = Path(anna.data("invite")["recovery"])
    for file in (path, anna.home.root / FILE_NAME):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_recovery_key(path).private_bytes_raw()


def test_a_founding_that_was_interrupted_is_taken_up_with_its_own_recovery_key(anna: Device) -> None:
    assert anna("invite").code == 0
    kept = (anna.home.root / "recovery.pem").read_bytes()
    os.rename(anna.home.root / "swarm", anna.home.root / ".as-if-it-had-never-been-founded")
    assert anna.data("invite")["founded"] == "anna"
    assert (anna.home.root / "recovery.pem").read_bytes() == kept
    os.rename(anna.home.root / "swarm", anna.home.root / ".nor-then")
    (anna.home.root / "recovery.pem").write_bytes(b"not a key")
    outcome = anna("invite")
    assert outcome.code == 5
    assert "no readable recovery key" in outcome.err
    assert not anna.places.is_member


def test_a_founder_that_has_learned_begins_with_that(anna: Device) -> None:
    assert anna.train(winnable(6))["adapter"] == "local:1"
    before = anna.export()
    anna("invite")
    assert sum(anna.wins()) == 6
    assert furthest(anna.export(), before) <= GRID


def test_a_founder_that_went_back_to_the_base_model_begins_with_nothing(anna: Device) -> None:
    anna.train(winnable(6))
    assert anna("adapter", "use", "base").code == 0
    anna("invite")
    assert sum(anna.wins()) == 0


def test_only_the_wins_behind_the_version_in_use_count(anna: Device) -> None:
    anna.train(winnable(6))
    assert anna("adapter", "use", "base").code == 0
    anna.train(winnable(3, name="other"))
    anna("invite")
    assert sum(anna.wins()) == 3


def test_nothing_is_founded_while_something_is_trained(anna: Device) -> None:
    with anna.home.training_lock("train"):
        outcome = anna("invite")
    assert outcome.code == 9
    assert f"process {os.getpid()} (train)" in outcome.err
    assert not anna.places.is_member


# The file.


def test_a_ticket_in_a_file_is_a_secret_and_not_on_stdout(anna: Device) -> None:
    path = anna.folder / "ticket.txt"
    outcome = anna("invite", "--out", str(path))
    assert outcome.code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert text.count("\n") == 1
    assert read(text).name == "anna"
    assert "spear1" not in outcome.out + outcome.err
    assert "spearctl join ticket.txt" in outcome.out
    other = anna.folder / "other.txt"
    data = anna.data("invite", "--out", str(other))
    assert (data["ticket"], data["file"]) == (None, str(other))


@pytest.mark.parametrize("there", ["file", "folder", "link to nothing", "no folder"])
def test_a_file_that_cannot_be_made_is_refused_before_anything_is_founded(anna: Device, there: str) -> None:
    path = anna.folder / "there"
    if there == "file":
        path.write_text("mine")
    elif there == "folder":
        path.mkdir()
    elif there == "link to nothing":
        path.symlink_to(anna.folder / "nowhere")
    else:
        path = path / "ticket.txt"
    outcome = anna("invite", "--out", str(path))
    assert outcome.code == 2
    assert "no such folder" in outcome.err if there == "no folder" else f"{path} exists" in outcome.err
    assert not anna.places.is_member
    if there == "file":
        assert path.read_text() == "mine"


# Addresses.


def test_a_loopback_address_is_warned_of(anna: Device) -> None:
    data = anna.data("invite")
    assert data["addresses"] == [f"127.0.0.1:{anna.port}"]
    (warning,) = data["warnings"]
    assert warning.startswith("only this machine reaches")
    assert f"! {warning}" in " ".join(anna("invite").out.split())


def test_a_private_address_is_warned_of_and_a_public_one_is_not(anna: Device) -> None:
    anna.set(listen=f"192.168.7.7:{anna.port}")
    (warning,) = anna.data("invite")["warnings"]
    assert warning.startswith("only devices on the same network reach")
    data = anna.data("invite", "--addr", "node.example.org:4242", "--addr", "8.8.8.8:4242")
    assert data["addresses"] == ["node.example.org:4242", "8.8.8.8:4242", f"192.168.7.7:{anna.port}"]
    assert data["warnings"] == []


def test_what_the_settings_advertise_is_in_the_ticket(anna: Device) -> None:
    anna.set(advertise=["node.example.org:4242"])
    assert anna.data("invite")["addresses"] == ["node.example.org:4242"]


def test_a_home_without_a_port_needs_an_address(anna: Device) -> None:
    anna.set(listen="127.0.0.1:0")
    outcome = anna("invite")
    assert outcome.code == 6
    assert "there is no address to put into a ticket" in outcome.err
    assert "invite --addr HOST:PORT" in outcome.err
    assert not anna.places.is_member
    assert anna.data("invite", "--addr", "node.example.org:1")["addresses"] == ["node.example.org:1"]


@pytest.mark.parametrize("address", ["nowhere", "host:0", "host:65536", "tcp://host:1", "0.0.0.0:1", "::1:4"])
def test_an_address_that_is_none_is_code_6_and_founds_nothing(anna: Device, address: str) -> None:
    outcome = anna("invite", "--addr", address)
    assert outcome.code == 6
    assert "is no address" in outcome.err
    assert not anna.places.is_member


# Time.


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("24h", 86_400), (" 7d ", 604_800)])
def test_a_ticket_is_good_for_the_time_that_was_asked(anna: Device, text: str, seconds: int) -> None:
    assert anna.data("invite", "--expires", text)["expires_in_s"] == seconds
    assert f"good for {text.strip()}," in anna("invite", "--expires", text).out


@pytest.mark.parametrize("text", ["", "0m", "-1h", "1", "h", "1.5h", "366d", "9999999s", "1h30m", "forever"])
def test_a_time_that_is_none_is_code_2_and_founds_nothing(anna: Device, text: str) -> None:
    outcome = anna("invite", f"--expires={text}")
    assert outcome.code == 2
    assert "is no time" in outcome.err
    assert "30m, 24h or 7d" in outcome.err
    assert not anna.places.is_member


# From whom.


def test_a_running_node_gives_tickets_with_the_addresses_it_has(anna: Device) -> None:
    first = ticket_of(anna)
    anna.up("--advertise", "node.example.org:4242")
    said = ticket_of(anna, "--addr", "8.8.8.8:1")
    assert (said.genesis, said.issuer) == (first.genesis, first.issuer)
    assert [endpoint.address for endpoint in said.endpoints] == ["8.8.8.8:1", "node.example.org:4242"]
    assert "up --detach" not in anna("invite").out


def test_the_next_steps_name_what_is_left_to_do(anna: Device) -> None:
    lines = anna("invite").out.splitlines()
    steps = lines[lines.index("Next:") + 1 :]
    assert steps == [
        f"  spearctl --home {anna.home.root} up --detach",
        "  spearctl join TICKET   (on the other device)",
    ]


def test_damaged_keys_are_code_5_and_lost_ones_of_a_member_are_not_made_anew(anna: Device) -> None:
    path = anna.home.root / FILE_NAME
    kept = path.read_bytes()
    path.write_bytes(kept.replace(b"MC4", b"MC5", 1))
    outcome = anna("invite")
    assert outcome.code == 5
    assert "the keys are damaged" in outcome.err
    path.write_bytes(kept)
    assert anna("invite").code == 0
    path.unlink()
    outcome = anna("invite")
    assert outcome.code == 5
    assert "there are no keys" in outcome.err
    assert not path.exists()
