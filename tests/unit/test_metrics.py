"""What Prometheus is told of a node: proper metrics, few labels, and a server that nobody can hold up."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import MetricsHandler
from prometheus_client.parser import text_string_to_metric_families

from p2p.addresses import HostPort
from spearctl import metrics

SWARM = {"head_round": 12, "sealed_round": 9, "members": 3, "pending_wins": 4, "unsealed_deltas": 2}
LABELS = ("state", "reason", "peer", "id")
LIMIT_S = 30.0


def peer(number: int, state: str = "linked", **changed: Any) -> dict[str, Any]:
    told = {"id": f"{number:064x}"[::-1], "name": f"peer-{number}", "state": state, "head_round": 12}
    return {**told, "last_seen_s": 1.5, "rtt_ms": 2.5, "sent_bytes": 100 + number, "received_bytes": 200, **changed}


def said(*peers: dict[str, Any], **changed: Any) -> dict[str, Any]:
    transfers = [{"blob": "ab", "bytes": 100, "total_bytes": 256}, {"blob": "cd", "bytes": 5, "total_bytes": 0}]
    return {
        "swarm": SWARM,
        "peers": list(peers),
        "transfers": transfers,
        "health": ["a line", "a secret prompt"],
        "turned_away": {"a wrong key": 3},
        "uptime_s": 61.5,
        **changed,
    }


class Answers:
    """A collector that a test gives its answers."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self._answer = answer

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[Any]:
        yield from metrics.families(self._answer)


def page(answer: dict[str, Any]) -> str:
    registry = CollectorRegistry()
    registry.register(Answers(answer))  # type: ignore[arg-type]
    return generate_latest(registry).decode()


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels[name] for name in LABELS if name in sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_figures_of_status_are_metrics() -> None:
    found = samples(page(said(peer(1), peer(2, "away", head_round=None, last_seen_s=None), peer(3, "revoked"))))
    plain = {name: value for (name, labels), value in found.items() if not labels}
    assert plain == {
        "spearctl_head_round": 12,
        "spearctl_sealed_round": 9,
        "spearctl_members": 3,
        "spearctl_pending_wins": 4,
        "spearctl_unsealed_deltas": 2,
        "spearctl_transfers": 2,
        "spearctl_transfer_missing_bytes": 156,
        "spearctl_health_lines": 2,
        "spearctl_uptime_seconds": 61.5,
    }
    states = {labels[0]: value for (name, labels), value in found.items() if name == "spearctl_peers"}
    assert states == {"linked": 1, "away": 1, "banned": 0, "revoked": 1, "equivocator": 0}
    who = ("peer-1", peer(1)["id"][:12])
    assert found["spearctl_sent_bytes_total", who] == 101
    assert found["spearctl_received_bytes_total", who] == 200
    assert found["spearctl_peer_head_round", who] == 12
    assert found["spearctl_peer_last_seen_seconds", who] == 1.5
    assert found["spearctl_peer_rtt_seconds", who] == 0.0025
    assert found["spearctl_turned_away_total", ("a_wrong_key",)] == 3
    assert [labels for name, labels in found if name == "spearctl_sent_bytes_total"] == [who]


def test_counters_and_gauges_are_declared_as_such() -> None:
    kinds = {family.name: family.type for family in text_string_to_metric_families(page(said(peer(1))))}
    assert {name for name, kind in kinds.items() if kind == "counter"} == {
        "spearctl_sent_bytes",
        "spearctl_received_bytes",
        "spearctl_turned_away",
    }
    assert set(kinds.values()) == {"counter", "gauge"}


def test_no_text_but_names_states_and_reasons_gets_out() -> None:
    assert "secret" not in page(said(peer(1)))


@pytest.mark.parametrize("name", ['a"} 1\nspearctl_head_round 99', "x" * 64, "\x1b[31mred\u202e", "{a=b}\\", "  "])
def test_names_that_members_chose_are_made_harmless(name: str) -> None:
    text = page(said(peer(1, name=name)))
    assert "\x1b" not in text
    assert "\u202e" not in text
    found = samples(text)
    assert found["spearctl_head_round", ()] == 12
    (label,) = [labels[0] for metric, labels in found if metric == "spearctl_sent_bytes_total"]
    assert 1 <= len(label) <= metrics.MOST_NAME_CHARS
    assert not set(label) & set('"\\{}\n ')


def test_only_so_many_members_are_told_one_by_one_those_that_are_linked_first() -> None:
    many = [peer(number, "away") for number in range(1000)] + [peer(number) for number in range(1000, 1010)]
    found = samples(page(said(*many)))
    assert len({labels for name, labels in found if name == "spearctl_peer_last_seen_seconds"}) == metrics.MOST_PEERS
    assert len([name for name, _ in found if name == "spearctl_sent_bytes_total"]) == 10
    assert found["spearctl_peers", ("away",)] == 1000


def test_members_of_one_name_are_told_apart() -> None:
    found = samples(page(said(peer(1, name="ben"), peer(2, name="ben"))))
    assert len([name for name, _ in found if name == "spearctl_sent_bytes_total"]) == 2


# The server.


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[metrics._Server]:
    registry = CollectorRegistry()
    registry.register(Answers(said(peer(1))))  # type: ignore[arg-type]
    made = metrics._Server(HostPort("127.0.0.1", 0), MetricsHandler.factory(registry))
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.shutdown()
        made.server_close()
        thread.join(LIMIT_S)


def dial(server: metrics._Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.server_port), LIMIT_S)


def scrape(server: metrics._Server) -> bytes:
    with dial(server) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_clients_that_say_nothing_take_no_more_than_their_places_and_are_ended(
    server: metrics._Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "CLIENT_S", 1.0)
    idle = [dial(server) for _ in range(metrics.MOST_CLIENTS)]
    for client in idle:
        client.sendall(b"GET /metr")
    with dial(server) as refused:
        assert refused.recv(1) == b""  # at once, although those before it still wait
    for client in idle:  # a byte now and then does not make it last
        assert client.recv(1) == b""
        client.close()
    answer = b""
    while not answer:  # the last place may not be free yet
        answer = scrape(server)
    assert b" 200 OK" in answer.splitlines()[0]
    assert b"spearctl_head_round 12.0" in answer


def test_clients_for_whom_no_thread_can_be_had_take_no_place_for_good(
    server: metrics._Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(timer: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Timer, "start", refuse)
        for _ in range(metrics.MOST_CLIENTS):
            with dial(server) as client:
                assert client.recv(1) == b""
    answer = b""
    while not answer:  # the last place may not be free yet
        answer = scrape(server)
    assert b"spearctl_head_round 12.0" in answer


@pytest.mark.parametrize("said", [b"\r\n\r\n", b"\x16\x03\x01" * 99 + b"\r\n\r\n", b"POST / HTTP/1.0\r\n\r\n"])
def test_nonsense_is_refused_and_the_next_client_is_answered(server: metrics._Server, said: bytes) -> None:
    with dial(server) as client:
        client.sendall(said)
        assert b" 200 OK" not in client.recv(65536)
    assert b"spearctl_head_round 12.0" in scrape(server)
