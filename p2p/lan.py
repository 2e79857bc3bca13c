"""Finding nodes in the same network by multicast DNS (RFC 6762, 6763), for those who ask for it.

What is announced lets nobody in: a ticket is still needed. It is the swarm's name, the first half of its genesis hash,
the address, and the transport key; anybody in the network can read that, and so knows that this device is in that
swarm.

Needs ``zeroconf``, which ``pip install 'spearctl[lan]'`` brings. Calls here block, and work in threads of their own:
from an event loop, call them in a thread.

Not covered: anybody in the network can announce anything. What is found is a hint where to dial; who answers there is
shown by keys and certificates alone. A network that is flooded with multicast costs zeroconf memory while one browses.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2p import addresses, limits
from p2p.encoding import is_printable
from p2p.errors import NetworkError, WireError

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, Zeroconf

GENESIS_PREFIX_BYTES = 16

_SERVICE = "_spearctl._tcp.local."
_VERSION = b"1"
_MOST_FOUND = 256
_MOST_TEXT_BYTES = 255
_POLL_S = 0.2
_ASK_S = 3.0
"""One node that was heard of is asked for its address for at most so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A node that announced itself. Nothing here is proven.

    Attributes:
        name: Of its swarm.
        genesis_prefix: The first 16 bytes of the swarm's genesis hash.
        addresses: Where it says it can be dialled, ``host:port``.
        transport_public: The CURVE key to expect there, 32 bytes.
    """

    name: str
    genesis_prefix: bytes
    addresses: tuple[str, ...]
    transport_public: bytes

    def is_of(self, genesis_hash: bytes) -> bool:
        """Whether it says that it is in this swarm."""
        return genesis_hash[:GENESIS_PREFIX_BYTES] == self.genesis_prefix


@contextlib.contextmanager
def announce(
    name: str,
    genesis_hash: bytes,
    told: Sequence[str],
    transport_public: bytes,
    interfaces: Sequence[str] | None = None,
) -> Iterator[None]:
    """Tells the network of this node for as long as the block runs. Coming up takes about a second.

    Args:
        name: Of the swarm.
        genesis_hash: Of the swarm, 32 bytes.
        told: Where this node can be dialled: IP addresses, all with the same port.
        transport_public: Its CURVE key, 32 bytes.
        interfaces: This machine's IP addresses of the networks to tell; all by default.

    Raises:
        NetworkError: An address is not an IP address, there is no multicast, or ``zeroconf`` is not installed.
    """
    with contextlib.ExitStack() as stack:
        with _explained():
            service = _to_service(name, genesis_hash, told, transport_public)
            zeroconf = stack.enter_context(_start(interfaces))  # closing takes the announcement back
            # No probing whether the name is taken: it is made from the key.
            zeroconf.register_service(service, cooperating_responders=True)
        yield


def browse(
    timeout_s: float,
    interfaces: Sequence[str] | None = None,
    *,
    enough: Callable[[Found], bool] = lambda found: False,
    stopping: threading.Event | None = None,
) -> list[Found]:
    """Listens for nodes.

    Args:
        timeout_s: How long, in seconds.
        interfaces: This machine's IP addresses of the networks to listen in; all by default.
        enough: Ends it early, when it says so of a node that was just found.
        stopping: Ends it early, when it is set by another thread.

    Returns:
        The nodes that were found, in the order they answered; at most 256. What is malformed is passed over.

    Raises:
        NetworkError: There is no multicast, or ``zeroconf`` is not installed.
    """
    deadline, stopping = time.monotonic() + timeout_s, stopping or threading.Event()
    found: dict[Found, None] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(_explained())
        zeroconf = stack.enter_context(_start(interfaces))
        for instance in stack.enter_context(contextlib.closing(_instances(zeroconf, deadline, stopping))):
            wait_s = min(_ASK_S, max(0.0, deadline - time.monotonic()))
            service = zeroconf.get_service_info(_SERVICE, instance, timeout=int(wait_s * 1000))
            if service is None:
                continue
            with contextlib.suppress(WireError):
                one = _from_service(service)
                found[one] = None
                if enough(one) or len(found) >= _MOST_FOUND:
                    break
    return list(found)


def _instances(zeroconf: Zeroconf, deadline: float, stopping: threading.Event) -> Generator[str, None, None]:
    """The names of announcements as they come in, each once, until a moment of the monotonic clock, or told to stop."""
    from zeroconf import ServiceBrowser, ServiceListener

    names: queue.Queue[str] = queue.Queue(maxsize=_MOST_FOUND)

    class Listener(ServiceListener):
        def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            with contextlib.suppress(queue.Full):
                names.put_nowait(name)

        def update_service(self, zc: Zeroconf, type_: str, name: str) -> None: ...

        def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None: ...

    browser = ServiceBrowser(zeroconf, _SERVICE, Listener())
    try:
        while (left_s := deadline - time.monotonic()) > 0 and not stopping.is_set():
            with contextlib.suppress(queue.Empty):
                yield names.get(timeout=min(left_s, _POLL_S))
    finally:
        browser.cancel()


def _start(interfaces: Sequence[str] | None) -> Zeroconf:
    from zeroconf import InterfaceChoice, Zeroconf

    # A thread of its own, even where an event loop runs in this one.
    return Zeroconf(InterfaceChoice.All if interfaces is None else list(interfaces), use_asyncio=False)


def check_installed() -> None:
    """Makes sure that nodes can be found at all.

    Raises:
        NetworkError: ``zeroconf`` is not installed.
    """
    try:
        import zeroconf  # noqa: F401
    except ImportError as error:
        raise NetworkError(
            "finding nodes in the network needs zeroconf, which is not installed", "pip install 'spearctl[lan]'"
        ) from error


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """What can go wrong with multicast, as an error of ours."""
    check_installed()
    import zeroconf

    try:
        yield
    except (OSError, RuntimeError, zeroconf.Error) as error:
        raise NetworkError(
            f"multicast does not work here: {str(error) or type(error).__name__}",
            "do without it: join with a ticket that names an address",
        ) from error


def _to_service(name: str, genesis_hash: bytes, told: Sequence[str], transport_public: bytes) -> ServiceInfo:
    """What is announced. The key is the instance's name too, so that no two nodes get in each other's way."""
    from zeroconf import ServiceInfo

    parsed = [addresses.parse(address) for address in told]
    for address in parsed:
        if addresses.scope(address.host) == "name":
            raise NetworkError(f"{address} cannot be announced: it is no IP address", "name one: --listen HOST:PORT")
    instance = transport_public.hex()[:16]
    return ServiceInfo(
        _SERVICE,
        f"{instance}.{_SERVICE}",
        port=parsed[0].port,
        parsed_addresses=[address.host for address in parsed],
        server=f"spearctl-{instance}.local.",
        properties={
            b"v": _VERSION,
            b"swarm": name.encode()[: _MOST_TEXT_BYTES - len("swarm=")].decode(errors="ignore").encode(),
            b"genesis": genesis_hash[:GENESIS_PREFIX_BYTES].hex().encode(),
            b"key": transport_public.hex().encode(),
        },
    )


def _from_service(service: ServiceInfo) -> Found:
    """Reads an announcement.

    Raises:
        WireError: It is malformed, of another version, or its name cannot be printed.
    """
    hosts = service.parsed_addresses()
    text: Mapping[bytes, bytes | None] = service.properties
    if text.get(b"v") != _VERSION or not hosts or not service.port:
        raise WireError("an announcement of another version, or without an address")
    try:
        name = (text.get(b"swarm") or b"").decode()
        prefix = bytes.fromhex((text.get(b"genesis") or b"").decode("ascii"))
        transport = bytes.fromhex((text.get(b"key") or b"").decode("ascii"))
        told = [str(addresses.parse(str(addresses.HostPort(host, service.port)))) for host in hosts]
    except (ValueError, NetworkError) as error:
        raise WireError(f"a malformed announcement: {error}") from error
    if len(prefix) != GENESIS_PREFIX_BYTES or len(transport) != 32:
        raise WireError("an announcement with half a hash")
    if not 1 <= len(name) <= limits.MAX_NAME_CHARS or not is_printable(name):
        raise WireError("an announcement with a name that cannot be printed")
    return Found(
        name=name, genesis_prefix=prefix, addresses=tuple(told[: limits.MAX_ADDRESSES]), transport_public=transport
    )
