"""Tickets: what survives a copy, what is refused, and that no secret is ever shown."""

from __future__ import annotations

import base64
import hashlib
import random
import traceback
from collections.abc import Callable

import msgspec
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from p2p import identity, limits
from p2p.encoding import digest, encode
from p2p.errors import TicketError
from p2p.records import Invite, open_record
from p2p.tickets import Endpoint, JoinKeys, Ticket, derive_join_keys, new_invite, read, write
from tests import strategies

SECRET = bytes(range(100, 132))
GENESIS = bytes(range(32))


def make(**changes: object) -> Ticket:
    ticket = Ticket(
        genesis=GENESIS,
        name="home",
        issuer=b"i" * 32,
        endpoints=(Endpoint("192.168.1.20:4242", b"t" * 32), Endpoint("[2001:db8::7]:4242", b"t" * 32)),
        expires_s=1_800_000_000,
        seal=b"s" * 32,
        seal_height=3,
        secret=SECRET,
    )
    return msgspec.structs.replace(ticket, **changes)


def wrap(body: bytes, *, version: int = 1, length: int | None = None, prefix: str = "spear1") -> str:
    """A ticket of any body, with a checksum that fits."""
    raw = bytes([version]) + (len(body) if length is None else length).to_bytes(2, "big") + body
    raw += digest("ticket", raw)[:4]
    return prefix + base64.b32encode(raw).decode().rstrip("=").lower()


def refusal(text: str) -> TicketError:
    with pytest.raises(TicketError) as caught:
        read(text)
    return caught.value


def assert_hidden(shown: str) -> None:
    keys = make().join_keys()
    for secret in (SECRET, keys.sign.private_bytes_raw(), keys.transport_secret):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
        assert base64.b32encode(secret).decode()[:16].lower() not in shown.lower()


# Round trip.


@given(strategies.tickets())
def test_what_is_written_is_read(ticket: Ticket) -> None:
    text = write(ticket)
    assert read(text) == ticket
    assert text == wrap(encode(ticket))
    assert text.isascii()
    assert text.isalnum()
    assert text == text.lower()
    assert len(text) <= limits.MAX_TICKET_CHARS


@given(st.lists(st.tuples(st.integers(0, 500), st.sampled_from(" \t\r\n\u200b\u00ad\"'`<>“”‘’«»\ufeff")), max_size=30))
def test_white_space_and_quoting_marks_anywhere_are_ignored(marks: list[tuple[int, str]]) -> None:
    text = write(make())
    for place, mark in marks:
        text = text[:place] + mark + text[place:]
    assert read(text) == make()


@given(st.randoms())
def test_case_is_ignored(random: random.Random) -> None:
    text = write(make())
    assert read("".join(random.choice([char.upper(), char]) for char in text)) == make()


def test_a_mail_s_wrapping_is_undone() -> None:
    text = write(make())
    lines = [text[start : start + 60] for start in range(0, len(text), 60)]
    assert read("\r\n".join(f"> {line}" for line in lines)) == make()
    assert read(f'  "{text}"\n') == make()
    assert read("\ufeff" + "=\n".join(lines).replace("=", " ")) == make()


# What is refused.


@pytest.mark.parametrize("text", ["", " \n", '""', "\ufeff"])
def test_nothing_is_called_empty(text: str) -> None:
    assert "empty" in refusal(text).message


@pytest.mark.parametrize("text", ["hello", "spear", "1spear", "https://example.org/spear1", "sp\u0435ar1abc", "\0"])
def test_something_else_is_called_no_ticket(text: str) -> None:
    assert "does not begin with spear1" in refusal(text).message


def test_every_cut_is_called_one() -> None:
    text = write(make())
    for end in range(len("spear1"), len(text)):
        error = refusal(text[:end])
        assert "its end is missing" in error.message
        assert error.hint


def test_every_changed_character_is_found() -> None:
    text = write(make())
    for place in range(len("spear1"), len(text)):
        changed = text[:place] + ("a" if text[place] != "a" else "b") + text[place + 1 :]
        error = refusal(changed)
        in_length = place - len("spear1") in range(1, 5)  # of these characters' bits, some say how long it is
        assert "checksum" in error.message or ("end is missing" in error.message and in_length)
        assert text[place - 3 : place + 3] not in error.message + str(error.hint)


def test_what_follows_a_ticket_is_found() -> None:
    assert "checksum" in refusal(write(make()) + "aaaaaaaa").message
    assert refusal(write(make()) * 2)


@pytest.mark.parametrize("char", ["0", "1", "8", "9", "-", "_", "=", ".", "é", "\0", "\x1b"])
def test_a_character_that_is_in_no_ticket_is_named_with_its_place(char: str) -> None:
    text = write(make())
    assert f"{char!r} at character 21" in refusal(text[:20] + char + text[21:]).message


def test_a_newer_version_is_called_one() -> None:
    body = encode(make())
    assert "newer" in refusal(wrap(body, prefix="spear2")).message
    assert "newer" in refusal(wrap(body, version=2)).message
    assert "newer" in refusal(wrap(b"another encoding", version=7)).message


@pytest.mark.parametrize(
    "changes",
    [
        {"genesis": b"g" * 31},
        {"genesis": b"g" * 33},
        {"name": ""},
        {"name": "n" * 65},
        {"name": "bad\x1b[2J"},
        {"name": "two\nlines"},
        {"name": "\u202egnp"},
        {"issuer": b""},
        {"endpoints": ()},
        {"endpoints": (Endpoint("10.0.0.1:1", b"t" * 32),) * 9},
        {"endpoints": (Endpoint("10.0.0.1:1", b"t" * 31),)},
        {"endpoints": (Endpoint("10.0.0.1", b"t" * 32),)},
        {"endpoints": (Endpoint("0.0.0.0:1", b"t" * 32),)},
        {"endpoints": (Endpoint("HOST:1", b"t" * 32),)},
        {"endpoints": (Endpoint("10.0.0.1:01", b"t" * 32),)},
        {"endpoints": (Endpoint("\x1b[2J:1", b"t" * 32),)},
        {"endpoints": (Endpoint("h" * 256, b"t" * 32),)},
        {"expires_s": -1},
        {"expires_s": 2**62 + 1},
        {"seal": b"s" * 31},
        {"seal": b""},
        {"seal_height": 0},
        {"secret": SECRET[:31]},
        {"secret": b""},
    ],
    ids=lambda changes: "{}={:.20}".format(*next((name, repr(value)) for name, value in changes.items())),
)
def test_what_contradicts_itself_is_neither_read_nor_written(changes: dict[str, object]) -> None:
    ticket = make(**changes)
    error = refusal(wrap(encode(ticket)))
    assert "cannot be used" in error.message
    assert "\x1b" not in error.message
    assert_hidden("".join(traceback.format_exception(error)))
    with pytest.raises(TicketError, match="cannot be used") as caught:
        write(ticket)
    assert_hidden("".join(traceback.format_exception(caught.value)))


@pytest.mark.parametrize(
    "respell",
    [
        lambda body: body + b"\0",
        lambda body: b"\xdc\x00\x08" + body[1:],  # a longer way to say "an array of 8"
        lambda body: b"\x99" + body[1:] + b"\xc0",
        lambda body: b"",
        lambda body: b"\xdd\xff\xff\xff\xff",
        lambda body: b"\x91" * 2000,
    ],
)
def test_a_body_in_another_than_its_one_encoding_is_refused(respell: Callable[[bytes], bytes]) -> None:
    assert "cannot be used" in refusal(wrap(respell(encode(make())))).message


def test_too_many_and_too_long_addresses_are_not_written() -> None:
    long = tuple(Endpoint(f"{'.'.join(['a' * 60] * 4)}:{port}", b"t" * 32) for port in range(1, 9))
    with pytest.raises(TicketError, match="characters, where 4,096 are allowed") as caught:
        write(make(endpoints=long, name="\N{SNOWMAN}" * 64))
    assert "--addr" in str(caught.value.hint)


def test_long_texts_are_refused_before_they_are_looked_into() -> None:
    assert "are no ticket" in refusal("spear1" + "a" * limits.MAX_TICKET_CHARS).message
    assert "are no ticket" in refusal(" " * (1 << 20)).message


@given(
    st.one_of(st.text(max_size=200), st.text("abcdefghijklmnopqrstuvwxyz234567 ", max_size=200).map("spear1".__add__))
)
def test_any_text_is_a_ticket_or_refused(text: str) -> None:
    try:
        assert isinstance(read(text), Ticket)
    except TicketError as error:
        assert error.hint
        assert len(error.message) < 300


# Secrets.


def test_printing_a_ticket_or_its_keys_shows_no_secret() -> None:
    ticket = make()
    for one in (ticket, ticket.join_keys(), [ticket], {"keys": ticket.join_keys()}):
        for shown in (repr(one), str(one), f"{one}"):
            assert_hidden(shown)
    assert_hidden(repr(ticket.__rich_repr__()))
    assert "home" in repr(ticket)


def test_no_refusal_shows_any_part_of_a_ticket() -> None:
    text = write(make())
    for broken in (text[:-9], text[1:], text + "q", text[:50] + "!" + text[50:], text[::-1], text[-60:]):
        shown = "".join(traceback.format_exception(refusal(broken)))
        assert not [start for start in range(len(broken) - 8) if broken[start : start + 8] in shown]


# Join keys.


def test_a_ticket_s_holder_and_its_issuer_derive_the_same_keys() -> None:
    issuer = identity.generate()
    record, keys = new_invite(issuer, GENESIS, life_s=3600, now_s=1_000, secret=SECRET)
    held = read(write(make(issuer=issuer.node_id))).join_keys()
    assert held == keys
    assert held.sign.private_bytes_raw() == keys.sign.private_bytes_raw()
    assert isinstance(record.body, Invite)
    assert record.body == Invite(
        genesis=GENESIS,
        issuer=issuer.node_id,
        join_key=held.sign.public_key().public_bytes_raw(),
        join_transport=held.transport_public,
        expires_s=4_600,
    )
    assert open_record(record.signed, GENESIS) == record


def test_an_invite_tells_nothing_of_the_secret() -> None:
    record, keys = new_invite(identity.generate(), GENESIS, life_s=1, now_s=0, secret=SECRET)
    for secret in (SECRET, keys.transport_secret, keys.sign.private_bytes_raw()):
        assert secret not in record.signed.body
    assert_hidden(repr(record))


def test_join_keys_are_pinned() -> None:
    """A second implementation derives these from the same 32 bytes."""
    keys = derive_join_keys(GENESIS, SECRET)
    assert (
        keys.sign.public_key().public_bytes_raw().hex()
        == "a53f4f3fbd16ec34865cea2bfe2a13ee586b785b0e135c521fe1bfb14dd9c084"
    )
    assert keys.transport_public.hex() == "129758cd09dd905165a49ad9f6f21dc39178c1b2a474f726a7e17e0ec212043b"
    text = write(make(endpoints=(Endpoint("10.0.0.1:1", b"t" * 32),), seal=b"", seal_height=0))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "40987c9af4f63142542e87312b90c272f23f24611fd20f7db6b3850ecc858fcf"
    )


def test_every_secret_and_every_swarm_has_keys_of_its_own() -> None:
    several = [derive_join_keys(*of) for of in ((GENESIS, SECRET), (GENESIS, b"x" * 32), (b"x" * 32, SECRET))]
    secrets = {secret for keys in several for secret in (keys.sign.private_bytes_raw(), keys.transport_secret)}
    assert len(secrets) == 6


def test_join_keys_are_keys_of_curve() -> None:
    keys: JoinKeys = make().join_keys()
    assert zmq.curve_public(z85.encode(keys.transport_secret)) == z85.encode(keys.transport_public)


@pytest.mark.parametrize(
    ("life_s", "secret"), [(0, SECRET), (-5, SECRET), (60, SECRET[:31]), (60, b""), (60, SECRET * 2)]
)
def test_an_invite_that_is_good_for_nothing_is_not_signed(life_s: int, secret: bytes) -> None:
    with pytest.raises(TicketError) as caught:
        new_invite(identity.generate(), GENESIS, life_s=life_s, now_s=0, secret=secret)
    assert_hidden("".join(traceback.format_exception(caught.value)))
