"""Canonical bytes: one encoding a value, bounds first, and signatures that hold for one purpose only."""

from __future__ import annotations

import contextlib
import hashlib
import tracemalloc
from typing import Annotated, Any

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from p2p.encoding import MOST_QUOTED_CHARS, decode, digest, domain_separated, encode, is_printable, sign, verify
from p2p.errors import TrustError, WireError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()


class Point(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    x: int
    label: Annotated[str, Meta(max_length=8)]
    raw: bytes
    more: tuple[int, ...] = ()


class Circle(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="circle"):
    radius: int


class Square(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="square"):
    side: int
    inner: Circle | None = None


POINT = encode(Point(1, "a", b"b", (2,)))

points = st.builds(
    Point,
    st.integers(-(2**63), 2**64 - 1),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.binary(max_size=300),
    st.lists(st.integers(-(2**63), 2**64 - 1), max_size=20).map(tuple),
)


# One encoding.


@given(points)
def test_what_is_encoded_is_decoded(point: Point) -> None:
    assert decode(encode(point), Point, 1 << 20) == point


def test_the_encoding_is_the_fields_in_order() -> None:
    assert POINT == b"\x94\x01\xa1a\xc4\x01b\x91\x02"
    assert encode(Square(2, Circle(1))) == b"\x93\xa6square\x02\x92\xa6circle\x01"
    assert decode(encode(Square(2)), Circle | Square, 99) == Square(2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "raw",
    [
        b"\x94\xcc\x01\xa1a\xc4\x01b\x91\x02",  # an integer
        b"\x94\xd3\0\0\0\0\0\0\0\x01\xa1a\xc4\x01b\x91\x02",
        b"\x94\x01\xd9\x01a\xc4\x01b\x91\x02",  # a text
        b"\x94\x01\xa1a\xc5\x00\x01b\x91\x02",  # bytes
        b"\x94\x01\xa1a\xc4\x01b\xdc\x00\x01\x02",  # an array
        b"\xdc\x00\x04\x01\xa1a\xc4\x01b\x91\x02",
        b"\x94\xcb\x3f\xf0\0\0\0\0\0\0\xa1a\xc4\x01b\x91\x02",  # 1.0 for 1
        b"\x93\x01\xa1a\xc4\x01b",  # a default left out
    ],
)
def test_a_longer_or_shorter_way_to_say_the_same_is_refused(raw: bytes) -> None:
    with pytest.raises(WireError):
        decode(raw, Point, 99)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        POINT[:-1],
        POINT + b"\0",
        POINT + POINT,
        b"\x95" + POINT[1:] + b"\x03",  # a field too many
        b"\x93" + POINT[1:-2],
        b"\x84\xa1x\x01\xa5label\xa1a\xa3raw\xc4\x01b\xa4more\x90",  # names instead of order
        b"\x94\xa11\xa1a\xc4\x01b\x91\x02",
        b"\x94\x01\xa1\xff\xc4\x01b\x91\x02",  # no UTF-8
        b"\x94\x01\xa3\xed\xa0\x80\xc4\x01b\x91\x02",  # half a surrogate pair
        b"\x94\x01\xa9aaaaaaaaa\xc4\x01b\x91\x02",  # beyond its bound
        b"\x94\x01\xa1a\xa1b\x91\x02",  # text for bytes
        b"\x94\xc0\xa1a\xc4\x01b\x91\x02",
        b"\x94\xc3\xa1a\xc4\x01b\x91\x02",  # true for 1
        b"\xc1",
        b"\xd4\x01\x00",  # an extension
    ],
)
def test_anything_else_is_refused(raw: bytes) -> None:
    with pytest.raises(WireError):
        decode(raw, Point, 99)


def test_size_is_looked_at_first() -> None:
    assert decode(POINT, Point, len(POINT))
    with pytest.raises(WireError, match="10 bytes where at most 9 are allowed"):
        decode(POINT + b"\0", Point, 9)


# Hostile bytes.


@pytest.mark.parametrize(
    "header", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"]
)
@pytest.mark.parametrize("kind", [Point, tuple[int, ...], list, dict, bytes, str, Any])
def test_a_claim_to_be_large_costs_no_memory(header: bytes, kind: Any) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            decode(header, kind, 99)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [Any, list, Point, tuple[Any, ...]])
def test_nesting_ends_in_an_error_of_ours(kind: Any) -> None:
    for opening in (b"\x91", b"\x81\x01"):
        with pytest.raises(WireError):
            decode(opening * 100_000, kind, 1 << 20)


@given(st.binary(max_size=200))
def test_any_bytes_are_canonical_or_refused(raw: bytes) -> None:
    for kind in (Point, Circle | Square, tuple[int, ...]):
        try:
            value = decode(raw, kind, 150)  # type: ignore[arg-type]
        except WireError:
            continue
        assert encode(value) == raw


@given(points, st.data())
def test_damaged_bytes_are_another_value_or_refused(point: Point, data: st.DataObject) -> None:
    raw = bytearray(encode(point))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    try:
        value = decode(bytes(raw), Point, 1 << 20)
    except WireError:
        return
    assert value != point
    assert encode(value) == raw


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(1, 5_000))
def test_what_is_quoted_is_short_and_cannot_steer_a_terminal(text: str, times: int) -> None:
    with pytest.raises(WireError) as caught:
        decode(encode([text * times]), Circle | Square, 1 << 24)  # type: ignore[arg-type]
    message = caught.value.message
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 100 + MOST_QUOTED_CHARS * len(r"\U0001f9f8")


def test_what_is_quoted_is_escaped_and_its_beginning_told() -> None:
    for said, shown in (("it's\x1b[2J", r"it's\x1b[2J"), ('"\u202e"', r'"\u202e"'), ("x" * 999, "x" * 150)):
        with pytest.raises(WireError) as caught:
            decode(encode([said]), Circle | Square, 1 << 20)  # type: ignore[arg-type]
        assert shown in caught.value.message
        assert caught.value.message.startswith("not a message: Invalid value")


def test_nothing_but_its_bytes_makes_a_value() -> None:
    """What another library writes for the same array is read, if it writes it the one way."""
    assert decode(msgspec.msgpack.encode([1, "a", b"b", [2]]), Point, 99) == Point(1, "a", b"b", (2,))


# Purposes.


def test_a_hash_is_of_the_purpose_and_the_bytes() -> None:
    assert domain_separated("record", b"raw") == b"spearctl/record/1\0raw"
    assert digest("record", b"raw") == hashlib.sha256(b"spearctl/record/1\0raw").digest()
    assert digest("record", b"raw").hex() == "84eb790a91dc9cecaf4c99048c55cb3d940c4665447f4dd8bb0e8c32664099f0"


@given(st.sampled_from(["record", "join", "genesis"]), st.binary(max_size=99))
def test_a_signature_holds(domain: str, raw: bytes) -> None:
    signature = sign(KEY, domain, raw)
    assert len(signature) == 64
    verify(PUBLIC, domain, raw, signature)
    KEY.public_key().verify(signature, b"spearctl/" + domain.encode() + b"/1\0" + raw)  # as others would check it


@given(st.binary(max_size=99), st.integers(0, 511))
def test_a_signature_holds_for_nothing_else(raw: bytes, bit: int) -> None:
    signature = sign(KEY, "record", raw)
    changed = bytearray(signature)
    changed[bit // 8] ^= 1 << bit % 8
    other = bytearray(PUBLIC)
    other[bit // 8 % 32] ^= 1 << bit % 8
    for public, domain, said, by in (
        (PUBLIC, "join", raw, signature),
        (PUBLIC, "record", raw + b"\0", signature),
        (PUBLIC, "record", raw, bytes(changed)),
        (bytes(other), "record", raw, signature),
    ):
        with pytest.raises(TrustError, match="signature does not hold"):
            verify(public, domain, said, by)


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_bytes_for_a_key_or_a_signature_are_refused(public: bytes, signature: bytes) -> None:
    for key, by in ((public, signature), (PUBLIC, signature), (public, sign(KEY, "record", b""))):
        with pytest.raises(TrustError):
            verify(key, "record", b"", by)


def test_a_signature_whose_number_is_too_large_is_refused() -> None:
    """S and S + L would both do for a careless checker (RFC 8032, 5.1.7): then one record had two signatures."""
    order = 2**252 + 27742317777372353535851937790883648493
    signature = sign(KEY, "record", b"raw")
    large = int.from_bytes(signature[32:], "little") + order
    with pytest.raises(TrustError):
        verify(PUBLIC, "record", b"raw", signature[:32] + large.to_bytes(32, "little"))


# Keys that prove nothing.

PRIME = 2**255 - 19
SMALL_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # the first two again, with 2^255 - 19 added
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]
"""The points of order 1, 2, 4 and 8 on the curve, each with x of either sign to be added in the highest bit."""


def with_sign(public: bytes, sign: int) -> bytes:
    return public[:31] + bytes([public[31] | sign << 7])


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("key", SMALL_ORDER)
def test_keys_under_which_one_signature_holds_for_many_messages_are_refused(key: str, sign: int) -> None:
    public, signature = with_sign(bytes.fromhex(key), sign), b"\x01" + bytes(63)
    forged = []
    for raw in (bytes([number]) for number in range(256)):
        with contextlib.suppress(InvalidSignature):
            Ed25519PublicKey.from_public_bytes(public).verify(signature, domain_separated("record", raw))
            forged.append(raw)
    assert len(forged) > 1  # else this key would do no harm
    for raw in forged:
        with pytest.raises(TrustError, match="a record under a key that proves nothing"):
            verify(public, "record", raw, signature)


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("y", range(19))
def test_a_key_in_another_than_its_one_spelling_is_refused(y: int, sign: int) -> None:
    public = with_sign((PRIME + y).to_bytes(32, "little"), sign)
    with pytest.raises(TrustError, match="proves nothing"):
        verify(public, "record", b"", bytes(64))


@pytest.mark.parametrize("y", [2, 3, 4, PRIME - 2, PRIME - 3, PRIME - 4])
def test_a_key_beside_those_is_a_key(y: int) -> None:
    with pytest.raises(TrustError, match="signature does not hold"):
        verify(y.to_bytes(32, "little"), "record", b"", bytes(64))


@pytest.mark.parametrize("text", ["anna", "日本 語", "Zoë's", "\U0001fae8", "\U0001fae9", "\u0378", "a b", ""])
def test_names_are_printable_whatever_this_python_knows_of_unicode(text: str) -> None:
    assert is_printable(text)


@pytest.mark.parametrize("place", [0x0, 0xA, 0x1B, 0x7F, 0x9B, 0xAD, 0x200B, 0x2028, 0x202E, 0x2066, 0xFEFF, 0xE0041])
def test_what_would_change_a_line_is_not_printable(place: int) -> None:
    assert not is_printable(f"a{chr(place)}b")
