"""Addresses, ``host:port``: reading and writing them, finding this machine's own, and saying who can reach them.

No packet leaves this machine, and no name is looked up: names are taken as they are.

Not covered: whether an address can in fact be reached. Firewalls, NAT and forwarded ports show only when somebody
dials.
"""

from __future__ import annotations

import ipaddress
import random
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import psutil

from p2p import limits
from p2p.errors import NetworkError

Scope = Literal["loopback", "private", "link-local", "public", "name", "wildcard"]

_HINT = "write it as HOST:PORT, such as 192.168.1.20:4242, [2001:db8::7]:4242 or node.example.org:4242"
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_PORT = re.compile(r"[0-9]{1,5}")
_FAR_FIRST: dict[Scope, int] = {"name": 0, "public": 0, "private": 1, "link-local": 2, "loopback": 3}
_BRIDGES = ("docker", "br-", "veth", "virbr", "vmnet", "vboxnet", "cni", "lxc")
"""Interfaces that lead to guests of this machine only, as a rule."""
_QUIET_PORTS = range(20_000, 32_768)
"""Below the ports that systems lend to outgoing connections: one that is free now is likely free at the next start."""


@dataclass(frozen=True, slots=True)
class HostPort:
    """An address, checked and in its one spelling.

    Attributes:
        host: An IPv4 or IPv6 address without brackets, or a name in lower case.
        port: 1 to 65535; 0, to listen on, for any.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(text: str, *, listen: bool = False) -> HostPort:
    """Reads an address.

    Args:
        text: IPv4, IPv6 in brackets, or a name; then the port.
        listen: For listening: a wildcard (``0.0.0.0``, ``*`` or ``[::]``) and port 0 may be used, names may not.

    Raises:
        NetworkError: It is none, or nobody could use it.
    """
    host, colon, port = text.strip().rpartition(":")
    if len(text) > limits.MAX_ADDRESS_CHARS or not colon or not host:
        raise _refusal(text, "no HOST:PORT")
    if "://" in text:
        raise _refusal(text, "it begins with the host, without a scheme")
    if not _PORT.fullmatch(port) or int(port) > 65535 or (int(port) == 0 and not listen):
        raise _refusal(text, f"a port is a number from {0 if listen else 1} to 65535")
    bracketed = host.startswith("[") and host.endswith("]")
    if (":" in host) != bracketed:
        raise _refusal(text, "an IPv6 address goes in brackets, and nothing else does")
    return HostPort(_host(text, host[1:-1] if bracketed else host.lower(), listen), int(port))


def _host(text: str, host: str, listen: bool) -> str:
    """The one spelling of a host."""
    if listen:
        host = {"*": "0.0.0.0", "localhost": "127.0.0.1"}.get(host, host)
    if "%" in host:
        raise _refusal(text, "a zone means something on one machine only")
    address = _ip(host)
    if address is None:
        if listen:
            raise _refusal(text, "to listen, name one of this machine's own IP addresses, or 0.0.0.0 for all")
        _check_name(text, host)
        return host.removesuffix(".")
    if address.is_unspecified and not listen:
        raise _refusal(text, "it stands for every address, and cannot be dialled")
    if address.is_multicast or (address.version == 4 and address.is_reserved):
        raise _refusal(text, "it belongs to no single machine")
    return str(address)


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IP address; one of IPv4 that is wrapped in IPv6, unwrapped. None for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _check_name(text: str, host: str) -> None:
    if not host.isascii():
        raise _refusal(text, "write a name that is not ASCII in its xn-- form")
    labels = host.removesuffix(".").split(".")
    # Names never end in a number; what does is an IP address gone wrong.
    if len(host) > 253 or labels[-1].isdecimal() or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refusal(text, "neither an IP address nor a name")


def _refusal(text: str, reason: str) -> NetworkError:
    shown = text if len(text) <= 80 else text[:77] + "..."
    return NetworkError(f"{shown!r} is no address: {reason}", _HINT)


def to_endpoint(address: str, *, listen: bool = False) -> str:
    """An address as ZeroMQ takes it. Its sockets need ``IPV6`` set to use both families.

    A name stays a name: ZeroMQ looks it up in its I/O thread, where everything else waits for the answer.

    Raises:
        NetworkError: As ``parse``.
    """
    parsed = parse(address, listen=listen)
    return f"tcp://{parsed}" if parsed.port else f"tcp://{str(parsed).removesuffix('0')}*"


def scope(host: str) -> Scope:
    """Who can reach a host, as far as it shows: an IP address without brackets, or a name."""
    address = _ip(host)
    if address is None:
        return "loopback" if host == "localhost" or host.endswith(".localhost") else "name"
    if address.is_unspecified:
        return "wildcard"
    if address.is_loopback:
        return "loopback"
    if address.is_link_local:
        return "link-local"
    return "public" if address.is_global else "private"


def local_addresses() -> list[str]:
    """This machine's own IP addresses, those that reach farthest first; none of loopback, none that needs a zone."""
    routed = [_routed(socket.AF_INET, "192.0.2.1"), _routed(socket.AF_INET6, "2001:db8::1")]
    found: dict[str, bool] = {host: False for host in routed if host}  # to whether a bridge has it
    for interface, hosts in _interfaces().items():
        for host in hosts:
            found.setdefault(host, interface.startswith(_BRIDGES))

    def is_usable(host: str) -> bool:
        return scope(host) in ("public", "private") or (scope(host) == "link-local" and ":" not in host)

    def order(host: str) -> tuple[bool, int, bool, bool]:
        return found[host], _FAR_FIRST[scope(host)], host not in routed, ":" in host

    return sorted(filter(is_usable, found), key=order)


def _interfaces() -> dict[str, list[str]]:
    """IP addresses by interface, of those that are up; nothing where the system does not tell."""
    families = (socket.AF_INET, socket.AF_INET6)
    try:
        up = {name for name, state in psutil.net_if_stats().items() if state.isup}
        return {
            name: [entry.address for entry in entries if entry.family in families]
            for name, entries in psutil.net_if_addrs().items()
            if name in up
        }
    except (OSError, NotImplementedError, psutil.Error):  # Android, some containers
        return {}


def _routed(family: socket.AddressFamily, outside: str) -> str | None:
    """The address this machine would send from. Connecting a UDP socket picks the route and sends nothing."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((outside, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None


def advertised(listen: str, extra: Sequence[str] = ()) -> tuple[str, ...]:
    """The addresses to tell others, best first.

    Args:
        listen: Where this node listens, with its real port. A wildcard stands for all of this machine's addresses of
            its family (``[::]``: of both); where there are none, for loopback.
        extra: What a person says that others reach it by; comes first, in this order. With it, the loopback address
            that this node listens on is left out.

    Returns:
        At most ``MAX_ADDRESSES``.

    Raises:
        NetworkError: One is no address, or there are too many ``extra``.
    """
    if len(extra) > limits.MAX_ADDRESSES:
        raise NetworkError(
            f"{len(extra)} addresses, where at most {limits.MAX_ADDRESSES} can be told",
            "leave out those that reach least",
        )
    bound = parse(listen, listen=True)
    if bound.port == 0:
        raise _refusal(listen, "the port it listens on is not known yet")
    hosts = [bound.host]
    if scope(bound.host) == "wildcard":
        both = ":" in bound.host
        hosts = [host for host in local_addresses() if both or ":" not in host] or ["127.0.0.1"]
    if extra:
        hosts = [host for host in hosts if scope(host) != "loopback"]
    told = [*map(parse, extra), *(HostPort(host, bound.port) for host in hosts)]
    return tuple(dict.fromkeys(map(str, told)))[: limits.MAX_ADDRESSES]


def warnings(addresses: Sequence[str]) -> list[str]:
    """What a person should know before others are told these addresses: a sentence each, with what to do.

    Raises:
        NetworkError: One is no address.
    """
    scopes = {scope(parse(address).host) for address in addresses}
    named = ", ".join(addresses)
    if not scopes:
        return ["nobody can dial this node: it has no address; if it has one that others reach, add --addr HOST:PORT"]
    if scopes == {"loopback"}:
        return [f"only this machine reaches {named}; for others, name an address that they reach: --addr HOST:PORT"]
    if scopes <= {"loopback", "link-local", "private"}:
        mend = "forward a port to this machine and name it: --addr HOST:PORT"
        return [f"only devices on the same network reach {named}; for others, {mend}"]
    return []


def free_port() -> int:
    """A TCP port that is free on all interfaces right now, and likely to stay so. Nothing holds it."""
    for port in (*random.SystemRandom().sample(_QUIET_PORTS, 32), 0):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise NetworkError("no TCP port is free", "stop what holds them, or name one: --listen 0.0.0.0:PORT")
