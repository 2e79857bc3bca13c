"""The records of a swarm: what is read is what was signed, and what no honest author says is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from p2p import limits
from p2p.encoding import decode, digest, encode, sign
from p2p.errors import TrustError, WireError
from p2p.records import (
    NONE,
    Body,
    Certificate,
    Header,
    Invite,
    PeerRecord,
    Revocation,
    Seal,
    SealContents,
    SealedDelta,
    Signed,
    author_of,
    open_record,
    record_id,
    sign_record,
)
from tests.strategies import bodies, headers

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ME = KEY.public_key().public_bytes_raw()
SWARM = b"g" * 32


def h(number: int) -> bytes:
    """A hash."""
    return bytes([number]) * 32


CERTIFICATE = Certificate(
    genesis=SWARM, member=h(1), transport=h(2), name="ben", issuer=ME, issuer_certificate=h(3), invite=h(4)
)
INVITE = Invite(genesis=SWARM, issuer=ME, join_key=h(1), join_transport=h(2), expires_s=1_800_000_000)
REVOCATION = Revocation(genesis=SWARM, member=h(1), issuer=ME, from_round=7, reason="lost")
HEADER = Header(
    genesis=SWARM,
    author=ME,
    round=3,
    prev=h(1),
    parents=(h(2), h(3)),
    certificate=h(4),
    wins=5,
    payload=h(6),
    payload_bytes=1_000,
    base_state=h(7),
)
SEAL = Seal(
    genesis=SWARM, height=1, previous=SWARM, round=9, contents=h(1), contents_bytes=70, state=h(2), sealer=ME
)  # fmt: skip
PEER = PeerRecord(genesis=SWARM, member=ME, number=4, addresses=("10.0.0.1:4242",), expires_s=1_800_000_000)
BODIES: list[Body] = [CERTIFICATE, INVITE, REVOCATION, HEADER, SEAL, PEER]
every_body = pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)


def changed(body: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(body, **changes)


def forged(body: Body) -> Signed:
    """A body with its author's signature, whatever it says."""
    raw = encode(body)
    return Signed(raw, sign(KEY, "record", raw))


def assert_refused(body: Body, match: str) -> None:
    """Neither signed nor believed."""
    with pytest.raises(WireError, match=match):
        sign_record(KEY, body)
    with pytest.raises(WireError, match=match):
        open_record(forged(body), SWARM)


# Records.


@given(bodies(SWARM, ME))
def test_what_is_signed_is_opened(body: Body) -> None:
    record = sign_record(KEY, body)
    assert open_record(record.signed, SWARM) == record
    assert record.body == body
    assert author_of(body) == ME
    assert record.id == digest("record", record.signed.body) == record_id(encode(body))


@given(headers(SWARM, ME), headers(SWARM, ME), st.sampled_from(Header.__struct_fields__))
def test_headers_that_differ_in_any_field_differ_in_their_id(one: Header, other: Header, field: str) -> None:
    other = changed(one, **{field: getattr(other, field)})
    assert (record_id(encode(one)) == record_id(encode(other))) == (one == other)


@every_body
def test_signing_again_does_not_change_an_id(body: Body) -> None:
    record = sign_record(KEY, body)
    assert sign_record(Ed25519PrivateKey.generate(), body).id == record.id


@every_body
def test_records_of_another_author_s_signature_are_refused(body: Body) -> None:
    with pytest.raises(TrustError, match="signature does not hold"):
        open_record(sign_record(Ed25519PrivateKey.generate(), body).signed, SWARM)


def test_a_record_of_a_key_that_proves_nothing_is_refused() -> None:
    anyone = bytes([1]) + bytes(31)  # S B = R + k A holds for every k, if A and R are neutral and S is 0
    raw = encode(changed(INVITE, issuer=anyone))
    with pytest.raises(TrustError, match="proves nothing"):
        open_record(Signed(raw, anyone + bytes(32)), SWARM)


@every_body
def test_a_signature_for_another_purpose_is_refused(body: Body) -> None:
    raw = encode(body)
    for domain in ("join", "genesis", "ticket"):
        with pytest.raises(TrustError):
            open_record(Signed(raw, sign(KEY, domain, raw)), SWARM)


@every_body
def test_records_of_another_swarm_are_refused(body: Body) -> None:
    with pytest.raises(WireError, match="another swarm"):
        open_record(sign_record(KEY, changed(body, genesis=h(9))).signed, SWARM)


@every_body
def test_no_bit_of_a_record_can_be_changed(body: Body) -> None:
    record = sign_record(KEY, body).signed
    for place in range(len(record.body)):
        raw = bytearray(record.body)
        raw[place] ^= 1 << place % 8
        with pytest.raises((WireError, TrustError)):
            open_record(Signed(bytes(raw), record.signature), SWARM)


def test_a_record_that_is_too_long_is_refused_unread() -> None:
    assert_refused(changed(PEER, addresses=("\N{SNOWMAN}" * 255,) * 8), f"at most {limits.MAX_RECORD_BYTES:,}")


@every_body
def test_the_largest_record_of_its_kind_is_accepted(body: Body) -> None:
    largest: dict[type, dict[str, Any]] = {
        Certificate: {"name": "\U0001f9f8" * 64},
        Invite: {"expires_s": 2**62},
        Revocation: {"reason": "\U0001f9f8" * 200, "from_round": 2**62},
        Header: {
            "round": 2**62, "parents": tuple(h(n) for n in range(32)), "wins": 2**31, "payload_bytes": 2**62,
        },
        Seal: {"height": 2**62, "round": 2**62, "contents_bytes": 2**62},
        PeerRecord: {"addresses": ("a" * 255,) * 8, "number": 2**62, "expires_s": 2**62},
    }  # fmt: skip
    record = sign_record(KEY, changed(body, **largest[type(body)]))
    assert open_record(record.signed, SWARM) == record


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"prev": h(1)[:16]}, "half a hash"),
        ({"payload": h(1)[:31]}, "half a hash"),
        ({"parents": (h(3), h(2))}, "not sorted"),
        ({"parents": (h(2), h(2))}, "not different"),
        ({"parents": ()}, "fit its round"),
        ({"round": 1, "prev": NONE}, "fit its round"),
        ({"round": 1, "parents": ()}, "first round that follows another"),
        ({"wins": 0}, "wins do not fit"),
        ({"payload_bytes": 0}, "wins do not fit"),
        ({"payload": NONE}, "wins do not fit"),
        ({"payload": NONE, "wins": 0}, "wins do not fit"),
        ({"payload": NONE, "payload_bytes": 0}, "wins do not fit"),
        ({"parents": tuple(h(n) for n in range(33))}, "length <= 32"),
        ({"parents": (h(2)[:31],)}, "length >= 32"),
        ({"round": 0}, ">= 1"),
        ({"round": 2**62 + 1}, "<= "),
        ({"wins": -1}, ">= 0"),
        ({"wins": 2**31 + 1}, "<= "),
        ({"payload": h(1) + b"x"}, "length <= 32"),
        ({"certificate": NONE}, "length >= 32"),
        ({"author": ME[:31]}, "length >= 32"),
        ({"base_state": h(1) * 2}, "length <= 32"),
    ],
)
def test_headers_that_no_honest_author_signs_are_refused(changes: dict[str, Any], match: str) -> None:
    assert_refused(changed(HEADER, **changes), match)


def test_a_null_header_and_a_first_one_are_accepted() -> None:
    null = changed(HEADER, payload=NONE, payload_bytes=0, wins=0)
    first = changed(HEADER, round=1, prev=NONE, parents=())
    assert open_record(sign_record(KEY, null).signed, SWARM).body == null
    assert open_record(sign_record(KEY, first).signed, SWARM).body == first
    assert null.is_null
    assert not first.is_null


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer_certificate": NONE},
        {"invite": NONE},
        {"issuer_certificate": NONE, "invite": NONE},
        {"invite": h(4)[:31]},
        {"member": ME},
        {"member": ME, "invite": NONE},
        {"member": ME, "issuer_certificate": NONE},
    ],
)
def test_certificates_that_do_not_say_who_let_their_member_in_are_refused(changes: dict[str, Any]) -> None:
    assert_refused(changed(CERTIFICATE, **changes), "who let its member in")


@pytest.mark.parametrize(
    "body",
    [
        changed(CERTIFICATE, name=""),
        changed(CERTIFICATE, name="n" * 65),
        changed(CERTIFICATE, transport=h(2)[:31]),
        changed(INVITE, expires_s=-1),
        changed(INVITE, join_key=b""),
        changed(REVOCATION, from_round=0),
        changed(REVOCATION, reason="r" * 201),
        changed(SEAL, height=0),
        changed(SEAL, round=0),
        changed(SEAL, previous=NONE),
        changed(SEAL, contents_bytes=-1),
        changed(PEER, addresses=("a:1",) * 9),
        changed(PEER, addresses=("",)),
        changed(PEER, addresses=("a" * 256,)),
        changed(PEER, number=-1),
    ],
    ids=lambda body: type(body).__name__,
)
def test_fields_out_of_bounds_are_refused(body: Body) -> None:
    assert_refused(body, "Expected")


@pytest.mark.parametrize("text", ["\x1b[2J", "two\nlines", "tab\t", "\x7f", "\x9b", "\u202egnp", "\u2028", "a\0"])
def test_texts_that_cannot_be_shown_are_refused(text: str) -> None:
    assert_refused(changed(CERTIFICATE, name=text), "a certificate with a name that cannot be shown")
    assert_refused(changed(REVOCATION, reason=text), "a revocation with a reason that cannot be shown")


@pytest.mark.parametrize("text", ["Jürgen's phone", "家", '"\\', "🧸"])
def test_texts_may_be_in_any_language(text: str) -> None:
    for body in (changed(CERTIFICATE, name=text), changed(REVOCATION, reason=text)):
        assert open_record(sign_record(KEY, body).signed, SWARM).body == body


def test_a_revocation_needs_no_reason() -> None:
    body = changed(REVOCATION, reason="")
    assert open_record(sign_record(KEY, body).signed, SWARM).body == body


@pytest.mark.parametrize(
    "body",
    [changed(HEADER, parents=[h(2), h(3)]), changed(PEER, addresses=["10.0.0.1:4242"])],
    ids=["parents", "addresses"],
)
def test_what_would_be_read_as_something_else_is_not_signed(body: Body) -> None:
    with pytest.raises(WireError, match="reads otherwise"):
        sign_record(KEY, body)


def test_signed_things_are_bounded_before_they_are_opened() -> None:
    honest = sign_record(KEY, HEADER).signed
    assert decode(encode(honest), Signed, 5_000) == honest
    for big in (Signed(bytes(limits.MAX_RECORD_BYTES + 1), bytes(64)), Signed(b"", bytes(63)), Signed(b"", bytes(65))):
        with pytest.raises(WireError):
            decode(encode(big), Signed, 5_000)


def test_the_contents_of_a_seal_have_a_hash_of_their_own() -> None:
    contents = SealContents(
        deltas=(SealedDelta(1, h(1), h(2)),), certificates=(h(3),), revocations=(), equivocators=(h(4),)
    )  # fmt: skip
    raw = encode(contents)
    assert decode(raw, SealContents, limits.MAX_SEAL_CONTENTS_BYTES) == contents
    assert contents.hash == digest("seal contents", raw)
    assert contents.hash != changed(contents, equivocators=()).hash


# Vectors: a second implementation gets the same.


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: sign_record(KEY, CERTIFICATE).id, "74529bf194e28710ebdf86f1f5f8b88e6ea42262bc28deb897aeb73c013ea75b"),
        (lambda: sign_record(KEY, INVITE).id, "63b403c662c63fcd130e3de05f2c1917eeb3af289d025d7198684c03b775d8d7"),
        (lambda: sign_record(KEY, REVOCATION).id, "9c15b219cff4af3ca60caaffba030373da87e801b294d8784eb85a42658cf60b"),
        (lambda: sign_record(KEY, HEADER).id, "d26316bf235c0c33ffef5cf9f22cdb23cc11571d972f2fb48ce46baf9d1e75bf"),
        (lambda: sign_record(KEY, SEAL).id, "7e4d3fc998770674d75086af72c72301be2f448ea8e8468431ce87f109acddbe"),
        (lambda: sign_record(KEY, PEER).id, "61a772b83e9834cd66498b88b4ff3c52aca2ceef83122924b5cdab75d373765c"),
        (
            lambda: sign_record(KEY, HEADER).signed.signature,
            "48dc14a512724529a6a4871fd2e70b484c2e3f3699ca90e406f2b5e301603eb1593238142f48dfafe02318844951d3d9175fb0fb13df23bd5c81a454d1ee150a",
        ),
    ],
)
def test_hashes_and_signatures_are_pinned(make: Callable[[], bytes], expected: str) -> None:
    assert make().hex() == expected
