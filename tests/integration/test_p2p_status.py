"""What a node says of itself: while it is busy, who contributed, and when others were heard last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.nodes import Peer, Steps, agree, swarm, until

LARGE = 6_000_000
"""Parameters: a delta of some megabytes."""
PIECE_BYTES = 4096
"""So that it takes a thousand and more questions and answers, and a status falls between them on any machine."""


def some_steps(parameters: int) -> Steps:
    return np.random.default_rng(5).integers(-99, 99, parameters)


def test_status_is_answered_before_a_transfer_is_done(tmp_path: Path) -> None:
    with swarm(tmp_path, "ada", "bob", parameters=LARGE, CHUNK_BYTES=PIECE_BYTES) as made:
        made.up()
        ada, bob = made
        bob.learn(some_steps(LARGE), wins=3)
        seen: set[int] = set()

        def is_done() -> bool:
            said = ada.status()
            seen.update(blob["bytes"] for blob in said["transfers"] if 0 < blob["bytes"] < blob["total_bytes"])
            return bool(said["swarm"]["head_round"])

        until(is_done)
        assert seen  # an answer came while pieces were still to come
        agree(made)


def contributions(peer: Peer) -> list[dict[str, Any]]:
    return list(peer.status()["contributions"])


def test_the_last_rounds_name_who_learned_in_them_newest_first(tmp_path: Path) -> None:
    with swarm(tmp_path, "ada", "bob", "cyn", parameters=12) as made:
        made.up()
        ada, bob, cyn = made
        for number, (peer, wins) in enumerate([(ada, 3), (bob, 40), (cyn, 5)]):
            peer.learn(np.full(12, number + 1), wins, base=number)
            agree(made, head=number + 1)
        found = contributions(ada)
        assert [round["round"] for round in found] == [3, 2, 1]
        names = [[(author["name"], author["wins"]) for author in round["authors"]] for round in found]
        assert names == [[("cyn", 5)], [("bob", 40)], [("ada", 3)]]
        assert [(round["deltas"], round["wins"]) for round in found] == [(1, 5), (1, 40), (1, 3)]
        for number in range(4, 12):
            ada.learn(np.full(12, number), 1, base=number - 1)
            agree(made, head=number)
        assert [round["round"] for round in contributions(bob)] == [11, 10, 9, 8, 7, 6]


def test_when_a_member_was_heard_last_is_known_after_its_link_ended(tmp_path: Path) -> None:
    with swarm(tmp_path, "ada", "bob", parameters=12) as made:
        made.up()
        ada, bob = made
        bob.end()
        until(lambda: ada.standing(bob) == "away")
        (peer,) = ada.status()["peers"]
        first = peer["last_seen_s"]
        assert first >= 0
        until(lambda: ada.status()["peers"][0]["last_seen_s"] > first)
        ada.end()
        ada.up()
        (peer,) = ada.status()["peers"]
        assert (peer["state"], peer["last_seen_s"]) == ("away", None)
