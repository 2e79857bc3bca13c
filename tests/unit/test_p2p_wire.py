"""The messages of a link: one form each, and bounds that hold before anything is built."""

from __future__ import annotations

import hashlib
import tracemalloc
import typing
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p import limits
from p2p.encoding import encode
from p2p.errors import WireError
from p2p.records import Certificate, Signed
from p2p.wire import (
    Beat,
    Bye,
    Chunk,
    Compare,
    Have,
    Hello,
    Joined,
    Listing,
    Message,
    NoBlob,
    Proof,
    Push,
    Redirect,
    Refused,
    RoundDigest,
    Tip,
    Want,
    WantChunk,
    WantSeals,
    make_join,
    read_message,
    write_message,
)
from tests.damage import CLAIMS, places, with_things
from tests.strategies import values_of

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def h(number: int) -> bytes:
    """A hash."""
    return bytes([number]) * 32


SIGNED = Signed(b"body", bytes(64))
LARGEST_SIGNED = Signed(bytes(limits.MAX_RECORD_BYTES), bytes(64))
IDS = tuple(number.to_bytes(32, "big") for number in range(limits.MAX_IDS_PER_MESSAGE))
DIGESTS = tuple(RoundDigest(round, h(1)) for round in range(limits.MOST_UNSEALED_ROUNDS + 1))
BEAT = Beat(head=3, height=1, seal=h(1), state=h(2), membership=h(3), rounds=h(4), waits=False, time_s=1_800_000_000)
JOIN = make_join(
    genesis=h(1), invite=h(2), transport=h(3), name="ben", leaving=b"", key=KEY, join_key=KEY
)  # fmt: skip
HELLO = Hello(genesis=h(1), instance=bytes(16), previous=b"", certificates=(SIGNED,), beat=BEAT)
TIP = Tip(header=SIGNED, seal=None, contested=False)
MESSAGES: list[tuple[Message, str]] = [
    (BEAT, "cbbf048c4b7eac2c"),
    (HELLO, "1a2438168a93c57c"),
    (TIP, "b91ef193dfb7dd25"),
    (Push((SIGNED,)), "aaa5f54eeebd7d60"),
    (Have((h(1), h(2))), "009d6fa0f7e954ad"),
    (Want((h(1), h(2))), "2216e62b27b49a60"),
    (Compare((RoundDigest(0, h(1)), RoundDigest(7, h(2))), True), "487c0ec53d0e595b"),
    (Listing(7, (h(1),)), "b4cbba993ecb253e"),
    (WantSeals(3), "63af53261028f328"),
    (Proof(SIGNED, SIGNED), "392c0d07e85d08b0"),
    (WantChunk(h(1), 2), "301c76b2c69a5e0c"),
    (Chunk(h(1), 2, 600_000, b"data"), "f15e8240ba9ad740"),
    (NoBlob(h(1)), "39b5f482fab7ae26"),
    (JOIN, "a44b32b19f97fafa"),
    (Joined(b"genesis", (SIGNED, SIGNED), (SIGNED,)), "c91e6fa91349cccd"),
    (Refused(h(1), "used"), "8c03a7082196512d"),
    (Redirect((SIGNED,)), "86985191f30f440d"),
    (Bye("another swarm"), "f5677208824df12e"),
]
every_message = pytest.mark.parametrize(
    "message", [message for message, _ in MESSAGES], ids=lambda message: type(message).__name__
)


def changed(message: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(message, **changes)


def assert_refused(raw: bytes, match: str) -> None:
    with pytest.raises(WireError, match=match):
        read_message(raw)


def peak_bytes(raw: bytes) -> int:
    """The most memory that reading some bytes takes at a time."""
    tracemalloc.start()
    try:
        read_message(raw)
    except WireError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


# One form each.


@pytest.mark.parametrize("kind", typing.get_args(Message), ids=lambda kind: kind.__name__)
@settings(max_examples=30)
@given(data=st.data())
def test_what_is_written_is_read(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(values_of(kind))
    again = read_message(write_message(message))
    assert again == message
    assert type(again) is kind


def test_every_kind_of_message_is_among_those_below() -> None:
    assert {type(message) for message, _ in MESSAGES} == set(typing.get_args(Message))


@pytest.mark.parametrize(("message", "expected"), MESSAGES, ids=lambda value: type(value).__name__)
def test_every_message_is_pinned(message: Message, expected: str) -> None:
    """A second implementation writes the same."""
    raw = write_message(message)
    assert read_message(raw) == message
    assert hashlib.sha256(raw).hexdigest()[:16] == expected


def test_a_message_is_an_array_of_its_name_and_its_fields() -> None:
    assert write_message(WantSeals(3)) == b"\x92\xaawant seals\x03"
    assert write_message(NoBlob(h(1))) == b"\x92\xa7no blob\xc4\x20" + h(1)
    assert write_message(Compare((RoundDigest(1, h(2)),), True)) == (
        b"\x93\xa7compare\x91\x92\x01\xc4\x20" + h(2) + b"\xc3"
    )


# Bounds.


@pytest.mark.parametrize(
    "message",
    [
        Have(IDS),
        Want(IDS),
        Listing(2**62, IDS),
        Push((LARGEST_SIGNED,) * limits.MAX_RECORDS_PER_MESSAGE),
        Redirect((LARGEST_SIGNED,) * 16),
        Proof(LARGEST_SIGNED, LARGEST_SIGNED),
        Joined(bytes(limits.MAX_GENESIS_BYTES), (LARGEST_SIGNED,) * 3, (LARGEST_SIGNED,) * 48),
        Compare(DIGESTS, False),
        Chunk(h(1), 2**32, 2**62, bytes(limits.CHUNK_BYTES)),
        WantChunk(h(1), 2**32),
        Hello(
            genesis=h(1), instance=bytes(16), previous=bytes(256), certificates=(LARGEST_SIGNED,) * 3,
            beat=changed(BEAT, head=2**62, height=2**62, time_s=2**62),
        ),
        Tip(header=LARGEST_SIGNED, seal=LARGEST_SIGNED, contested=True),
        Bye("\U0001f9f8" * 200),
        changed(JOIN, name="\U0001f9f8" * 64, leaving=h(1)),
    ],
    ids=lambda message: type(message).__name__,
)  # fmt: skip
def test_the_largest_message_of_its_kind_fits(message: Message) -> None:
    raw = write_message(message)
    assert len(raw) <= limits.MAX_MESSAGE_BYTES
    assert read_message(raw) == message


def test_a_message_that_is_too_long_is_refused_unread() -> None:
    assert_refused(bytes(limits.MAX_MESSAGE_BYTES + 1), "524,289 bytes where at most 524,288 are allowed")
    assert_refused(bytes(limits.MAX_MESSAGE_BYTES), "not a message")


@pytest.mark.parametrize(
    ("message", "changes", "match"),
    [
        (BEAT, {"head": -1}, ">= 0"),
        (BEAT, {"head": 2**62 + 1}, "<= "),
        (BEAT, {"height": -1}, ">= 0"),
        (BEAT, {"seal": bytes(33)}, "length <= 32"),
        (BEAT, {"state": b""}, "length >= 32"),
        (BEAT, {"membership": bytes(31)}, "length >= 32"),
        (BEAT, {"rounds": bytes(33)}, "length <= 32"),
        (BEAT, {"time_s": -1}, ">= 0"),
        (HELLO, {"genesis": bytes(31)}, "length >= 32"),
        (HELLO, {"instance": bytes(15)}, "length >= 16"),
        (HELLO, {"instance": bytes(17)}, "length <= 16"),
        (HELLO, {"previous": bytes(257)}, "length <= 256"),
        (HELLO, {"certificates": ()}, "length >= 1"),
        (HELLO, {"certificates": (SIGNED,) * 4}, "length <= 3"),
        (HELLO, {"beat": changed(BEAT, rounds=b"")}, "length >= 32"),
        (HELLO, {"beat": None}, "Expected `array`"),
        (TIP, {"header": Signed(b"", bytes(63))}, "length >= 64"),
        (TIP, {"seal": Signed(bytes(4097), bytes(64))}, "length <= 4096"),
        (TIP, {"contested": None}, "Expected `bool`"),
        (Push(()), {"records": (SIGNED,) * 65}, "length <= 64"),
        (Push(()), {"records": (Signed(bytes(4097), bytes(64)),)}, "length <= 4096"),
        (Push(()), {"records": (Signed(b"", bytes(65)),)}, "length <= 64"),
        (Push(()), {"records": (None,)}, "Expected `array`"),
        (Have(()), {"ids": (*IDS, h(1))}, "length <= 4096"),
        (Have(()), {"ids": (h(1)[:31],)}, "length >= 32"),
        (Want(()), {"ids": (*IDS, h(1))}, "length <= 4096"),
        (Want(()), {"ids": (h(1) + b"x",)}, "length <= 32"),
        (Compare((), True), {"rounds": (*DIGESTS, DIGESTS[0])}, "length <= 257"),
        (Compare((), True), {"rounds": (RoundDigest(-1, h(1)),)}, ">= 0"),
        (Compare((), True), {"rounds": (RoundDigest(1, b""),)}, "length >= 32"),
        (Listing(0, ()), {"round": -1}, ">= 0"),
        (Listing(0, ()), {"ids": (*IDS, h(1))}, "length <= 4096"),
        (WantSeals(0), {"height": -1}, ">= 0"),
        (Proof(SIGNED, SIGNED), {"second": None}, "Expected `array`"),
        (WantChunk(h(1), 0), {"index": -1}, ">= 0"),
        (WantChunk(h(1), 0), {"index": 2**32 + 1}, "<= 4294967296"),
        (WantChunk(h(1), 0), {"blob": b""}, "length >= 32"),
        (Chunk(h(1), 0, 1, b"x"), {"data": b""}, "length >= 1"),
        (Chunk(h(1), 0, 1, b"x"), {"data": bytes(limits.CHUNK_BYTES + 1)}, "length <= 262144"),
        (Chunk(h(1), 0, 1, b"x"), {"index": 2**32 + 1}, "<= 4294967296"),
        (Chunk(h(1), 0, 1, b"x"), {"total_bytes": -1}, ">= 0"),
        (NoBlob(h(1)), {"blob": bytes(31)}, "length >= 32"),
        (JOIN, {"name": ""}, "length >= 1"),
        (JOIN, {"name": "n" * 65}, "length <= 64"),
        (JOIN, {"leaving": bytes(33)}, "length <= 32"),
        (JOIN, {"member": bytes(31)}, "length >= 32"),
        (JOIN, {"transport": b""}, "length >= 32"),
        (JOIN, {"member_signature": bytes(63)}, "length >= 64"),
        (JOIN, {"join_signature": bytes(65)}, "length <= 64"),
        (Joined(b"", (SIGNED,) * 2, ()), {"genesis": bytes(limits.MAX_GENESIS_BYTES + 1)}, "length <= 262144"),
        (Joined(b"", (SIGNED,) * 2, ()), {"certificates": (SIGNED,)}, "length >= 2"),
        (Joined(b"", (SIGNED,) * 2, ()), {"certificates": (SIGNED,) * 4}, "length <= 3"),
        (Joined(b"", (SIGNED,) * 2, ()), {"others": (SIGNED,) * 49}, "length <= 48"),
        (Refused(h(1), "used"), {"reason": "because"}, "Invalid enum value"),
        (Refused(h(1), "used"), {"invite": b""}, "length >= 32"),
        (Redirect(()), {"records": (SIGNED,) * 17}, "length <= 16"),
        (Bye(""), {"reason": "x" * 201}, "length <= 200"),
        (Bye(""), {"reason": b"bytes"}, "Expected `str`"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, msgspec.Struct) else None,
)
def test_fields_out_of_bounds_are_refused(message: Message, changes: dict[str, Any], match: str) -> None:
    assert read_message(write_message(message)) == message
    assert_refused(write_message(changed(message, **changes)), match)


@every_message
def test_a_message_with_a_field_more_or_less_is_refused(message: Message) -> None:
    fields = msgspec.msgpack.decode(write_message(message))
    assert_refused(encode([*fields, 0]), "Expected `array` of at most length")
    assert_refused(encode(fields[:-1]), "Expected `array` of at least length")


@every_message
def test_a_message_with_something_behind_it_or_cut_is_refused(message: Message) -> None:
    raw = write_message(message)
    assert_refused(raw + b"\0", "trailing")
    assert_refused(raw + raw, "trailing")
    assert_refused(raw[:-1], "truncated")
    assert_refused(b"\xdc\x00" + bytes([raw[0] & 15]) + raw[1:], "not encoded canonically")


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (b"", "truncated"),
        (b"\xc0", "Expected `array`"),
        (b"\xc1", "invalid opcode"),
        (b"\x90", "at least length 1"),
        (encode("bye"), "Expected `array`"),
        (encode({"type": "bye", "reason": ""}), "Expected `array`"),
        (encode(["good-bye", ""]), "Invalid value.*good-bye"),
        (encode(["BYE", ""]), "Invalid value"),
        (encode([1, ""]), "Expected `str`"),
        (encode([["bye"], ""]), "Expected `str`"),
        (b"\x92\xa3bye\xa1\xff", "not a message"),
        (b"\x92\xa3bye\xa3\xed\xa0\x80", "not a message"),
        (b"\x92\xa3bye\xd9\x01a", "not encoded canonically"),
        (b"\x92\xaawant seals\xcc\x03", "not encoded canonically"),
        (b"\x92\xaawant seals\xcb\x40\x08\0\0\0\0\0\0", "got `float`"),
        (
            encode(
                Certificate(
                    genesis=h(1), member=h(2), transport=h(3), name="a", issuer=h(2), issuer_certificate=b"", invite=b""
                )
            ),
            "Invalid value",
        ),
    ],
)
def test_what_is_no_message_is_refused(raw: bytes, match: str) -> None:
    assert_refused(raw, match)


def test_an_unknown_kind_is_not_quoted_at_length() -> None:
    with pytest.raises(WireError) as caught:
        read_message(encode(["\x1b[2J" * 100_000]))
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 2_100


# Memory.


@every_message
def test_a_claim_to_be_large_costs_no_memory(message: Message) -> None:
    """4,294,967,295 things that do not come, or as many as are allowed."""
    tree = msgspec.msgpack.decode(write_message(message))
    for claim in (*CLAIMS, b"\xdc\x10\x00", b"\xdc\x00\x40", b"\xdc\x01\x01", b"\xc6\x00\x04\x00\x00"):
        for place in places(tree):
            raw = encode(with_things(tree, place, [msgspec.Raw(claim)]))
            assert_refused(raw, "not a message")
            assert peak_bytes(raw) < 64 * limits.KIB


@pytest.mark.parametrize(
    "raw",
    [
        encode(["have", IDS * 3]),
        encode(["push", [[b"", bytes(64)]] * 7_000]),
        encode(["compare", [[1, h(1)]] * 13_000, True]),
        encode(["bye", "x" * 500_000]),
        encode(["x" * 500_000]),
        encode(["chunk", h(1), 0, 1, bytes(500_000)]),
        b"\x91" * 500_000,
        b"\x92\xa4have" + b"\x91" * 500_000,
        b"\x92\xa4have\xdd\x00\x00\x10\x00" + b"\xc4\x20" * 250_000,
        b"\x92\xa4push\xdc\x00\x40" + b"\x92\xc4\x00" * 170_000,
        write_message(Have(IDS)),
        write_message(Compare(DIGESTS, True)),
        write_message(Push((LARGEST_SIGNED,) * limits.MAX_RECORDS_PER_MESSAGE)),
        write_message(Joined(bytes(limits.MAX_GENESIS_BYTES), (LARGEST_SIGNED,) * 3, (LARGEST_SIGNED,) * 48)),
    ],
    ids=range(14),
)
def test_no_message_costs_much_more_memory_than_it_is_long(raw: bytes) -> None:
    assert len(raw) <= limits.MAX_MESSAGE_BYTES
    assert peak_bytes(raw) < 4 * limits.MAX_MESSAGE_BYTES
