"""Addresses: their one spelling, who can reach them, and which of them others are told."""

from __future__ import annotations

import socket
from collections import namedtuple

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import addresses, limits
from p2p.addresses import HostPort, advertised, parse, scope, to_endpoint, warnings
from p2p.errors import NetworkError

State = namedtuple("State", "isup")
Entry = namedtuple("Entry", "family address")


def v4(address: str) -> Entry:
    return Entry(socket.AF_INET, address)


def v6(address: str) -> Entry:
    return Entry(socket.AF_INET6, address)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Entry]]:
    """A machine with interfaces of our choosing; the first address of ``eth0`` is where packets leave."""
    interfaces = {
        "lo": [v4("127.0.0.1"), v6("::1")],
        "docker0": [v4("172.17.0.1")],
        "wlan0": [v4("10.0.0.9"), v6("fe80::9%wlan0")],
        "eth0": [v4("192.168.1.20"), v6("2a00:1450::7"), v6("fe80::7%eth0"), Entry(17, "02:fc:00:00:00:01")],
        "eth1": [v4("169.254.3.4")],
        "off0": [v4("192.168.77.7")],
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: interfaces)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: {name: State(name != "off0") for name in interfaces})
    monkeypatch.setattr(
        addresses, "_routed", lambda family, outside: "192.168.1.20" if family == socket.AF_INET else None
    )
    return interfaces


# Reading and writing.


@pytest.mark.parametrize(
    ("text", "host", "port", "again"),
    [
        ("192.168.1.20:4242", "192.168.1.20", 4242, "192.168.1.20:4242"),
        (" 10.0.0.1:1\n", "10.0.0.1", 1, "10.0.0.1:1"),
        ("[2001:DB8:0::7]:65535", "2001:db8::7", 65535, "[2001:db8::7]:65535"),
        ("[::ffff:10.1.2.3]:80", "10.1.2.3", 80, "10.1.2.3:80"),
        ("Node.Example.ORG:4242", "node.example.org", 4242, "node.example.org:4242"),
        ("node.example.org.:4242", "node.example.org", 4242, "node.example.org:4242"),
        ("raspberry_pi:4242", "raspberry_pi", 4242, "raspberry_pi:4242"),
        ("xn--bcher-kva.example:04242", "xn--bcher-kva.example", 4242, "xn--bcher-kva.example:4242"),
    ],
)
def test_an_address_has_one_spelling(text: str, host: str, port: int, again: str) -> None:
    assert parse(text) == HostPort(host, port)
    assert str(parse(text)) == again
    assert str(parse(again)) == again
    assert to_endpoint(text) == f"tcp://{again}"


@pytest.mark.parametrize(
    "text",
    [
        "", ":", ":4242", "host", "host:", "host:0", "host:65536", "host:-1", "host:+1", "host:1e3", "host:٤٢",
        "host:4 2",
        "1.2.3:4242", "1.2.3.4.5:4242", "256.1.1.1:4242", "01.2.3.4:4242", "1.2.3.0x4:4242x", "2001:db8::7:4242",
        "[2001:db8::7]", "[2001:db8::7:4242", "2001:db8::7]:4242", "[1.2.3.4]:4242", "[host]:4242", "[]:4242",
        "[fe80::1%eth0]:4242", "tcp://1.2.3.4:4242", "-host:4242", "host-:4242", "a..b:4242", ".:4242", "ho st:4242",
        "host\0:4242", "host\n:4242", "bücher.example:4242", "user@host:4242", "host/path:4242", f"{'a' * 64}:4242",
        f"{'a.' * 127}a:4242", "a" * 300 + ":4242",
        "0.0.0.0:4242", "[::]:4242", "*:4242", "224.0.0.251:5353", "[ff02::fb]:5353", "255.255.255.255:4242",
        "240.0.0.1:1",
    ],
)  # fmt: skip
def test_nonsense_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(NetworkError, match="is no address") as caught:
        parse(text)
    assert "HOST:PORT" in str(caught.value.hint)
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("0.0.0.0:4242", "tcp://0.0.0.0:4242"),
        ("*:4242", "tcp://0.0.0.0:4242"),
        ("[::]:4242", "tcp://[::]:4242"),
        ("127.0.0.1:0", "tcp://127.0.0.1:*"),
        ("localhost:4242", "tcp://127.0.0.1:4242"),
        ("[::ffff:0.0.0.0]:4242", "tcp://0.0.0.0:4242"),
        ("192.168.1.20:40", "tcp://192.168.1.20:40"),
    ],
)
def test_where_to_listen_may_be_any_address_and_any_port(text: str, endpoint: str) -> None:
    assert to_endpoint(text, listen=True) == endpoint


@pytest.mark.parametrize("text", ["node.example.org:4242", "224.0.0.1:4242", "eth0:4242", "0.0.0.0", "*", ""])
def test_where_to_listen_is_no_name(text: str) -> None:
    with pytest.raises(NetworkError):
        to_endpoint(text, listen=True)


ips = st.ip_addresses()
names = st.from_regex(r"[a-z][a-z0-9]{0,20}(\.[a-z][a-z0-9-]{0,10}[a-z])?", fullmatch=True)


@given(st.one_of(ips.map(str), names), st.integers(1, 65535))
def test_what_is_written_is_read_again(host: str, port: int) -> None:
    try:
        parsed = parse(str(HostPort(host, port)))
    except NetworkError:
        ip = addresses._ip(host)
        assert ip is not None
        assert ip.is_unspecified or ip.is_multicast or ip.is_reserved
        return
    assert parse(str(parsed)) == parsed
    assert parsed.port == port


@given(st.text(max_size=300), st.booleans())
def test_any_text_is_an_address_or_refused(text: str, listen: bool) -> None:
    try:
        assert 0 <= parse(text, listen=listen).port <= 65535
    except NetworkError as error:
        assert error.hint


# Who can reach what.


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "loopback"), ("127.8.8.8", "loopback"), ("::1", "loopback"), ("localhost", "loopback"),
        ("a.localhost", "loopback"), ("::ffff:127.0.0.1", "loopback"),
        ("10.1.2.3", "private"), ("172.16.0.1", "private"), ("192.168.0.1", "private"), ("fd00::2", "private"),
        ("100.64.0.1", "private"),
        ("169.254.1.1", "link-local"), ("fe80::1", "link-local"), ("fe80::1%eth0", "link-local"),
        ("8.8.8.8", "public"), ("2a00:1450::7", "public"), ("172.32.0.1", "public"),
        ("node.example.org", "name"), ("raspberrypi", "name"),
        ("0.0.0.0", "wildcard"), ("::", "wildcard"),
    ],
)  # fmt: skip
def test_scopes(host: str, expected: str) -> None:
    assert scope(host) == expected


@pytest.mark.usefixtures("machine")
def test_own_addresses_come_farthest_first_and_bridges_last() -> None:
    assert addresses.local_addresses() == ["2a00:1450::7", "192.168.1.20", "10.0.0.9", "169.254.3.4", "172.17.0.1"]


def test_where_the_system_tells_nothing_the_route_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(psutil, "net_if_stats", refused)
    monkeypatch.setattr(addresses, "_routed", lambda family, outside: "10.0.0.9" if family == socket.AF_INET else None)
    assert addresses.local_addresses() == ["10.0.0.9"]


def test_this_machine_s_addresses_are_its_own() -> None:
    found = addresses.local_addresses()
    assert len(found) == len(set(found))
    for host in found:
        assert scope(host) in ("public", "private", "link-local")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))  # refused unless it is ours
            assert probe.getsockname()[0] == host


# What others are told.


@pytest.mark.usefixtures("machine")
def test_a_wildcard_stands_for_this_machine_s_addresses() -> None:
    told = ("192.168.1.20:4242", "10.0.0.9:4242", "169.254.3.4:4242", "172.17.0.1:4242")
    assert advertised("0.0.0.0:4242") == told
    assert advertised("*:4242") == told
    assert advertised("[::]:4242") == ("[2a00:1450::7]:4242", *told)


@pytest.mark.usefixtures("machine")
def test_what_a_person_names_comes_first_and_once() -> None:
    extra = ["Node.example.org:4000", "10.0.0.9:4242", "node.example.org.:4000"]
    assert advertised("0.0.0.0:4242", extra) == (
        "node.example.org:4000", "10.0.0.9:4242", "192.168.1.20:4242", "169.254.3.4:4242", "172.17.0.1:4242",
    )  # fmt: skip


@pytest.mark.usefixtures("machine")
def test_a_single_address_is_told_as_it_is() -> None:
    assert advertised("10.0.0.9:4242") == ("10.0.0.9:4242",)
    assert advertised("127.0.0.1:4242") == ("127.0.0.1:4242",)


def test_loopback_is_told_only_where_there_is_nothing_else(
    machine: dict[str, list[Entry]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert advertised("127.0.0.1:4242", ["203.0.113.5:80"]) == ("203.0.113.5:80",)
    for entries in machine.values():
        entries.clear()
    monkeypatch.setattr(addresses, "_routed", lambda family, outside: None)
    assert advertised("0.0.0.0:4242") == ("127.0.0.1:4242",)
    assert advertised("0.0.0.0:4242", ["127.0.0.1:9"]) == ("127.0.0.1:9",)


def test_no_more_addresses_are_told_than_a_record_holds(machine: dict[str, list[Entry]]) -> None:
    machine["eth0"] += [v4(f"192.168.2.{number}") for number in range(1, 99)]
    told = advertised("0.0.0.0:4242", ["node.example.org:1"])
    assert len(told) == limits.MAX_ADDRESSES
    assert told[:2] == ("node.example.org:1", "192.168.1.20:4242")
    with pytest.raises(NetworkError, match="9 addresses"):
        advertised("0.0.0.0:4242", ["node.example.org:1"] * 9)


@pytest.mark.parametrize(("listen", "extra"), [("0.0.0.0:0", []), ("x:1", []), ("0.0.0.0:1", ["0.0.0.0:1"]), ("", [])])
def test_what_nobody_can_dial_is_not_told(listen: str, extra: list[str]) -> None:
    with pytest.raises(NetworkError, match="is no address"):
        advertised(listen, extra)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ([], "nobody can dial"),
        (["127.0.0.1:1"], "only this machine"),
        (["127.0.0.1:1", "[::1]:1"], "only this machine"),
        (["192.168.1.2:1", "127.0.0.1:1"], "same network"),
        (["100.64.0.1:1"], "same network"),
    ],
)
def test_people_are_warned_of_addresses_that_few_can_reach(told: list[str], said: str) -> None:
    (line,) = warnings(told)
    assert said in line
    assert line.endswith("--addr HOST:PORT")
    assert all(address in line for address in told)


@pytest.mark.parametrize("told", [["8.8.8.8:1"], ["node.example.org:1"], ["[2a00:1450::7]:1", "10.0.0.1:1"]])
def test_nobody_is_warned_of_addresses_that_all_can_reach(told: list[str]) -> None:
    assert warnings(told) == []


def test_a_free_port_can_be_listened_on() -> None:
    port = addresses.free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", port))
        assert probe.getsockname()[1] == port


def test_a_port_that_is_taken_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("", 0))
        taken.listen()
        busy = taken.getsockname()[1]
        monkeypatch.setattr(addresses, "_QUIET_PORTS", [busy] * 32)
        assert addresses.free_port() not in (0, busy)
