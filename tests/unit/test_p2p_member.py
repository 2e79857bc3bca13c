"""Members in company: what hostile, mistaken or unlucky ones say must stop nobody else."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from p2p import limits
from p2p.encoding import digest, encode
from p2p.errors import PayloadError, TrustError
from p2p.member import Member
from p2p.records import Header, PeerRecord, Record, Revocation, Seal, SealContents, SealedDelta, open_record
from p2p.roster import Roster
from p2p.sealing import name_seal
from p2p.tickets import JoinKeys, new_invite
from p2p.wire import Hello, Join, Joined, Push, Redirect, Refused, Tip, make_join
from tests.company import Company
from tests.simulation.people import person

SECRET = bytes(range(32))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SEAL_DELAY_S", 2.0)
    monkeypatch.setattr(limits, "NULL_DELAY_S", (0.5, 1.0))


def linked(count: int, **genesis: object) -> Company:
    company = Company(count, **genesis)
    for one in range(count):
        for other in range(one):
            company.link(one, other)
    return company


def changed(body: Any, **changes: Any) -> Any:
    """A structure with other values in some of its fields."""
    return type(body)(**{**{name: getattr(body, name) for name in body.__struct_fields__}, **changes})


def heads(company: Company) -> list[int]:
    return [member.context.replica.head for member in company.members]


def sealed(company: Company) -> Company:
    """Lets a company learn until something is sealed."""
    for at in range(8):
        company.learn(at % 2, f"early {at}")
        company.wait(5.0)
    assert [member.context.replica.sealed.height > 0 for member in company.members] == [True] * len(company.members)
    return company


def header(company: Company, number: int, **changes: Any) -> Record:
    """A header that a member could sign on what the founder holds."""
    replica = company.members[0].context.replica
    parents = tuple(
        sorted(id for id in replica.in_round(replica.head) if replica.header(id).author != person(number).node_id)
    )
    fields: dict[str, Any] = {
        "genesis": company.genesis.hash,
        "author": person(number).node_id,
        "round": replica.head + 1,
        "prev": b"",
        "parents": parents,
        "certificate": company.certificates[number].id,
        "wins": 3,
        "payload": bytes(32),
        "payload_bytes": 100,
        "base_state": bytes(32),
    }
    return company.sign(number, Header(**{**fields, **changes}))


def seal(company: Company, height: int, contents: bytes) -> Record:
    """A seal that its sealer could sign, of the first round."""
    body = Seal(
        genesis=company.genesis.hash,
        height=height,
        previous=company.genesis.hash,
        round=1,
        contents=digest("seal contents", contents),
        contents_bytes=len(contents),
        state=bytes(32),
        sealer=person(0).node_id,
    )
    return company.sign(0, body)


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


def test_a_header_that_names_a_seals_blob_as_its_payload_costs_nobody_that_blob() -> None:
    company = sealed(linked(3, seal_lag=1))
    one, founder = company.members[1], company.members[0]
    link = company.link_of(1, 2)
    known = founder.context.replica.seals.newest()
    assert known is not None
    assert isinstance(known.body, Seal)
    parts = known.body.state, known.body.contents
    for at, name in enumerate(parts):
        forged = header(company, 2, payload=name, prev=bytes([at + 1]) * 32)
        company.tell(1, link, Push((forged.signed,)))
        company.wait(2.0)
        assert all(company.disks[1].has_blob(part) for part in parts)
        assert not one.context.replica.is_in_set(forged.id)
    state = one.state.hash
    company.restart(1)
    assert company.members[1].state.hash == state


def test_a_crash_between_a_seals_blob_and_the_seal_makes_no_payload_of_the_blob() -> None:
    company = sealed(linked(3, seal_lag=1))
    offered = seal(company, company.members[1].context.replica.sealed.height + 9, b"to come")
    assert isinstance(offered.body, Seal)
    company.tell(1, company.link_of(1, 0), Push((offered.signed,)))
    forged = header(company, 2, payload=offered.body.state, prev=bytes([1]) * 32)
    company.tell(1, company.link_of(1, 2), Push((forged.signed,)))
    company.disks[1].write_blob(offered.body.state, b"a state")
    company.disks[1].commit()
    company.restart(1)
    assert not company.members[1].context.replica.is_in_set(forged.id)


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
    claim = changed(company.members[2].beat(), height=2**40, seal=bytes([7]) * 32)
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


# Seals.


def test_seals_that_contradict_each_other_are_remembered() -> None:
    company = linked(2)
    link = company.link_of(1, 0)
    company.tell(1, link, Push((seal(company, 1, b"one").signed, seal(company, 1, b"two").signed)))
    said = "the sealer signed two different seals; nothing is sealed or pruned any more"
    assert said in company.members[1].health
    company.restart(1)
    assert said in company.members[1].health


def test_a_seal_whose_contents_are_no_contents_is_reported_and_not_more() -> None:
    company = linked(2)
    company.learn(1, "a")
    link = company.link_of(1, 0)
    company.tell(1, link, Push((seal(company, 1, b"junk").signed,)))
    company.disks[1].write_blob(digest("seal contents", b"junk"), b"junk")
    company.disks[1].commit()
    company.wait(2.0)
    assert any(line.startswith("seal 1 cannot be read: ") for line in company.members[1].health)
    company.learn(1, "b")
    assert company.members[1].outbox.wins == 0


def test_a_seal_that_counts_two_deltas_of_one_author_in_a_round_is_reported() -> None:
    company = linked(3, seal_lag=1)
    company.learn(0, "a")
    company.learn(2, "b")
    replica = company.members[1].context.replica
    both = [id for id in replica.in_round(1) if replica.header(id).author == person(2).node_id]
    again = company.sign(2, changed(replica.header(both[0]), base_state=b"x" * 32))
    company.tell(1, company.link_of(1, 2), Push((again.signed,)))
    deltas = sorted((1, person(2).node_id, id) for id in (*both, again.id))
    contents = SealContents(
        deltas=tuple(SealedDelta(*row) for row in deltas),
        certificates=tuple(sorted(record.id for record in company.certificates)),
        revocations=(),
        equivocators=(),
    )
    raw = encode(contents)
    company.tell(1, company.link_of(1, 0), Push((seal(company, 1, raw).signed,)))
    company.disks[1].write_blob(contents.hash, raw)
    company.disks[1].commit()
    company.wait(2.0)
    assert any("two deltas of one author" in line for line in company.members[1].health)


def test_a_round_too_large_for_a_seal_is_sealed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    company = linked(3, seal_lag=1)
    monkeypatch.setattr(limits, "SEAL_DELAY_S", 1e9)
    for at in range(8):
        company.learn(at % 3, f"early {at}")
        company.wait(3.0)
    whole = len(company.members[0].context.replica.propose(heads(company)[0] - 1).deltas)
    monkeypatch.setattr(limits, "SEAL_DELAY_S", 0.0)
    monkeypatch.setattr(limits, "MAX_SEAL_CONTENTS_BYTES", 800)
    company.wait(1.0)
    first = company.members[0].context.replica.seals.accepted(1)
    assert first is not None
    assert isinstance(first.body, Seal)
    assert first.body.contents_bytes <= 800
    assert whole > 2
    assert company.members[0].health == ()


def test_a_newcomer_waits_for_the_seal_that_its_ticket_names() -> None:
    company = sealed(linked(2))
    known = company.members[0].context.replica.seals.newest()
    assert known is not None
    assert isinstance(known.body, Seal)
    for height, id, is_early in ((known.body.height, known.id, False), (known.body.height + 9, bytes([9]) * 32, True)):
        name_seal(company.disks[1], height, id)
        company.disks[1].commit()
        company.restart(1)
        company.link(1, 0)
        company.wait(2.0)
        assert company.members[1].sealing.is_early == is_early
        assert company.members[1].may_sign != is_early


def test_a_newcomer_believes_no_seals_but_those_of_its_ticket() -> None:
    company = sealed(linked(2))
    late = Company(2)
    name_seal(late.disks[1], 1, bytes([9]) * 32)
    late.disks[1].commit()
    late.disks[0] = company.disks[0]
    late.members = [late.opened(0), late.opened(1)]
    late.link(1, 0)
    late.wait(3.0)
    assert late.members[1].context.replica.sealed.height == 0
    assert any("is not the one that the ticket of this device names" in line for line in late.members[1].health)


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


def test_a_restored_sealer_takes_its_own_seals_back_before_it_signs_another() -> None:
    company = sealed(linked(3, seal_lag=1))
    founder = company.members[0].context.replica
    seals = [founder.seals.accepted(height) for height in range(1, founder.sealed.height + 1)]
    assert len(seals) > 2
    late = Company(3, seal_lag=1)
    for number in (1, 2):
        late.disks[number] = company.disks[number]
        late.restart(number)
    newest = seals[-1]
    assert newest is not None
    late.link(0, 2)
    late.tell(0, late.link_of(0, 2), Push((newest.signed,)))
    late.link(0, 1)
    late.wait(10.0)
    again = late.members[0].context.replica
    assert [again.seals.accepted(record.body.height) for record in seals if record and isinstance(record.body, Seal)][
        -1
    ] == newest
    assert not again.seals.forked


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
