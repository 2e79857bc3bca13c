"""Swarms of nodes, each a process of its own on loopback: what one learns, all get, and nothing else gets out."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import zstandard

from p2p import limits
from p2p.joining import join
from p2p.moving import move_in
from p2p.tickets import read
from tests.nodes import Peer, Steps, agree, fold, new_peer, read_tap, state_name, swarm, until

ROUNDS = 12
TEXTS = (
    "My grandmother's number is +44 20 7946 0958, call her before noon.",
    "Diagnosis: Morbus Ménière, left ear. Please explain it to Zdeňka in simple words!",
    "the-password-is-correct-horse-battery-staple",
)
PIECE_BYTES = 12


def some_steps(seed: int, parameters: int, furthest: int = 1 << 15) -> Steps:
    return np.random.default_rng(seed).integers(-furthest + 1, furthest, parameters)


def test_five_nodes_that_learn_at_the_same_time_agree_on_the_fold_of_all(tmp_path: Path) -> None:
    all_wins = (1, 5, 31, 32, 90)
    with swarm(tmp_path, "ada", "bob", "cyn", "dan", "eve", parameters=1000) as made:
        made.up()
        learned, state = {}, ""
        for round in (1, 2):
            for peer, wins in zip(made, all_wins, strict=True):
                delta = learned[round, peer.identity.node_id] = some_steps(round * wins, 1000), wins
                peer.learn(*delta, base=round - 1)
            until(lambda round=round: all(sum(h.wins for h in p.headers()) == round * sum(all_wins) for p in made))
            state = agree(made, head=round)
        for peer in made:
            assert {(h.round, h.author): h.wins for h in peer.headers()} == {
                at: wins for at, (_, wins) in learned.items()
            }
        rounds = [[delta for (of, _), delta in learned.items() if of == round] for round in (1, 2)]
        assert state == state_name(fold(rounds, cap=32), made.genesis)


def feedback_of(peer: Peer) -> Steps:
    """Writes a log of feedback into a home, and learns something that depends on every letter of it."""
    lines = [json.dumps({"prompt": text, "answer": text[::-1]}, ensure_ascii=False) for text in TEXTS]
    log = peer.places.home / "feedback.jsonl"
    log.write_text("\n".join(lines), encoding="utf-8")
    return some_steps(int.from_bytes(hashlib.sha256(log.read_bytes()).digest()[:8]), 1000)


def pieces(raw: bytes) -> set[bytes]:
    return {raw[start : start + PIECE_BYTES] for start in range(len(raw) - PIECE_BYTES + 1)}


def all_that_was_said(tap: Path) -> list[bytes]:
    """The messages that a node sent, and what is inside those that are compressed."""
    sent = list(read_tap(tap, "sent"))
    unpacker = zstandard.ZstdDecompressor()
    packed = [message[message.index(b"\x28\xb5\x2f\xfd") :] for message in sent if b"\x28\xb5\x2f\xfd" in message]
    return sent + [unpacker.decompressobj().decompress(raw) for raw in packed]


def test_nothing_of_the_feedback_is_in_anything_that_a_node_sends(tmp_path: Path) -> None:
    with swarm(tmp_path, "ada-with-a-long-name", "bob", parameters=1000) as made:
        ada, bob = made
        bob.up()
        learned, tap = feedback_of(ada), tmp_path / "tap"
        ada.up(tap=tap)
        ada.learn(learned, wins=len(TEXTS))
        agree(made)
        assert (bob.sum_of_deltas() == learned).all()
        log = (ada.places.home / "feedback.jsonl").read_bytes()
        private = set().union(*(pieces(line) for line in log.splitlines()), *(pieces(text.encode()) for text in TEXTS))
        said = all_that_was_said(tap)
        assert any(b"ada-with-a-long-name" in message for message in said)
        assert any(b"layer.lora_A" in message and b"I16" in message for message in said)
        assert not [message for message in said if not private.isdisjoint(pieces(message))]


def join_by_ticket(newcomer: Peer, ticket_text: str) -> None:
    ticket = read(ticket_text)
    membership = asyncio.run(join(ticket, newcomer.identity, newcomer.name, timeout_s=60))
    contacts = {endpoint.transport: endpoint.address for endpoint in ticket.endpoints}
    move_in(newcomer.places, membership.genesis, membership.records, contacts, None)


def test_a_late_joiner_comes_into_step_without_the_rounds_that_are_sealed(tmp_path: Path) -> None:
    with swarm(tmp_path, "ada", "bob", parameters=1000, SEAL_DELAY_S=0.05, BEAT_S=0.3) as made:
        made.up()
        for round in range(ROUNDS):
            for peer in made:
                peer.learn(some_steps(round, 1000, 99), wins=2, base=round)
            agree(made, head=round + 1)
        late, tap = new_peer(tmp_path / "late", BEAT_S=0.3), tmp_path / "tap"
        try:
            join_by_ticket(late, made.peers[0].ask("invite", life_s=600)["ticket"])
            late.up(tap=tap)
            state = agree((*made, late), head=ROUNDS)
            sealed = until(lambda: late.swarm("sealed_round"))
            assert sealed >= ROUNDS - made.genesis.seal_lag - 1
            assert min(header.round for header in late.headers()) > sealed
            received_bytes = sum(map(len, read_tap(tap, "received")))
            sys.stdout.write(f"after {ROUNDS} rounds, {sealed} of them sealed: {received_bytes:,} bytes received\n")
            assert 4 * 1000 < received_bytes < 1000 * limits.KIB
            late.learn(some_steps(99, 1000, 99), wins=2, base=ROUNDS)
            assert agree((*made, late), head=ROUNDS + 1) != state
        finally:
            late.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the maps of a process")
def test_an_idle_node_is_small_and_has_no_torch(tmp_path: Path) -> None:
    with swarm(tmp_path, "ada", "bob") as made:
        made.up()
        process = psutil.Process(made.peers[0].pid)
        assert process.memory_info().rss < 120e6
        maps = {Path(entry.path).name for entry in process.memory_maps()}
        assert any("zmq" in name for name in maps)
        assert not [name for name in maps if "torch" in name]
