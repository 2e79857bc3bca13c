"""A running node in the local network: announces itself there, and finds the others of its swarm, in a thread.

An address that is found is tried for a member whose key is known already; the handshake shows whether it is that
member. So devices that get other addresses every day find each other without anybody who has a fixed one.

Not covered: what ``p2p.lan`` does not cover.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence

from p2p import addresses, lan
from p2p.errors import NetworkError
from p2p.records import Genesis

LOOK_S = 5.0
PAUSE_S = (2.0, 60.0)
"""Between two looks, the first and the longest: who was missed is found with the next."""
_log = logging.getLogger(__name__)


def networks(listen: str | None) -> list[str] | None:
    """The networks in which a node is reached, by this machine's addresses there; none of them stands for all.

    Args:
        listen: Where it listens: on a single address, others reach it in that network alone. None for one that only
            dials, and may do so in all.
    """
    if listen is None:
        return None
    host = addresses.parse(listen, listen=True).host
    return None if addresses.scope(host) == "wildcard" else [host]


class Nearby:
    """Announces a node and looks for others of its swarm for as long as it runs.

    Args:
        genesis: Of the swarm.
        transport_public: The node's CURVE key, 32 bytes.
        found: Is told, in the loop that started this, of a key and the addresses it is said to have.

    Attributes:
        health: What keeps it from working, a line each.
    """

    def __init__(
        self, genesis: Genesis, transport_public: bytes, found: Callable[[bytes, Sequence[str]], None]
    ) -> None:
        self.health: tuple[str, ...] = ()
        self._genesis = genesis
        self._transport_public = transport_public
        self._found = found
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, bound: str | None) -> None:
        """Begins.

        Args:
            bound: Where the node listens, with its real port; none for one that only dials, and so is not announced.
        """
        arguments = asyncio.get_running_loop(), bound
        self._thread = threading.Thread(target=self._run, args=arguments, name="nearby", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Takes the announcement back, and ends."""
        self._stopping.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _run(self, loop: asyncio.AbstractEventLoop, bound: str | None) -> None:
        while not self._stopping.is_set():
            try:
                self._stay(loop, bound)
            except NetworkError as error:  # such as a device that is in no network now, and may be in one later
                if not self.health:
                    _log.warning("%s", error.message)
                self.health = (f"the local network is not told of this node, and not searched: {error.message}",)
                self._stopping.wait(PAUSE_S[1])

    def _stay(self, loop: asyncio.AbstractEventLoop, bound: str | None) -> None:
        """Announces the node and looks around, until this machine has other addresses."""
        genesis, key, pause_s = self._genesis, self._transport_public, PAUSE_S[0]
        where, told = networks(bound), () if bound is None else addresses.advertised(bound)
        with contextlib.ExitStack() as stack:
            if told:
                stack.enter_context(lan.announce(genesis.name, genesis.hash, told, key, where))
            while not self._stopping.is_set() and (bound is None or told == addresses.advertised(bound)):
                for one in lan.browse(LOOK_S, where, stopping=self._stopping):
                    if one.is_of(genesis.hash) and one.transport_public != key:
                        loop.call_soon_threadsafe(self._found, one.transport_public, one.addresses)
                self.health = ()
                self._stopping.wait(pause_s)
                pause_s = min(2 * pause_s, PAUSE_S[1])
