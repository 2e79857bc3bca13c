"""SIGKILL of a node in the middle of a swarm's life: it comes back, and nothing is lost or counted twice."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import numpy as np
import pytest

from p2p import limits
from p2p.ledger import Ledger
from tests.nodes import Peer, agree, is_chunk, read_tap, swarm, until

KILLS = 20
MOMENTS = 120
"""Fault points and messages, of which a run has about so many until it is in step again."""
VALUES = 64
LARGE = 1 << 20


def assert_sound(peer: Peer) -> None:
    """Asserts that nothing in the ledger of a node that does not run is there by halves."""
    with Ledger(peer.places.swarm) as ledger:
        assert ledger.check(lambda name: True) == []
        assert not ledger.is_suspect


def is_dead(peer: Peer) -> bool:
    return peer.process is None or peer.process.poll() is not None


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 11))])
def test_a_node_killed_over_and_over_while_all_learn_comes_back_whole(tmp_path: Path, seed: int) -> None:
    rng, wins, learned = random.Random(seed), 0, np.zeros(VALUES, dtype=np.int64)
    with swarm(tmp_path, "ada", "bob", parameters=VALUES) as made:
        other, victim = made
        other.up()
        for kill in range(1, KILLS + 1):
            victim.begin(dies_at=str(rng.randint(1, MOMENTS)))
            while not is_dead(victim):
                learner, steps = rng.choice((other, victim)), np.full(VALUES, rng.randint(-99, 99))
                learner.learn(steps, wins=1)
                wins, learned = wins + 1, learned + steps
                until(lambda learner=learner: is_dead(victim) or not learner.is_waiting)
            assert victim.end() == -signal.SIGKILL, victim.places.log.read_text()
            assert_sound(victim)
            if kill % 5 == 0:
                victim.up()
                agree(made)
                assert sum(header.wins for header in victim.headers()) == wins
                assert victim.sum_of_deltas().tolist() == learned.tolist()
                assert victim.end() == -signal.SIGKILL
                assert_sound(victim)


@pytest.mark.parametrize("after", [1, 6])
def test_a_node_killed_while_it_fetches_goes_on_where_it_was(tmp_path: Path, after: int) -> None:
    # Anything that long and random makes a payload of two bytes a value.
    steps = np.random.default_rng(after).integers(-16000, 16000, LARGE)
    tap = tmp_path / "tap"
    with swarm(tmp_path, "ada", "bob", parameters=LARGE) as made:
        giver, taker = made
        giver.up()
        giver.learn(steps, wins=3)
        taker.begin(tap=tap, dies_at=f"{after} chunk")
        until(lambda: is_dead(taker))
        assert taker.end() == -signal.SIGKILL
        taker.up(tap=tap)
        agree(made)
        (header,) = [header for header in taker.headers() if header.wins]
        chunks = -(-header.payload_bytes // limits.CHUNK_BYTES)
        assert chunks > 6
        came = sum(is_chunk(message) for message in read_tap(tap, "received"))
        assert chunks < came <= chunks + 2
        assert (taker.sum_of_deltas() == steps).all()
        taker.end()
        assert_sound(taker)
