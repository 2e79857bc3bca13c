"""Finding nodes by multicast, over the loopback interface alone."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zeroconf import ServiceInfo, Zeroconf

from p2p import lan
from p2p.errors import NetworkError, WireError
from p2p.lan import Found, announce, browse

LOOPBACK = ["127.0.0.1"]
PATIENCE_S = 60.0
"""Ends a test that would fail; one that passes ends as soon as it has found what it looks for."""
A_WHILE_S = 1.5
"""Time for what should not be found to show up."""
GENESIS = secrets.token_bytes(32)


def service(text: dict[bytes, bytes | None] | None = None, *, host: str = "10.0.0.1", port: int = 4242) -> ServiceInfo:
    good = {b"v": b"1", b"swarm": b"home", b"genesis": b"ab" * 16, b"key": b"cd" * 32}
    changed = {key: value for key, value in (good | (text or {})).items() if value is not None}
    name = f"{secrets.token_hex(8)}.{lan._SERVICE}"
    return ServiceInfo(lan._SERVICE, name, port=port, parsed_addresses=[host], server="x.local.", properties=changed)


# Over the network.


@pytest.fixture(scope="module")
def node() -> Iterator[Found]:
    """A node that is announced for as long as the tests of this module run."""
    key = secrets.token_bytes(32)
    with announce("home ☃", GENESIS, ["127.0.0.1:4242"], key, LOOPBACK):
        yield Found(name="home ☃", genesis_prefix=GENESIS[:16], addresses=("127.0.0.1:4242",), transport_public=key)


def test_a_node_that_is_announced_is_found(node: Found) -> None:
    found = browse(PATIENCE_S, LOOPBACK, enough=lambda one: one == node)
    assert node in found
    assert node.is_of(GENESIS)
    assert not node.is_of(bytes(32))


def test_what_is_malformed_or_was_taken_back_is_not_found(node: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = secrets.token_bytes(32)
    # An error of the block is not taken for one of the network.
    with pytest.raises(OSError, match="our own"), announce("gone", GENESIS, ["127.0.0.1:4243"], gone, LOOPBACK):
        raise OSError("our own")
    heard: list[str] = []
    understand = lan._from_service

    def spy(info: ServiceInfo) -> Found:
        heard.append(info.name)
        return understand(info)

    monkeypatch.setattr(lan, "_from_service", spy)
    bad = service({b"key": b"no key"})
    with Zeroconf(LOOPBACK, use_asyncio=False) as other:
        other.register_service(bad, cooperating_responders=True)
        found: set[Found] = set()
        for _ in range(20):
            found.update(browse(A_WHILE_S, LOOPBACK))
            if node in found and bad.name in heard:
                break
    assert bad.name in heard
    assert node in found
    assert gone not in {one.transport_public for one in found}


def test_a_network_that_is_not_there_says_so() -> None:
    with pytest.raises(NetworkError, match="multicast does not work here") as caught:
        browse(1.0, ["203.0.113.77"])
    assert caught.value.hint


# What is said.


@given(
    st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=64),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.sampled_from(["10.0.0.1:4242", "[fd00::2]:65535", "127.0.0.1:1"]),
)
def test_what_is_announced_is_understood(name: str, genesis: bytes, key: bytes, address: str) -> None:
    found = lan._from_service(lan._to_service(name, genesis, [address], key))
    assert found.is_of(genesis)
    assert (found.addresses, found.transport_public) == ((address,), key)
    assert found.name
    assert name.startswith(found.name)
    assert found.name == name or len(name.encode()) > 240  # a long one is cut, between two characters


def test_no_more_is_announced_than_a_name_half_a_hash_and_a_public_key() -> None:
    one = lan._to_service("home", GENESIS, ["10.0.0.1:4242"], bytes(range(32)))
    assert one.properties == {
        b"v": b"1",
        b"swarm": b"home",
        b"genesis": GENESIS[:16].hex().encode(),
        b"key": bytes(range(32)).hex().encode(),
    }
    assert GENESIS[16:].hex() not in repr(one)


@pytest.mark.parametrize(
    "bad",
    [
        service({b"v": b"2"}),
        service({b"v": None}),
        service({b"swarm": None}),
        service({b"swarm": b""}),
        service({b"swarm": b"\xff"}),
        service({b"swarm": b"\x1b[2J"}),
        service({b"swarm": b"n" * 65}),
        service({b"genesis": b"ab" * 15}),
        service({b"genesis": b"zz" * 16}),
        service({b"genesis": None}),
        service({b"key": b"cd" * 31}),
        service({b"key": "é".encode()}),
        service({b"key": None}),
        service(host="0.0.0.0"),
        service(host="224.0.0.1"),
        service(port=0),
    ],
    ids=lambda bad: f"{bad.properties} {bad.parsed_addresses()} {bad.port}"[:60],
)
def test_a_malformed_announcement_is_refused(bad: ServiceInfo) -> None:
    assert lan._from_service(service())
    with pytest.raises(WireError):
        lan._from_service(bad)


@given(st.binary(max_size=200))
def test_any_text_is_an_announcement_or_refused(raw: bytes) -> None:
    info = ServiceInfo(lan._SERVICE, f"x.{lan._SERVICE}", port=1, parsed_addresses=["10.0.0.1"], properties=raw)
    try:
        assert lan._from_service(info).name
    except WireError as error:
        assert error.message


@pytest.mark.parametrize("address", ["node.example.org:4242", "0.0.0.0:4242", "10.0.0.1", ""])
def test_only_an_address_that_can_be_dialled_is_announced(address: str) -> None:
    with pytest.raises(NetworkError) as caught, announce("home", GENESIS, [address], bytes(32), LOOPBACK):
        pytest.fail("announced")
    assert caught.value.hint


def test_without_zeroconf_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    with pytest.raises(NetworkError, match="not installed") as caught:
        browse(1.0, LOOPBACK)
    assert caught.value.hint == "pip install 'spearctl[lan]'"
    with pytest.raises(NetworkError, match="not installed"), announce("home", GENESIS, ["10.0.0.1:1"], bytes(32)):
        pytest.fail("announced")
