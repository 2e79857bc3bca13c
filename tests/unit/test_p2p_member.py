"""Members in company: what hostile, mistaken or unlucky ones say must stop nobody else."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from msgspec import structs

from p2p import limits
from p2p.errors import PayloadError, TrustError
from p2p.member import Member
from p2p.records import PeerRecord, Record, Revocation, open_record
from p2p.roster import Roster
from p2p.tickets import JoinKeys, new_invite
from p2p.wire import Hello, Join, Joined, Push, Redirect, Refused, Tip, make_join
from tests.company import Company, header, heads, linked, sealed
from tests.simulation.people import person

pytestmark = pytest.mark.usefixtures("impatient")

SECRET = bytes(range(32))


def test_members_learn_seal_and_agree() -> None:
    company = sealed(linked(3))
    assert len({member.state.hash for member in company.members}) == 1
    assert all(member.health == () for member in company.members)


def by_turns(company: Company, rounds: int) -> None:
    """Lets two members sign null deltas by turns, each alone in its round but for the first."""
    newest: dict[int, bytes] = {}
    for round, author in ((1, 0), (1, 1), *((round, round % 2) for round in range(2, rounds + 1))):
        parents = (newest[1 - author],) if round > 1 else ()
        signer, other = company.members[author], company.members[1 - author]
        signer.signing._sign(round, parents, null=True)
        newest[author] = signer.outbox.last.id
        record = signer.context.replica.get(newest[author])
        assert record is not None
        other.add_own(record, now=company.now, clock_s=1)


def test_of_two_who_were_by_turns_alone_in_a_round_either_can_go_on() -> None:
    company = Company(2)
    by_turns(company, 5)
    company.link(1, 0)
    company.wait(3.0)
    for at in range(3):
        company.learn(1, f"alone {at}", base=heads(company)[1])
        company.wait(8.0)
        assert company.members[1].outbox.wins == 0
    before = heads(company)
    company.wait(10.0)
    assert heads(company) == before  # null deltas do not answer each other


def null(company: Company, number: int, round: int, *parents: Record, prev: bytes = b"") -> Record:
    """A null delta that a member could sign."""
    ids = tuple(sorted(parent.id for parent in parents))
    return header(company, number, round=round, parents=ids, prev=prev, wins=0, payload=b"", payload_bytes=0)


def test_what_cites_a_delta_that_is_not_valid_goes_with_it_and_nobody_asks_for_that_again_and_again() -> None:
    company = linked(4)
    first = null(company, 3, 1)
    invalid = null(company, 3, 3, first, prev=first.id)  # cites a delta of another round than the one before
    hopeless = null(company, 2, 4, invalid)
    last = null(company, 0, 5, hopeless)
    replica = company.members[1].context.replica
    for record in (last, hopeless, invalid, first):
        company.tell(1, company.link_of(1, 2), Push((record.signed,)))
    company.wait(1.0)
    assert replica.is_in_set(first.id)
    assert replica.wanted_parents() == []
    assert [replica.get(record.id) for record in (invalid, hopeless, last)] == [None] * 3


def test_what_waits_for_a_delta_that_is_sealed_already_is_forgotten() -> None:
    company = sealed(linked(3, seal_lag=1))
    replica = company.members[1].context.replica
    passed = null(company, 2, 1)
    waiting = null(company, 0, replica.head + 2, passed)
    for record in (waiting, passed):
        company.tell(1, company.link_of(1, 2), Push((record.signed,)))
    assert replica.get(waiting.id) is None
    assert replica.wanted_parents() == []


def test_a_header_of_a_payload_larger_than_any_is_refused() -> None:
    company = linked(3)
    company.learn(0, "a")
    link = company.link_of(1, 2)
    company.tell(1, link, Push((header(company, 2, round=1, parents=(), payload_bytes=1 << 40).signed,)))
    assert "a delta of 1,099,511,627,776 bytes" in company.drops(1)


def test_who_claims_seals_that_nobody_has_is_not_waited_for_for_ever() -> None:
    company = linked(3)
    company.wait(1.0)
    link = company.link_of(1, 2)
    claim = structs.replace(company.members[2].beat(), height=2**40, seal=bytes([7]) * 32)
    company.tell(1, link, claim)
    assert not company.members[1].may_sign
    for _ in range(10):
        company.wait(limits.LINK_DEAD_S / 8)
        company.tell(1, link, claim)
    assert company.members[1].may_sign


def test_who_says_that_this_home_runs_twice_is_named() -> None:
    company = linked(2)
    company.wait(1.0)
    link = company.link_of(1, 0)
    company.tell(1, link, Tip(header=None, seal=None, contested=True))
    assert not company.members[1].may_sign
    (line,) = company.members[1].health
    assert line.startswith("another device runs with a copy of this home, says n0 (")
    company.wait(2 * limits.BEAT_S)  # asked again, the other end does not say so any more
    assert company.members[1].may_sign


def test_there_is_no_room_for_everybody_and_who_is_too_many_hears_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_ACCEPTED", 1)
    company = Company(3)
    company.link(1, 0)
    company.do(1, lambda member, now: member.reachable_at(("b:1",), now=now, clock_s=1))
    company.link(2, 0)
    assert company.drops(0) == ["no room"]
    assert [type(message) for node, message in company.seen if node == 2 and isinstance(message, Redirect)]
    known = company.members[2].context.replica.roster.peer(person(1).node_id)
    assert known is not None
    assert known.addresses == ("b:1",)


def test_an_address_that_a_copy_gave_is_corrected() -> None:
    company = linked(2)
    company.do(1, lambda member, now: member.reachable_at(("b:1",), now=now, clock_s=1))
    other = PeerRecord(
        genesis=company.genesis.hash,
        member=person(1).node_id,
        number=1 << 40,
        addresses=("elsewhere:1",),
        expires_s=limits.PEER_RECORD_LIFE_S,
    )
    company.do(0, lambda member, now: member.add_own(company.sign(1, other), now=now, clock_s=1))
    company.wait(limits.LINK_DEAD_S + 2)
    for member in company.members:
        known = member.context.replica.roster.peer(person(1).node_id)
        assert known is not None
        assert (known.addresses, known.number) == (("b:1",), (1 << 40) + 1)


def test_an_address_is_told_again_before_it_is_out_of_date() -> None:
    company = linked(2)
    company.do(1, lambda member, now: member.reachable_at(("b:1",), now=now, clock_s=1))
    first = company.members[0].context.replica.roster.peer(person(1).node_id)
    later = 2 + limits.PEER_RECORD_LIFE_S // 2
    company.now += limits.LINK_DEAD_S
    company.do(1, lambda member, now: member.tick(now=now, clock_s=later))
    second = company.members[1].context.replica.roster.peer(person(1).node_id)
    assert first is not None
    assert second is not None
    assert (first.expires_s, second.expires_s) == (1 + limits.PEER_RECORD_LIFE_S, later + limits.PEER_RECORD_LIFE_S)


# Who gets in.


def asked(company: Company, joiner: int) -> tuple[Join, bytes]:
    """What a newcomer with a ticket of the founder says, and the CURVE key that it comes with."""
    record, keys = new_invite(person(0), company.genesis.hash, life_s=100, now_s=1, secret=SECRET)
    company.do(0, lambda member, now: member.add_own(record, now=now, clock_s=1))
    return request(company, joiner, record.id, keys), keys.transport_public


def request(company: Company, joiner: int, invite: bytes, keys: JoinKeys) -> Join:
    return make_join(
        genesis=company.genesis.hash,
        invite=invite,
        transport=person(joiner).transport_public,
        name="new",
        leaving=b"",
        key=person(joiner).key,
        join_key=keys.sign,
    )


def test_a_newcomer_is_told_of_members_besides_the_one_that_lets_it_in() -> None:
    company = linked(3)
    for number in (1, 2):
        company.do(number, partial(Member.reachable_at, addresses=(f"n{number}:1",), clock_s=1))
    join, key = asked(company, 9)
    (joined,) = company.hear(0, company.knock(0, key), join)
    assert isinstance(joined, Joined)
    roster = Roster(company.genesis)
    for signed in (*joined.certificates[:-1], *joined.others):
        roster.add(open_record(signed, company.genesis.hash))
    assert {record.body for record in roster.peer_records()} == {
        record.body for record in company.members[0].context.replica.roster.peer_records()
    }
    assert len(roster.peer_records()) == 2


def test_a_revoked_member_gets_no_certificate_for_a_ticket_either() -> None:
    company = linked(3)
    body = Revocation(
        genesis=company.genesis.hash, member=person(2).node_id, issuer=person(0).node_id, from_round=1, reason=""
    )
    company.do(0, lambda member, now: member.add_own(company.sign(0, body), now=now, clock_s=1))
    join, key = asked(company, 2)
    assert company.hear(0, company.knock(0, key), join) == [Refused(join.invite, "revoked")]


def test_a_hello_shows_the_certificate_of_the_key_that_the_link_has() -> None:
    company = Company(2)
    second = company.certificate(1, invite=bytes([5]) * 32)
    for disk in company.disks:
        disk.add_record(second)
        disk.commit()
    company.restart(0)
    for own in (company.certificates[1], second):
        company.certificates[1] = own
        company.restart(1)
        company.link(1, 0)
        hellos = [message for node, message in company.seen if node == 0 and isinstance(message, Hello)]
        assert hellos[-1].certificates[-1] == own.signed


def test_comparing_rounds_that_do_not_exist_leaves_nothing_behind() -> None:
    company = linked(2)
    replica = company.members[0].context.replica
    before = len(replica._digests)
    for round in range(5, 2000):
        replica.round_digest(round)
    assert len(replica._digests) == before


def test_an_idle_member_says_less_than_a_kilobyte_a_second_to_eight_others() -> None:
    company = Company(9)
    for other in range(1, 9):
        company.link(other, 0)
    company.learn(0, "something")
    company.wait(120.0)
    before = company.sent_bytes[0]
    company.wait(600.0)
    assert 0 < (company.sent_bytes[0] - before) / 600 < 1000


def test_half_of_a_step_never_becomes_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    company = linked(2)
    company.learn(0, "whole")
    member, before = company.members[0], company.members[0].outbox.last
    with monkeypatch.context() as patched:
        patched.setattr(member.gossip, "flush", lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            company.learn(0, "half", base=heads(company)[0])
    with pytest.raises(RuntimeError, match="the node has to be started again"):
        company.wait(1.0)
    company.restart(0)
    assert company.members[0].outbox.last == before
    assert company.members[0].outbox.wins == 0


def test_what_is_refused_ends_no_node() -> None:
    company = linked(2)
    with pytest.raises(PayloadError):
        company.do(0, partial(Member.learn, id="x", increment=np.full(38, np.nan, np.float32), wins=1, clock_s=1))
    founder = person(0).node_id
    refused = Revocation(genesis=company.genesis.hash, member=founder, issuer=founder, from_round=1, reason="")
    with pytest.raises(TrustError):
        company.do(0, partial(Member.add_own, record=company.sign(0, refused), clock_s=1))
    company.learn(0, "sound")
    company.wait(1.0)
    assert heads(company) == [1, 1]
