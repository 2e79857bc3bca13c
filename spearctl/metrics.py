"""The figures of `status` for Prometheus, over HTTP, from the process of the node.

A scrape asks the node over its control socket, as `status` does, from a thread of its own: the node's loop does no more
for it than for that command. Scrapes that come together share one answer.

Names that a member chose are made printable and short, and only so many members are told one by one, so that nobody
can fill a database with labels. Nothing of prompts, answers or feedback is in any figure.

Not covered: who may read them. Everybody who can reach the address can, which is why it is a loopback address unless
somebody says otherwise; there is neither encryption nor a password.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import HTTPServer
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any

from spearctl import swarm
from spearctl.errors import SpearctlError
from spearctl.extras import require
from spearctl.run import Run
from spearctl.text import printable

if TYPE_CHECKING:
    from prometheus_client import Metric

    from p2p.addresses import HostPort

WHAT = "--prometheus"
ANSWER_S = 1.0
"""An answer of the node serves for so long."""
PATIENCE_S = 5.0
"""A node that is busy for longer is told as one that does not answer."""
MOST_PEERS = 64
"""That are told one by one; the others are only counted."""
MOST_NAME_CHARS = 32
MOST_CLIENTS = 8
CLIENT_S = 10.0
"""A client has so long for all of its request and its answer."""
STATES = ("linked", "away", "banned", "revoked", "equivocator")

_log = logging.getLogger(__name__)
_ODD = re.compile(r"[\s\"\\{}]+")


class Collector:
    """What `prometheus_client` asks for metrics at each scrape.

    Args:
        run: Whose home.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._said: Mapping[str, Any] | None = None
        self._asked_s = -ANSWER_S

    def describe(self) -> Iterable[Metric]:
        """Nothing: to be registered costs no answer of the node."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All metrics, as the node answers now."""
        from prometheus_client.core import GaugeMetricFamily

        said = self._ask()
        yield GaugeMetricFamily("spearctl_up", "Whether the node answers (1) or is too busy to (0).", value=bool(said))
        if said is not None:
            yield from families(said)

    def _ask(self) -> Mapping[str, Any] | None:
        from p2p.errors import P2PError

        with self._lock:
            if time.monotonic() - self._asked_s >= ANSWER_S:
                self._said = None
                with suppress(P2PError, SpearctlError):
                    self._said = swarm.ask(self._run, "status", patience_s=PATIENCE_S)
                self._asked_s = time.monotonic()
            return self._said


def families(said: Mapping[str, Any]) -> Iterator[Metric]:
    """The metrics that an answer of a node amounts to.

    Args:
        said: What it answers to ``status``.
    """
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    found, peers = said["swarm"], said["peers"]
    for name, help_text, value in (
        ("head_round", "The highest round that this node holds a delta of.", found["head_round"]),
        ("sealed_round", "The last round that is sealed.", found["sealed_round"]),
        ("members", "Members of the swarm, this node included.", found["members"]),
        ("pending_wins", "Wins learned here and not shared yet.", found["pending_wins"]),
        ("unsealed_deltas", "Deltas of this node that no seal has passed.", found["unsealed_deltas"]),
        ("transfers", "Blobs on their way here.", len(said["transfers"])),
        ("transfer_missing_bytes", "Bytes of those that are still missing, as far as known.", _missing(said)),
        ("health_lines", "What somebody should look at: lines that status shows.", len(said["health"])),
        ("uptime_seconds", "For how long the node has run.", said["uptime_s"]),
    ):
        yield GaugeMetricFamily(f"spearctl_{name}", help_text, value=value)
    states = GaugeMetricFamily("spearctl_peers", "Other members, by how they stand to this node.", labels=["state"])
    for state in STATES:
        states.add_metric([state], sum(peer["state"] == state for peer in peers))
    yield states
    refused = CounterMetricFamily("spearctl_turned_away", "Links that were refused, by reason.", labels=["reason"])
    for reason, number in said["turned_away"].items():
        refused.add_metric([_short(reason)], number)
    yield refused
    yield from _of_peers(peers)


def _of_peers(peers: list[dict[str, Any]]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    labels = ["peer", "id"]
    # Bytes are counted for a link, and begin anew with the next: to Prometheus that is a counter that was reset.
    sent = CounterMetricFamily("spearctl_sent_bytes", "Sent over the present link, by peer.", labels=labels)
    received = CounterMetricFamily("spearctl_received_bytes", "Received over the present link, by peer.", labels=labels)
    heads = GaugeMetricFamily("spearctl_peer_head_round", "The head round that a peer told last.", labels=labels)
    seen = GaugeMetricFamily("spearctl_peer_last_seen_seconds", "Since a peer was heard last.", labels=labels)
    trip = GaugeMetricFamily("spearctl_peer_rtt_seconds", "Round trip to a peer, by the kernel.", labels=labels)
    linked = [peer for peer in peers if peer["state"] == "linked"]
    away = [peer for peer in peers if peer["state"] == "away"]
    for peer in (linked + away)[:MOST_PEERS]:
        who = [_short(peer["name"]), peer["id"][:12]]
        if peer["state"] == "linked":
            sent.add_metric(who, peer["sent_bytes"])
            received.add_metric(who, peer["received_bytes"])
            if peer["rtt_ms"] is not None:
                trip.add_metric(who, peer["rtt_ms"] / 1000)
        if peer["head_round"] is not None:
            heads.add_metric(who, peer["head_round"])
        if peer["last_seen_s"] is not None:
            seen.add_metric(who, peer["last_seen_s"])
    yield from (sent, received, heads, seen, trip)


def _missing(said: Mapping[str, Any]) -> int:
    return sum(max(0, blob["total_bytes"] - blob["bytes"]) for blob in said["transfers"])


def _short(name: str) -> str:
    return _ODD.sub("_", printable(name))[:MOST_NAME_CHARS]


def address(run: Run, text: str) -> HostPort:
    """Reads where to serve metrics, makes sure that they can be served, and warns where others may read them.

    Args:
        run: Whose metrics.
        text: ``host:port``.

    Raises:
        NetworkError: It is no address of this machine's, or has no port.
        MissingPackageError: prometheus-client is not installed.
    """
    from p2p.addresses import parse
    from p2p.errors import NetworkError

    found = parse(text, listen=True)
    if found.port == 0:
        raise NetworkError(f"{text!r}: metrics need a port of their own", "choose one: 127.0.0.1:9464")
    require("prometheus_client", "metrics", WHAT)
    if not ipaddress.ip_address(found.host).is_loopback:
        run.say(f"everybody who can reach {found} can read this node's metrics: members' names, traffic, rounds")
    return found


@contextmanager
def serving(run: Run, where: HostPort | None) -> Iterator[None]:
    """Serves metrics while the block runs; nothing where there is no address.

    Raises:
        NetworkError: The address is taken, or is not one of this machine's.
    """
    if where is None:
        yield
        return
    server = _listen(run, where)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _listen(run: Run, where: HostPort) -> _Server:
    from p2p.errors import NetworkError

    registry = require("prometheus_client", "metrics", WHAT).CollectorRegistry(auto_describe=False)
    registry.register(Collector(run))
    handler = require("prometheus_client.exposition", "metrics", WHAT).MetricsHandler.factory(registry)
    handler.timeout = CLIENT_S
    try:
        return _Server(where, handler)
    except OSError as error:
        other = "choose another address for --prometheus, or stop what listens there"
        raise NetworkError(f"metrics cannot be served on {where}: {error.strerror}", other) from error


class _Server(ThreadingMixIn, HTTPServer):
    """A server that a slow client cannot hold up: each has a thread, there are few, and none lasts long.

    Args:
        where: To listen.
        handler: Answers a request.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = MOST_CLIENTS

    def __init__(self, where: HostPort, handler: Any) -> None:
        self.address_family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
        self._free = threading.BoundedSemaphore(MOST_CLIENTS)
        super().__init__((where.host, where.port), handler)

    def server_bind(self) -> None:
        """Binds, without asking the network for this machine's name as the base class does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers in a thread of its own; one client too many is turned away at once."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread can be had
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers, and ends a connection that takes too long in all, however often a byte moves."""
        limit = threading.Timer(CLIENT_S, _end, (request,))
        limit.daemon = True
        try:
            limit.start()
            super().process_request_thread(request, client_address)
        except RuntimeError:  # no thread can be had
            self.shutdown_request(request)
        finally:
            limit.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news; anything else is told in the node's log."""
        _log.debug("a scrape failed", exc_info=True)


def _end(request: socket.socket) -> None:
    with suppress(OSError):  # it has ended meanwhile
        request.shutdown(socket.SHUT_RDWR)
