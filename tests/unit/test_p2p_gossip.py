"""What members ask each other for, and when: what came too early, and what somebody lacked a moment ago."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from p2p.codec import encode_payload
from p2p.grid import values_in
from p2p.meeting import BEAT_ON_CHANGE_S
from p2p.records import Header, Record
from p2p.wire import Have, Push, Want
from tests.company import Company, header, linked


def newcomers_first(company: Company) -> Record:
    """The first delta of a member that nobody but the founder has heard of."""
    company.certificates.append(company.certificate(2))
    first = header(company, 2, round=1, parents=(), wins=0, payload=b"", payload_bytes=0)
    founder = company.members[0].context.replica
    founder.roster.add(company.certificates[2])
    founder.add_header(first)
    return first


@pytest.mark.parametrize("is_told", [False, True])
def test_a_delta_that_comes_before_its_authors_certificate_comes_again_right_behind_it(is_told: bool) -> None:
    company = linked(2)
    first = newcomers_first(company)
    company.tell(1, company.link_of(1, 0), Have((first.id,)) if is_told else Push((first.signed,)))
    assert company.members[1].context.replica.is_in_set(first.id)


def test_what_comes_too_early_again_and_again_is_asked_for_once() -> None:
    company = linked(2)
    first = newcomers_first(company)
    link = company.link_of(1, 0)
    asked = [
        message.ids
        for _ in range(20)
        for message in company.hear(1, link, Push((first.signed,)))
        if isinstance(message, Want)
    ]
    assert asked == [(company.certificates[2].id, first.id)]


def test_who_lists_a_delta_is_asked_for_its_payload_although_it_lacked_that_a_moment_ago() -> None:
    company = Company(3)
    company.link(1, 0)
    tensors = company.genesis.travelling(1)
    raw = encode_payload(np.ones(values_in(tensors), dtype=np.int16), tensors)
    delta = header(company, 2, round=1, parents=(), payload=hashlib.sha256(raw).digest(), payload_bytes=len(raw))
    assert isinstance(delta.body, Header)
    founder, other = (member.context.replica for member in company.members[:2])
    founder.add_header(delta)
    company.tell(1, company.link_of(1, 0), Push((delta.signed,)))
    company.disks[0].write_blob(delta.body.payload, raw)
    founder.add_payload(delta.body)
    assert not other.is_in_set(delta.id)
    company.wait(BEAT_ON_CHANGE_S + 1)
    assert other.is_in_set(delta.id)
