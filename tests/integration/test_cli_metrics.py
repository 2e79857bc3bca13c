"""`spearctl up --prometheus`: metrics of a real node, scraped over loopback."""

from __future__ import annotations

import json
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from p2p.addresses import free_port
from spearctl.home import Home
from tests.homes import winnable
from tests.swarms import Device, agree, homes, invite, let_in, until

SECRET = "my-grandmothers-number"


@pytest.fixture
def anna(template: Home, tmp_path: Path) -> Iterator[Device]:
    """A device that belongs to no swarm yet."""
    with homes(tmp_path, template, "anna") as (made,):
        yield made


def scrape(port: int) -> tuple[str, dict[str, float]]:
    """The page, and its figures by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(value for name, value in sample.labels.items() if name != "id")
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return text, found


def test_a_scrape_says_what_status_says_and_nothing_of_the_feedback(
    anna: Device, template: Home, tmp_path: Path
) -> None:
    invite(anna)
    port = free_port()
    anna.up("--prometheus", f"127.0.0.1:{port}")
    assert scrape(port)[1]["spearctl_up"] == 1
    with homes(tmp_path / "other", template, "ben") as (ben,):
        let_in(anna, ben)
        anna.train(winnable(6, name=SECRET))
        agree(anna, ben, head=1)
        until(lambda: scrape(port)[1]["spearctl_head_round"] == anna.status()["swarm"]["head_round"])
        text, found = scrape(port)
        assert (found["spearctl_members"], found["spearctl_pending_wins"]) == (2, 0)
        assert (found["spearctl_peers{linked}"], found["spearctl_peers{away}"]) == (1, 0)
        status = anna.peer("ben")
        assert 0 < found["spearctl_sent_bytes_total{ben}"] <= status["sent_bytes"]
        assert 0 < found["spearctl_received_bytes_total{ben}"] <= status["received_bytes"]
        assert SECRET not in text
        assert "Say something" not in text


def test_a_detached_node_serves_them_until_it_is_stopped(anna: Device) -> None:
    invite(anna)
    port = free_port()
    assert anna("up", "--detach", "--prometheus", f"localhost:{port}").code == 0
    assert scrape(port)[1]["spearctl_head_round"] == 0
    again = anna("up", "--detach", "--prometheus", f"127.0.0.1:{port}")
    assert again.code == 0
    assert "--prometheus counts when a node starts" in again.err
    assert anna("down").code == 0
    with pytest.raises(OSError, match="refused"):
        scrape(port)
    assert "Traceback" not in anna.places.log.read_text()


@pytest.mark.parametrize("words", [("up",), ("up", "--detach")])
def test_a_port_in_use_is_code_6_and_no_node_runs(anna: Device, words: tuple[str, ...]) -> None:
    invite(anna)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        outcome = anna(*words, "--prometheus", where)
    assert outcome.code == 6
    assert f"metrics cannot be served on {where}: " in outcome.err
    assert "hint: choose another address for --prometheus" in outcome.err
    assert not anna.is_running


@pytest.mark.parametrize("where", ["9464", "127.0.0.1", "http://127.0.0.1:9464", "example.org:9464", "127.0.0.1:0", ""])
def test_what_is_no_address_is_refused_before_anything_starts(anna: Device, where: str) -> None:
    invite(anna)
    for more in ((), ("--detach",)):
        outcome = anna("up", *more, "--prometheus", where, "--json")
        assert outcome.code == 6
        assert outcome.envelope["errors"][0]["hint"]
    assert not anna.is_running


def test_an_address_that_others_reach_is_warned_of(anna: Device) -> None:
    invite(anna)
    port = free_port()
    outcome = anna("up", "--detach", "--prometheus", f"0.0.0.0:{port}")
    assert outcome.code == 0
    assert f"everybody who can reach 0.0.0.0:{port} can read this node's metrics" in outcome.err
    assert scrape(port)[1]["spearctl_up"] == 1
    assert "everybody" not in anna("up", "--detach", "--prometheus", f"127.0.0.1:{port}").err


def test_without_the_package_it_is_code_4_with_the_command_that_gets_it(
    anna: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    invite(anna)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    for words in (("up",), ("up", "--detach")):
        outcome = anna(*words, "--prometheus", "127.0.0.1:9464")
        assert outcome.code == 4
        assert "hint: pip install 'spearctl[metrics]'\n" in outcome.err
    assert not anna.is_running


def test_a_node_without_metrics_does_not_load_them(anna: Device) -> None:
    invite(anna)
    code = (
        "import sys, p2p.node\nfrom spearctl.main import main\n"
        "class Stops(p2p.node.Node):\n"
        "    async def run(self, ready): self.stop(); return await super().run(ready)\n"
        "p2p.node.Node = Stops\n"
        "main(sys.argv[1:])\nprint([name for name in sys.modules if name.startswith('prometheus')], file=sys.stderr)"
    )
    process = anna.process("up", "--json", code=code)
    out, err = process.communicate()
    assert json.loads(out.splitlines()[0])["ok"]
    assert err.splitlines()[-1] == "[]"
