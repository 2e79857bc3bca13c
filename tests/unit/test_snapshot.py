"""Which members are said to be missed."""

from __future__ import annotations

from typing import Any

import pytest

from spearctl.commands.adapter import in_swarm
from spearctl.snapshot import AWAY_S, Found, absences


def found(*peers: dict[str, Any], uptime_s: float = 1e6, members: int = 3, running: bool = True) -> Found:
    return Found(running=running, uptime_s=uptime_s, swarm={"members": members}, peers=peers)


def peer(seen_s: float | None, state: str = "away") -> dict[str, Any]:
    return {"name": "ben", "state": state, "last_seen_s": seen_s}


def test_a_member_that_was_not_heard_for_long_is_named() -> None:
    assert absences(found(peer(12 * 60.0))) == ["ben has not been seen for 12 minutes; learning goes on meanwhile"]
    assert absences(found(peer(None))) == ["ben has not been seen since this node started; learning goes on meanwhile"]


@pytest.mark.parametrize(
    "fine",
    [
        found(peer(AWAY_S - 1)),
        found(peer(None), uptime_s=AWAY_S - 1),
        found(peer(1e6, state="linked")),
        found(peer(1e6, state="revoked")),
        found(peer(1e6, state="banned")),
        found(peer(1e6), running=False),
        found(peer(1e6), members=10),  # it links to some of so many only
        Found(running=True, peers=[peer(1e6)], uptime_s=1e6),
    ],
)
def test_nobody_else_is(fine: Found) -> None:
    assert absences(fine) == []


def test_what_a_member_uses_is_said_to_be_ahead_only_where_it_is() -> None:
    assert in_swarm(7, is_ahead=False) == "round 7 of the swarm"
    assert in_swarm(7, is_ahead=True) == "round 7 of the swarm, with what was learned here on top"
