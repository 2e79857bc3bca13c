"""Every decoder of what comes from elsewhere, against bytes that nobody honest sends.

They are read in the one way, or refused by the decoder's own error. ``make soak`` tries 100,000 on each decoder.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p import control, limits, tickets
from p2p.codec import decode_payload, decode_state, encode_payload, encode_state
from p2p.control import Reply, Request, read_length, read_reply, read_request, write_frame
from p2p.encoding import decode, digest, encode, is_printable, sign
from p2p.errors import P2PError, PayloadError, TicketError, TrustError, WireError
from p2p.grid import squared_norm
from p2p.records import SealContents, Signed, author_of, open_record, read_genesis
from p2p.wire import Message, read_message, write_message
from tests import strategies
from tests.damage import altered, damaged
from tests.vectors import TENSORS, delta_values, small_genesis

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ME = KEY.public_key().public_bytes_raw()
SWARM = b"g" * 32
GENESIS = small_genesis()
DELTAS = [delta_values(GENESIS, 1, member) for member in range(1, 5)]
STATES = [np.zeros(GENESIS.parameters, dtype=np.int32), DELTAS[0].astype(np.int32) << 8]


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """One to be tried.

    Attributes:
        check: Reads, and asserts that what came out has one form, and keeps its bounds.
        refusals: What it may raise.
        honest: What honest nodes send.
        is_msgpack: Whether that is MessagePack.
    """

    check: Callable[[bytes], None]
    refusals: tuple[type[P2PError], ...]
    honest: st.SearchStrategy[bytes]
    is_msgpack: bool = False

    @property
    def hostile(self) -> st.SearchStrategy[bytes]:
        """Bytes that nobody honest sends, or hardly anybody."""
        kinds = [damaged(self.honest), st.binary(max_size=200)]
        return st.one_of(*kinds, altered(self.honest), altered(self.honest)) if self.is_msgpack else st.one_of(*kinds)


def message(raw: bytes) -> None:
    assert write_message(read_message(raw)) == raw


def record(raw: bytes) -> None:
    """The body of a record, under a signature that holds."""
    opened = open_record(Signed(raw, sign(KEY, "record", raw)), SWARM)
    assert encode(opened.body) == raw
    assert author_of(opened.body) == ME
    assert opened.body.genesis == SWARM


def signature(raw: bytes) -> None:
    """A signed record as it travels."""
    opened = open_record(decode(raw, Signed, 2 * limits.MAX_RECORD_BYTES), SWARM)
    assert encode(opened.signed) == raw
    assert opened.signed.signature == sign(KEY, "record", opened.signed.body)


def genesis(raw: bytes) -> None:
    found = read_genesis(raw)
    assert encode(found) == raw
    assert 0 < found.parameters <= limits.MAX_PARAMETERS
    assert is_printable(found.name)


def seal_contents(raw: bytes) -> None:
    assert encode(decode(raw, SealContents, limits.MAX_SEAL_CONTENTS_BYTES)) == raw


def ticket_body(raw: bytes) -> None:
    """The body of a ticket whose checksum fits."""
    whole = b"\x01" + len(raw).to_bytes(2, "big") + raw
    whole += digest("ticket", whole)[:4]
    text = tickets.PREFIX + base64.b32encode(whole).decode().rstrip("=").lower()
    assert tickets.write(tickets.read(text)) == text


def ticket_text(raw: bytes) -> None:
    found = tickets.read(raw.decode("utf-8", "replace"))
    assert tickets.read(tickets.write(found)) == found


def payload(raw: bytes) -> None:
    values = decode_payload(raw, TENSORS, GENESIS.norm_bound)
    assert values.dtype == np.int16
    assert values.shape == (GENESIS.parameters,)
    assert values.min() >= -32767
    assert squared_norm(values) <= GENESIS.norm_bound**2


def payload_content(raw: bytes) -> None:
    """What a payload compresses."""
    values = decode_payload(b"SPD\x01" + zstandard.compress(raw), TENSORS, GENESIS.norm_bound)
    assert zstandard.decompress(encode_payload(values, TENSORS)[4:]) == raw


def state(raw: bytes) -> None:
    values = decode_state(raw, GENESIS)
    assert values.dtype == np.int32
    assert values.shape == (GENESIS.parameters,)
    assert (decode_state(encode_state(values), GENESIS) == values).all()


def request(raw: bytes) -> None:
    found = read_request(raw)
    assert read_request(write_frame(found)[4:]) == found


def reply(raw: bytes) -> None:
    found = read_reply(raw)
    assert read_reply(write_frame(found)[4:]) == found


def frame_length(raw: bytes) -> None:
    assert 0 <= read_length(raw[:4].ljust(4, b"\xff")) <= control.MAX_FRAME_BYTES


BODIES = strategies.bodies(SWARM, ME).map(encode)
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(max_size=9)
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)
ARGUMENTS = st.dictionaries(st.text(max_size=9), JSON, max_size=3)
DECODERS = {
    "message": Decoder(
        check=message,
        refusals=(WireError,),
        honest=strategies.values_of(Message).map(write_message),
        is_msgpack=True,
    ),
    "record": Decoder(check=record, refusals=(WireError, TrustError), honest=BODIES, is_msgpack=True),
    "signature": Decoder(
        check=signature,
        refusals=(WireError, TrustError),
        honest=BODIES.map(lambda raw: encode(Signed(raw, sign(KEY, "record", raw)))),
        is_msgpack=True,
    ),
    "genesis": Decoder(check=genesis, refusals=(WireError,), honest=strategies.geneses().map(encode), is_msgpack=True),
    "seal contents": Decoder(
        check=seal_contents,
        refusals=(WireError,),
        honest=strategies.values_of(SealContents).map(encode),
        is_msgpack=True,
    ),
    "ticket body": Decoder(
        check=ticket_body, refusals=(TicketError,), honest=strategies.tickets().map(encode), is_msgpack=True
    ),
    "ticket text": Decoder(
        check=ticket_text, refusals=(TicketError,), honest=strategies.tickets().map(tickets.write).map(str.encode)
    ),
    "payload": Decoder(
        check=payload,
        refusals=(PayloadError,),
        honest=st.sampled_from([encode_payload(values, TENSORS) for values in DELTAS]),
    ),
    "payload content": Decoder(
        check=payload_content,
        refusals=(PayloadError,),
        honest=st.sampled_from([zstandard.decompress(encode_payload(values, TENSORS)[4:]) for values in DELTAS]),
    ),
    "state": Decoder(
        check=state, refusals=(PayloadError,), honest=st.sampled_from([encode_state(values) for values in STATES])
    ),
    "request": Decoder(
        check=request,
        refusals=(WireError,),
        honest=st.builds(Request, st.text(max_size=20), ARGUMENTS).map(lambda said: write_frame(said)[4:]),
    ),
    "reply": Decoder(
        check=reply,
        refusals=(WireError,),
        honest=st.builds(
            Reply, ok=st.booleans(), data=st.none() | ARGUMENTS, kind=st.text(max_size=9), message=st.text(max_size=9)
        ).map(lambda said: write_frame(said)[4:]),
    ),
    "frame length": Decoder(check=frame_length, refusals=(WireError,), honest=st.just(b"\x00\x10\x00\x00")),
}
every_decoder = pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS.keys())
few_and_many = pytest.mark.parametrize(
    "examples", [pytest.param(50, id="few"), pytest.param(100_000, id="many", marks=pytest.mark.soak)]
)


@few_and_many
@every_decoder
def test_hostile_bytes_are_refused_or_read_in_the_one_way(decoder: Decoder, examples: int) -> None:
    @settings(max_examples=examples)
    @given(decoder.hostile)
    def read(raw: bytes) -> None:
        with contextlib.suppress(*decoder.refusals):
            decoder.check(raw)

    read()


@every_decoder
def test_what_hostile_bytes_are_made_of_is_read(decoder: Decoder) -> None:
    """Otherwise the test above might never get past the first check. What is read holds the assertions."""

    @settings(max_examples=20)
    @given(decoder.honest)
    def read(raw: bytes) -> None:
        decoder.check(raw)

    read()


@pytest.mark.parametrize("opening", [b"[", b'{"":'])
def test_nesting_in_a_command_or_its_answer_ends_in_an_error_of_ours(opening: bytes) -> None:
    with pytest.raises(WireError, match="not a request"):
        read_request(b'{"command":"","arguments":{"":' + opening * 100_000)
    with pytest.raises(WireError, match="not a reply"):
        read_reply(b'{"ok":true,"data":{"":' + opening * 100_000)
