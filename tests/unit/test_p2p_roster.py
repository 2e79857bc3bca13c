"""Who is a member: records that come in any order, and more of them than are kept, leave everybody with the same."""

from __future__ import annotations

import itertools

import pytest

from p2p import limits
from p2p.records import PeerRecord, Record, Revocation
from p2p.roster import Roster
from tests.company import Company
from tests.simulation.people import person


def peer(company: Company, number: int, count: int, address: str) -> Record:
    body = PeerRecord(
        genesis=company.genesis.hash, member=person(number).node_id, number=count, addresses=(address,), expires_s=9
    )
    return company.sign(number, body)


def revocation(company: Company, member: int, from_round: int, *, issuer: int = 0, reason: str = "") -> Record:
    body = Revocation(
        genesis=company.genesis.hash,
        member=person(member).node_id,
        issuer=person(issuer).node_id,
        from_round=from_round,
        reason=reason,
    )
    return company.sign(issuer, body)


def roster_of(company: Company, *records: Record) -> Roster:
    roster = Roster(company.genesis)
    for record in (*company.certificates, *records):
        roster.add(record)
    return roster


def test_of_two_peer_records_with_one_number_everybody_keeps_the_same() -> None:
    company = Company(2)
    records = [peer(company, 1, 7, address) for address in ("a:1", "b:1", "c:1")]
    kept = {roster_of(company, *order).ids() for order in itertools.permutations(records)}
    assert len(kept) == 1


def test_a_later_peer_record_takes_the_place_of_an_earlier_one() -> None:
    company = Company(2)
    old, new = peer(company, 1, 7, "a:1"), peer(company, 1, 8, "a:1")
    roster = roster_of(company, old)
    assert roster.superseded() == []
    assert roster.add(new)
    assert roster.superseded() == [old.id]
    assert not roster.add(old)
    assert roster.get(old.id) is None


def test_of_many_revocations_everybody_keeps_the_same_few() -> None:
    company = Company(2)
    records = [revocation(company, 1, 1 + at // 2, reason=str(at)) for at in range(12)]
    forth, back = roster_of(company, *records), roster_of(company, *records[::-1])
    assert forth.ids() == back.ids()
    assert len(forth.revocations) == limits.MAX_REVOCATIONS_PER_MEMBER
    assert {record.id for record in records[:6]} <= {record.id for record in forth.revocations}
    assert sorted([*forth.superseded()]) == sorted(record.id for record in records if forth.get(record.id) is None)


def test_a_revocation_that_a_seal_may_name_stays_when_an_earlier_one_comes() -> None:
    company = Company(2)
    late, early = revocation(company, 1, 9), revocation(company, 1, 2)
    roster = roster_of(company, late, early)
    assert {record.id for record in roster.revocations} == {late.id, early.id}


def test_who_ended_a_membership_is_known() -> None:
    company = Company(3)
    roster = roster_of(company, revocation(company, 2, 1))
    founder, other, member = (person(number).node_id for number in range(3))
    assert roster.is_revoked_by(member, [founder])
    assert not roster.is_revoked_by(member, [other])
    assert not roster.is_revoked_by(other, [founder])


def test_a_full_roster_takes_nobody_in_and_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    company = Company(3)
    roster = Roster(company.genesis)
    monkeypatch.setattr(limits, "MAX_ROSTER", 2)
    assert [roster.add(record) for record in company.certificates] == [True, True, False]
    assert roster.is_full
    assert not roster.is_member(person(2).node_id)


def test_more_certificates_than_a_member_may_have_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    company = Company(2)
    roster = roster_of(company)
    monkeypatch.setattr(limits, "MAX_CERTIFICATES_PER_MEMBER", 2)
    more = [company.certificate(1, invite=bytes([9, at]) * 16) for at in range(2)]
    assert [roster.add(record) for record in more] == [True, False]
