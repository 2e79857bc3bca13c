"""Requests to join: both keys, the newcomer's and the ticket's, sign every field."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2p.encoding import encode, sign
from p2p.errors import TrustError
from p2p.wire import Join, make_join, read_message, write_message

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
JOIN_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
JOIN_PUBLIC = JOIN_KEY.public_key().public_bytes_raw()


def h(number: int) -> bytes:
    """A hash."""
    return bytes([number]) * 32


def make(key: Ed25519PrivateKey = KEY, join_key: Ed25519PrivateKey = JOIN_KEY, **changes: Any) -> Join:
    said: dict[str, Any] = {"genesis": h(1), "invite": h(2), "transport": h(3), "name": "ben", "leaving": b""}
    return make_join(**{**said, **changes}, key=key, join_key=join_key)


def changed(join: Join, **changes: Any) -> Join:
    return msgspec.structs.replace(join, **changes)


JOIN = make()


def test_a_join_bears_two_signatures_that_hold() -> None:
    JOIN.check(JOIN_PUBLIC)
    assert JOIN.member == KEY.public_key().public_bytes_raw()
    again = read_message(write_message(JOIN))
    assert isinstance(again, Join)
    again.check(JOIN_PUBLIC)


@pytest.mark.parametrize(
    "changes",
    [
        {"genesis": h(9)}, {"invite": h(9)}, {"member": h(9)}, {"transport": h(9)}, {"name": "Ben"}, {"leaving": h(9)},
        {"member": JOIN_PUBLIC},
    ],
    ids=str,
)  # fmt: skip
def test_nothing_in_a_join_can_be_changed(changes: dict[str, Any]) -> None:
    with pytest.raises(TrustError, match="a join's signature does not hold"):
        changed(JOIN, **changes).check(JOIN_PUBLIC)


@pytest.mark.parametrize("field", ["genesis", "invite", "transport", "name", "leaving"])
@pytest.mark.parametrize("signature", ["member_signature", "join_signature"])
def test_each_of_the_two_signatures_is_over_every_field(field: str, signature: str) -> None:
    """One of the signatures is over what the join says, the other over something else."""
    changes: dict[str, Any] = {field: "Ben" if field == "name" else h(9)}
    other = make(**changes)
    other.check(JOIN_PUBLIC)
    with pytest.raises(TrustError, match="does not hold"):
        changed(JOIN, **{signature: getattr(other, signature)}).check(JOIN_PUBLIC)


def test_a_join_needs_the_newcomer_s_key_and_the_ticket_s() -> None:
    stranger = Ed25519PrivateKey.generate()
    for join in (
        make(join_key=stranger),
        changed(make(key=stranger), member=JOIN.member),
        changed(JOIN, member_signature=JOIN.join_signature, join_signature=JOIN.member_signature),
        changed(JOIN, member_signature=JOIN.join_signature),
        changed(JOIN, join_signature=JOIN.member_signature),
    ):
        with pytest.raises(TrustError, match="does not hold"):
            join.check(JOIN_PUBLIC)
    with pytest.raises(TrustError, match="does not hold"):
        JOIN.check(stranger.public_key().public_bytes_raw())


def test_a_signature_for_another_purpose_is_none() -> None:
    raw = encode((JOIN.genesis, JOIN.invite, JOIN.member, JOIN.transport, JOIN.name, JOIN.leaving))
    assert sign(KEY, "join", raw) == JOIN.member_signature
    for field, key in (("member_signature", KEY), ("join_signature", JOIN_KEY)):
        with pytest.raises(TrustError, match="does not hold"):
            changed(JOIN, **{field: sign(key, "record", raw)}).check(JOIN_PUBLIC)


def test_a_join_for_a_key_that_proves_nothing_is_refused() -> None:
    anyone = bytes([1]) + bytes(31)  # under it, the signature (1, 0) holds for everything
    with pytest.raises(TrustError, match="proves nothing"):
        changed(JOIN, member=anyone, member_signature=anyone + bytes(32)).check(JOIN_PUBLIC)
