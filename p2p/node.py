"""A node: the loop that gives a member its sockets, its clock and its disk.

Everything happens in one task, one event after the other: what comes over links, ticks, what trainers leave, and what
commands ask over the control socket. So no two things ever change the member at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from p2p import addresses, increments, limits
from p2p.actions import Action, Dial, Drop, Send
from p2p.bans import ban, banned, unban
from p2p.control import ControlServer
from p2p.errors import NetworkError, P2PError, PayloadError
from p2p.founding import author_of_home, genesis_of
from p2p.identity import Identity
from p2p.issuing import make_revocation, make_ticket
from p2p.joining import Membership, Merging, join
from p2p.ledger import Ledger
from p2p.member import Member
from p2p.nearby import Nearby
from p2p.overview import BANNED, overview, remember_drop, troubles
from p2p.places import Places
from p2p.records import Certificate, Revocation
from p2p.tickets import read
from p2p.transport import LinkDown, LinkStats, LinkUp, Received, Transport
from p2p.wire import write_message

TICK_S = 0.5
QUEUE_BYTES = 8 * limits.MIB  # waiting for one slow link; more, and it is dropped
CATCH_UP_S = 60.0  # what was learned on a round that a node has not heard of yet waits so long for that round
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """How a node is reached.

    Attributes:
        listen: ``host:port`` to bind; None for a node that only dials.
        advertise: Addresses to tell others besides its own.
        name: What this node calls itself.
        lan: Whether it announces itself in the local network, and looks for others there.
    """

    listen: str | None
    advertise: tuple[str, ...]
    name: str
    lan: bool = False


@dataclass(slots=True)
class _Queue:
    waiting: deque[bytes] = field(default_factory=deque)
    bytes: int = 0


class Node:
    """One run of a node on a ledger.

    Args:
        places: Where its home keeps what.
        ledger: Of its swarm, open.
        identity: Its keys.
        settings: How it is reached.
        tap: Sees every message, for tests.
    """

    def __init__(
        self,
        places: Places,
        ledger: Ledger,
        identity: Identity,
        settings: Settings,
        *,
        tap: Callable[[str, int, bytes], None] | None = None,
    ) -> None:
        self._places = places
        self._ledger = ledger
        self._identity = identity
        self._settings = settings
        self._genesis = genesis_of(ledger)
        self.member = Member(
            self._genesis,
            author_of_home(ledger, identity),
            ledger,
            rng=random.Random(os.urandom(16)),
            instance=os.urandom(16),
            now=time.monotonic(),
            clock_s=_unix(),
        )
        ledger.tidy(self.member.referenced())  # only now is it known what a crash left behind
        ledger.commit()
        self.transport = Transport(
            secret=identity.transport_secret, listen=settings.listen, admit=self._admits, tap=tap
        )
        self._control = ControlServer(places.control, self._answer)
        self._banned = banned(ledger)
        self._queues: dict[int, _Queue] = {}
        self._dialled: dict[int, bytes] = {}
        self._stopping = asyncio.Event()
        self._woken = asyncio.Event()
        self._started = time.monotonic()
        self._joining: asyncio.Task[Membership] | None = None
        self._joining_issuer = b""
        self._nearby = Nearby(self._genesis, identity.transport_public, self.member.dialling.nearby)
        self._join_outcome: dict[str, Any] | None = None
        self.advertised: tuple[str, ...] = ()
        self.contacts: dict[bytes, str] = {}

    async def run(self, ready: Callable[[Node], None] = lambda node: None) -> Membership | None:
        """Runs until it is asked to stop, or until it is let into another swarm.

        Args:
            ready: Called once it can be reached.

        Returns:
            The membership to go on with, if it is another one.

        Raises:
            NetworkError: It cannot listen there, or another node of this home runs.
        """
        self._control.claim()
        try:
            await self.transport.start()
            self._tell_addresses()
            if self._settings.lan:
                self._nearby.start(self.transport.address)
            await self._control.start()  # whoever waits for the node to answer has one that can be reached
            ready(self)
            return await self._loop()
        finally:
            if self._joining is not None:
                self._joining.cancel()
            await self._nearby.close()
            await self._control.close()
            await self.transport.close()

    def stop(self) -> None:
        """Asks it to stop."""
        self._stopping.set()

    async def _loop(self) -> Membership | None:
        events: asyncio.Task[Any] = asyncio.create_task(self.transport.next_event())
        stopping = asyncio.create_task(self._stopping.wait())
        next_tick = 0.0
        try:
            while not self._stopping.is_set():
                waits = {events, stopping} | ({self._joining} if self._joining else set())
                woken = asyncio.create_task(self._woken.wait())
                timeout = max(0.0, next_tick - time.monotonic())
                await asyncio.wait({*waits, woken}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
                if events.done():
                    self._happened(events.result())
                    events = asyncio.create_task(self.transport.next_event())
                if self._woken.is_set() or time.monotonic() >= next_tick:
                    self._woken.clear()
                    next_tick = time.monotonic() + TICK_S
                    self._take_increments()
                    self._perform(self.member.tick(now=time.monotonic(), clock_s=_unix()))
                    self._flush()
                membership = self._joined()
                if membership is not None:
                    return membership
            return None
        finally:
            events.cancel()
            stopping.cancel()

    def _admits(self, key: bytes) -> bool:
        roster = self.member.context.replica.roster
        if roster.shuts_out(key) or any(roster.holds_transport(member, key) for member in self._banned):
            return False
        return roster.admits(key) or roster.invite_of_transport(key) is not None or key in self._dialled.values()

    def _happened(self, event: LinkUp | LinkDown | Received) -> None:
        now, clock_s = time.monotonic(), _unix()
        match event:
            case LinkUp(link=link, key=key, dialled=dialled):
                self._perform(self.member.link_up(link, key, dialled=dialled, now=now, clock_s=clock_s))
            case LinkDown(link=link, key=key, reason=reason):
                _log.info("link to %s is down: %s", key.hex()[:12], reason)
                self._dialled.pop(link, None)
                self._queues.pop(link, None)
                self.member.dialling.failed(key)
                remember_drop(self.member.context, link, reason, now)
                self._perform(self.member.link_down(link, now=now, clock_s=clock_s))
            case Received(link=link, data=data):
                self._perform(self.member.received(link, data, now=now, clock_s=clock_s))

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(link=link, message=message):
                    self._send(link, write_message(message))
                case Drop(link=link, reason=reason):
                    self._queues.pop(link, None)
                    self.transport.drop(link, reason)
                case Dial(address=address, key=key):
                    try:
                        self._dialled[self.transport.dial(address, key)] = key
                    except NetworkError as error:
                        _log.warning("%s", error.message)

    def _send(self, link: int, raw: bytes) -> None:
        queue = self._queues.setdefault(link, _Queue())
        if not queue.waiting and self.transport.send(link, raw):
            return
        queue.waiting.append(raw)
        queue.bytes += len(raw)
        if queue.bytes > QUEUE_BYTES:
            self._queues.pop(link, None)
            self.transport.drop(link, "too slow")

    def _flush(self) -> None:
        """Goes on with links that were slow."""
        for link, queue in [*self._queues.items()]:
            while queue.waiting and self.transport.send(link, queue.waiting[0]):
                queue.bytes -= len(queue.waiting.popleft())

    def _take_increments(self) -> None:
        """Takes what trainers left. A file goes only when the ledger has it."""
        for path in increments.waiting(self._places.outbox):
            try:
                increment = increments.read_increment(path, self._genesis.parameters)
                if increment.base > self.member.context.replica.head and time.monotonic() < self._started + CATCH_UP_S:
                    continue  # whoever comes back would join the first round with it
                actions = self.member.learn(
                    increment.id,
                    increment.values,
                    increment.wins,
                    base=increment.base,
                    now=time.monotonic(),
                    clock_s=_unix(),
                )
            except PayloadError as error:
                _log.warning("put aside: %s", error.message)
                increments.refuse(path)
                continue
            _log.info("took what was learned from %d wins", increment.wins)
            path.unlink(missing_ok=True)
            self._perform(actions)

    def _tell_addresses(self) -> None:
        """Tells the swarm where this node can be reached."""
        bound = self.transport.address
        self.advertised = addresses.advertised(bound, self._settings.advertise) if bound else self._settings.advertise
        self._perform(self.member.reachable_at(self.advertised, now=time.monotonic(), clock_s=_unix()))

    # Commands.

    async def _answer(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        handlers: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "status": self._status,
            "wake": self._wake,
            "stop": self._stop,
            "invite": self._invite,
            "ban": self._ban,
            "revoke": self._revoke,
            "join": self._join,
        }
        if command not in handlers:
            raise NetworkError(f"the running node does not know {command!r}", "restart it: spearctl down, spearctl up")
        return await handlers[command](arguments)

    async def _status(self, arguments: dict[str, Any]) -> dict[str, Any]:
        member, now = self.member, time.monotonic()
        found = overview(
            member.context, member.state.hash, member.outbox, now=now, banned=self._banned, stats=self._stats()
        )
        return {
            **found,
            "health": [*member.health, *self._nearby.health, *troubles(self._places.outbox)],
            "turned_away": {reason: number for reason, number in self.transport.counts.items() if number},
            "running": True,
            "join": self._join_outcome,
            "pid": os.getpid(),
            "addresses": list(self.advertised),
            "uptime_s": now - self._started,
            "transfers": [
                {"blob": download.name.hex(), "bytes": download.have, "total_bytes": download.total}
                for download in member.downloads
            ],
        }

    def _stats(self) -> dict[int, LinkStats]:
        found = {}
        for link in self.member.context.links:
            with suppress(KeyError):  # its end is the next thing to happen
                found[link] = self.transport.stats(link)
        return found

    async def _wake(self, arguments: dict[str, Any]) -> dict[str, Any]:
        self._woken.set()
        return {}

    async def _stop(self, arguments: dict[str, Any]) -> dict[str, Any]:
        self.stop()
        return {"pid": os.getpid()}

    async def _invite(self, arguments: dict[str, Any]) -> dict[str, Any]:
        text, record = make_ticket(
            self.member,
            self._identity,
            tuple(arguments.get("addresses") or self.advertised),
            life_s=int(arguments["life_s"]),
            now_s=_unix(),
        )
        self._perform(self.member.add_own(record, now=time.monotonic(), clock_s=_unix()))
        return {"ticket": text}

    async def _ban(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Holds no link to a member any more, or does so again."""
        member, before = bytes.fromhex(arguments["member"]), len(self._banned)
        if arguments.get("undo"):
            unban(self._ledger, member)
            self._banned.discard(member)
            certificate = self.member.context.replica.roster.certificate_of(member)
            if certificate is not None and isinstance(certificate.body, Certificate):
                self.member.dialling.up(certificate.body.transport)  # dialled at once, however often that failed
        else:
            ban(self._ledger, member)
            self._banned.add(member)
            for link in [link for link in self.member.context.members() if link.member == member]:
                self.transport.drop(link.number, BANNED)
        return {"changed": len(self._banned) != before}

    async def _revoke(self, arguments: dict[str, Any]) -> dict[str, Any]:
        record = make_revocation(
            self.member, self._identity, bytes.fromhex(arguments["member"]), str(arguments.get("reason", ""))
        )
        self._perform(self.member.add_own(record, now=time.monotonic(), clock_s=_unix()))
        assert isinstance(record.body, Revocation)
        return {"from_round": record.body.from_round}

    async def _join(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Joins another swarm while this one, which nobody else needs, runs on."""
        ticket = read(str(arguments["ticket"]))
        if self._joining is not None and not self._joining.done():
            raise NetworkError("this node is about to join a swarm already", "wait until that has ended")
        self.member.admission.leaving_for = ticket.genesis
        self.contacts = {endpoint.transport: endpoint.address for endpoint in reversed(ticket.endpoints)}
        self._joining_issuer, self._join_outcome = ticket.issuer, None
        self._joining = asyncio.create_task(
            join(
                ticket,
                self._identity,
                self._settings.name,
                leaving=self._genesis.hash,
                timeout_s=float(arguments["timeout_s"]),
            )
        )
        self._woken.set()
        return {}

    def _joined(self) -> Membership | None:
        """What came of joining another swarm."""
        if self._joining is None:
            return None
        moved_in = any(link.member == self._joining_issuer for link in self.member.context.members())
        if not moved_in and not self._joining.done():
            return None
        task, self._joining = self._joining, None
        self._join_outcome = {"stays": True}
        if moved_in:  # whom this node asks is a member here meanwhile, so nobody lets it in there
            task.cancel()
        else:
            try:
                membership = task.result()
                if not self._stays(membership):
                    return membership
            except Merging:
                pass
            except P2PError as error:
                self._join_outcome = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
            except Exception as error:  # a bug ends the attempt, not the node
                _log.exception("joining another swarm failed")
                self._join_outcome = {"kind": "bug", "message": f"the node failed: {error!r}", "hint": None}
        _log.info("joining another swarm ended: %s", self._join_outcome)
        self.member.admission.leaving_for = b""
        return None

    def _stays(self, membership: Membership) -> bool:
        """Whether this node stays although it was let in elsewhere: the other founder was let in here as well."""
        return self.member.admission.stays and self._genesis.hash < membership.genesis.hash


def _unix() -> int:
    return max(0, int(time.time()))
