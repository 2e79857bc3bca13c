"""Who gets the credit for what a swarm has learned, before and after a seal."""

from __future__ import annotations

from collections import Counter

import pytest

from p2p.credits import credits
from p2p.records import NONE, Header
from tests.company import Company, linked, sealed
from tests.simulation.people import person

pytestmark = pytest.mark.usefixtures("impatient")


def headers(company: Company) -> list[Header]:
    return [record.body for record in company.members[0].context.replica.unsealed() if isinstance(record.body, Header)]


def test_nobody_has_given_anything_at_first() -> None:
    assert credits(linked(2).members[0].context) == ()


def test_rounds_above_the_last_seal_are_told_with_their_wins() -> None:
    company = linked(3)
    company.learn(1, "one", wins=5)
    company.learn(2, "other", wins=7)
    company.wait(5.0)
    wanted = {header.author: header.wins for header in headers(company) if header.payload != NONE}
    assert sorted(wanted.values()) == [5, 7]
    for member in company.members:
        found = credits(member.context)
        assert {credit.member: credit.wins for credit in found} == wanted
        assert {credit.name for credit in found} == {"n1", "n2"}
        assert all((credit.sealed, credit.rounds) == (0, 1) for credit in found)


def test_sealed_rounds_are_counted_by_who_signed_in_them() -> None:
    company = sealed(linked(3, seal_lag=1))
    member = company.members[1]
    found = {credit.member: credit for credit in credits(member.context)}
    assert member.context.replica.sealed.height >= 1
    assert sum(credit.sealed for credit in found.values()) >= member.context.replica.sealed.round
    assert found.keys() <= {person(number).node_id for number in range(3)}
    later = Counter(header.author for header in headers(company) if header.payload != NONE)
    assert {key: credit.rounds for key, credit in found.items() if credit.rounds} == dict(later)
    company.restart(1)
    assert {credit.member: credit for credit in credits(company.members[1].context)} == found
