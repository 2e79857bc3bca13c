"""Seals in company: taken in order, checked, remembered; what is wrong with one is reported and stops no learning."""

from __future__ import annotations

import pytest
from msgspec import structs

from p2p import limits
from p2p.encoding import digest, encode
from p2p.records import Seal, SealContents, SealedDelta
from p2p.seal_contents import propose
from p2p.sealing import name_seal
from p2p.wire import Push
from tests.company import Company, header, heads, linked, seal, sealed
from tests.simulation.people import person

pytestmark = pytest.mark.usefixtures("impatient")


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


def test_who_refused_a_seal_goes_on_learning_though_its_sealer_stands_behind_it() -> None:
    company = linked(2)
    link, wrong = company.link_of(1, 0), seal(company, 1, b"junk")
    stands = structs.replace(company.members[0].beat(), height=1, seal=wrong.id)
    company.tell(1, link, Push((wrong.signed,)))
    company.disks[1].write_blob(digest("seal contents", b"junk"), b"junk")
    company.disks[1].commit()
    company.tell(1, link, stands)
    company.wait(limits.LINK_DEAD_S + 5.0)
    company.tell(1, link, stands)
    company.learn(1, "a")
    assert company.members[1].sealing.is_halted
    assert company.members[1].outbox.wins == 0


def test_a_seal_that_counts_two_deltas_of_one_author_in_a_round_is_reported() -> None:
    company = linked(3, seal_lag=1)
    company.learn(0, "a")
    company.learn(2, "b")
    replica = company.members[1].context.replica
    both = [id for id in replica.in_round(1) if replica.header(id).author == person(2).node_id]
    again = company.sign(2, structs.replace(replica.header(both[0]), base_state=b"x" * 32))
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
    whole = len(propose(company.members[0].context.replica, heads(company)[0] - 1).deltas)
    monkeypatch.setattr(limits, "SEAL_DELAY_S", 0.0)
    monkeypatch.setattr(limits, "MAX_SEAL_CONTENTS_BYTES", 800)
    company.wait(1.0)
    first = company.members[0].context.replica.seals.accepted(1)
    assert first is not None
    assert isinstance(first.body, Seal)
    assert first.body.contents_bytes <= 800
    assert whole > 2
    assert company.members[0].health == ()


def test_a_newcomer_takes_no_seal_before_the_one_of_its_ticket_and_shares_what_it_learns_without_it() -> None:
    """The founder may have lost that seal with its disk: then nobody ever gives it."""
    company = sealed(linked(2))
    height = company.members[1].context.replica.sealed.height
    name_seal(company.disks[1], height + 90, bytes([9]) * 32)
    company.disks[1].commit()
    company.restart(1)
    company.link(1, 0)
    company.learn(1, "late")
    assert company.members[1].outbox.wins == 0
    assert company.members[0].state.hash == company.members[1].state.hash
    for at in range(8):
        company.learn(at % 2, f"later {at}")
        company.wait(5.0)
    assert company.members[0].context.replica.sealed.height > height
    assert company.members[1].context.replica.sealed.height == height
    assert "the seal that this device's ticket names has not come yet; no other is taken before" in (
        company.members[1].health
    )


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


def test_a_round_whose_authors_could_not_go_on_by_themselves_is_sealed_later() -> None:
    company = linked(5, quorum=3, seal_lag=1)
    for number in range(3):
        company.learn(number, "a")
    company.tell(0, company.link_of(0, 3), Push((header(company, 3, payload=b"", payload_bytes=0, wins=0).signed,)))
    replica = company.members[0].context.replica
    company.wait(limits.SEAL_DELAY_S + 2.0)
    assert (replica.head, replica.sealed.round) == (2, 0)
    company.wait(limits.LINK_DEAD_S)
    assert replica.sealed.round == 1
