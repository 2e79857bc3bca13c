"""Whom a member dials, and for whom it makes room."""

from __future__ import annotations

import pytest

from p2p import limits
from p2p.actions import Action, Dial
from p2p.member import Member
from p2p.records import Revocation
from tests.company import Company
from tests.simulation.people import person


def test_members_that_are_away_and_have_to_be_heard_keep_nobody_from_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MAX_DIALLED", 2)
    monkeypatch.setattr(limits, "REDIAL_S", (1.0, 4.0))
    company = Company(6)
    company.disks[0].is_suspect = True
    company.restart(0)
    there, away, dialled = {1, 2}, {3, 4, 5}, list[int]()
    numbers = {person(number).transport_public: number for number in there | away}
    for key, number in numbers.items():
        company.members[0].dialling.remember(f"n{number}:1", key)

    def tick(member: Member, now: float) -> list[Action]:
        actions = member.tick(now=now, clock_s=1)
        dialled.extend(numbers[action.key] for action in actions if isinstance(action, Dial))
        return actions

    for number in there:
        company.link(0, number)
    for _ in range(600):
        company.now += 1.0
        before = len(dialled)
        company.do(0, tick)
        for number in there & {*dialled[before:]}:
            company.link(0, number)
        for number in there:
            company.do(number, lambda member, now: member.tick(now=now, clock_s=1))
        assert {link.member for link in company.members[0].context.members()}, f"alone after {company.now} s"
    assert {*dialled} >= away
    assert "others have to be heard" in company.drops(0)


def test_what_the_local_network_says_is_tried_first_for_members_alone_and_nothing_else_is_forgotten() -> None:
    company = Company(2)
    member, key = company.members[0], person(1).transport_public
    member.dialling.remember("far:1", key)
    member.dialling.nearby(person(9).transport_public, ["stranger:1"])
    member.dialling.nearby(key, [f"near:{number}" for number in range(1, 100)])
    dialled: list[str] = []
    for _ in range(600):
        company.now += 1.0
        dialled += [action.address for action in member.tick(now=company.now, clock_s=1) if isinstance(action, Dial)]
        member.dialling.failed(key)
    assert dialled[:5] == ["near:1", "near:2", "near:3", "near:4", "far:1"]
    assert {*dialled} == {*dialled[:5]}
    member.dialling.nearby(key, ["near:100"])
    company.now += 1.0
    actions = member.tick(now=company.now, clock_s=1)
    assert [action.address for action in actions if isinstance(action, Dial)] == ["near:100"]


def test_who_was_revoked_is_not_dialled_any_more_whatever_a_ticket_said() -> None:
    company = Company(3)
    member, keys = company.members[0], [person(number).transport_public for number in (1, 2)]
    for key in keys:
        member.dialling.remember(f"{key.hex()}:1", key)

    def dialled() -> set[bytes]:
        company.now += 60.0
        for key in keys:
            member.dialling.failed(key)
        return {action.key for action in member.tick(now=company.now, clock_s=1) if isinstance(action, Dial)}

    assert dialled() == {*keys}
    out = Revocation(
        genesis=company.genesis.hash, member=person(1).node_id, issuer=person(0).node_id, from_round=1, reason=""
    )
    member.add_own(company.sign(0, out), now=company.now, clock_s=1)
    assert dialled() == {keys[1]}
