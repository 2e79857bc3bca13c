"""A run: virtual time, the devices in it, a time of trouble and a time of calm."""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from p2p.errors import P2PError
from p2p.grid import Wide
from p2p.records import Certificate, Header, Record, sign_record
from p2p.wire import read_message
from tests.simulation.device import Device
from tests.simulation.evidence import Evidence
from tests.simulation.faults import Faults
from tests.simulation.hostile import make_hostile
from tests.simulation.invariants import Invariants
from tests.simulation.network import Network
from tests.simulation.pace import paced
from tests.simulation.people import person
from tests.simulation.plan import Plan
from tests.simulation.violation import Violation

MOST_EVENTS = 200_000
REMEMBERED = 40


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        seed: Its seed.
        events: How many there were.
        time_s: Virtual time at its end.
        rounds: Of the clock.
        seals: That were signed.
        learned: Increments.
        happened: How often what happened, by what it is called in a trace.
        invariant: That was violated; none if all is well.
        detail: What was seen.
        trace: The last events before it, as text.
    """

    seed: int
    events: int
    time_s: float
    rounds: int
    seals: int
    learned: int
    happened: Counter[str]
    invariant: str = ""
    detail: str = ""
    trace: tuple[str, ...] = ()


class World:
    """One simulated swarm.

    Args:
        plan: What the seed drew.

    Attributes:
        now: Virtual time in seconds.
        devices: All that there are or were.
        learned: All increments, by id, as trainers wrote them.
        increments: The same on the fine grid, with their wins.
        is_calm: Whether nothing goes wrong any more.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rng = random.Random(f"world {plan.seed}")
        self.now = 0.0
        self.is_calm = False
        self.learned: dict[str, npt.NDArray[np.float32]] = {}
        self.increments: dict[str, tuple[Wide, int]] = {}
        self.devices: list[Device] = []
        self.by_address: dict[str, Device] = {}
        self.evidence = Evidence(plan.genesis, {person(number).node_id for number in range(plan.first)})
        self.invariants = Invariants(plan.genesis, self.evidence, self.rng)
        self.network = Network(self)
        self.faults = Faults(self)
        self.events = 0
        self.happened: Counter[str] = Counter()
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self._trace: deque[tuple[float, Device | None, str, tuple[Any, ...]]] = deque(maxlen=REMEMBERED)
        self._founder = sign_record(person(0).key, self._certificate(0, "n0", b""))

    # For everything that lives in it.

    def at(self, time: float, act: Callable[..., None], *arguments: Any) -> None:
        """Arranges something for a time."""
        self._sequence += 1
        heapq.heappush(self._queue, (time, self._sequence, act, arguments))

    def after(self, pause_s: float, act: Callable[..., None], *arguments: Any) -> None:
        """Arranges something for later."""
        self.at(self.now + pause_s, act, *arguments)

    def note(self, device: Device | None, what: str, arguments: tuple[Any, ...]) -> None:
        """Remembers an event, for whoever reads about a violation."""
        self.happened[what] += 1
        self._trace.append((self.now, device, what, arguments))

    def add(self, device: Device) -> None:
        """Puts a device into the world."""
        self.devices.append(device)
        self.by_address[device.address] = device
        if device.is_honest:
            self.after(self.rng.uniform(0.0, self.plan.pause_s), self._train, device)

    def certify(self, number: int, name: str) -> Record:
        """The founder's certificate for a person."""
        return sign_record(person(0).key, self._certificate(number, name, self._founder.id))

    # A run.

    def run(self) -> Outcome:
        """Runs it to its end, or to the first violation."""
        with paced(self.plan):
            try:
                self._set_up()
                self._play()
            except Violation as violation:
                trace = tuple(_describe(*event) for event in self._trace)
                return self._outcome(violation.invariant, violation.detail, trace)
        return self._outcome()

    def _set_up(self) -> None:
        certificates = [self._founder]
        for number in range(self.plan.first):
            if number:
                certificates.append(self.certify(number, f"n{number}"))
            self._place(Device(self, f"n{number}", person(number), certificates[-1].id), certificates[-1])
        for number, kind in enumerate(self.plan.hostile):
            record = self.certify(40 + number, kind)
            certificates.append(record)
            self._place(make_hostile(kind, self, f"h{number}", person(40 + number), record.id), record)
        for record in certificates[1:]:
            # The founder let them in before, so it knows of them; the others will hear of it.
            self.devices[0].disk.add_record(record)
        self.devices[0].disk.commit()
        for device in self.devices:
            self.after(self.rng.uniform(0.0, 2.0), device.start)
        self.faults.begin()
        self.at(self.plan.trouble_s, self._calm_down)

    def _place(self, device: Device, certificate: Record) -> None:
        from p2p.encoding import encode

        device.disk.add_record(self._founder)
        device.disk.add_record(certificate)
        if device.name != "n0":
            founder = self.devices[0]
            device.disk.put(f"contact/{founder.identity.transport_public.hex()}", encode(founder.address))
        device.disk.commit()
        self.add(device)

    def _certificate(self, number: int, name: str, issuer: bytes) -> Certificate:
        return Certificate(
            genesis=self.plan.genesis.hash,
            member=person(number).node_id,
            transport=person(number).transport_public,
            name=name,
            issuer=person(0).node_id,
            issuer_certificate=issuer,
            invite=bytes([number]) * 32 if number else b"",
        )

    def _train(self, device: Device) -> None:
        if self.is_calm:
            return
        if device.is_up and device.is_honest:
            device.learn()
        self.after(self.rng.expovariate(1 / self.plan.pause_s), self._train, device)

    def _calm_down(self) -> None:
        self.is_calm = True
        self.note(None, "calm", ())
        self.faults.end()
        for device in self.devices:
            if device.is_up and device.is_honest and self.rng.random() < 0.5:
                device.learn()
        self.after(2.0, self._look, 0)

    def _look(self, settled: int) -> None:
        """Ends the run once everybody agrees; later is too late."""
        settled = settled + 1 if self._trouble() is None else 0
        if settled == 3:
            for device in self.devices:
                if device.is_up and device.is_honest:
                    self.invariants.refold(device)
            self._queue.clear()
        elif self.now > self.plan.trouble_s + self.plan.calm_s:
            raise Violation("convergence", self._trouble() or "nobody came to rest")
        else:
            self.after(1.0, self._look, settled)

    def _trouble(self) -> str | None:
        """What keeps honest members from agreeing on everything; None if nothing does."""
        founder = self.devices[0].member
        assert founder is not None
        roster = founder.context.replica.roster
        members = [device for device in self.devices if device.is_up and device.is_honest]
        members = [device for device in members if roster.is_member(device.identity.node_id)]
        members = [device for device in members if not self._is_stranger(device, members)]
        places = {}
        for device in members:
            assert device.member is not None
            replica = device.member.context.replica
            places[device] = (
                replica.sealed.height,
                replica.head,
                replica.set_digest().hex()[:8],
                device.member.state.hash.hex()[:8],
            )
        if len(set(places.values())) > 1:
            return f"they do not agree: {places}"
        up = {device.identity.node_id for device in self.devices if device.is_up}
        if up.issuperset(roster.members()):
            closed = [device for device in members if device.member is not None and not device.member.may_sign]
            if closed:
                return f"{closed} may not sign, and everybody is there"
        signing = [device for device in members if device.member is not None and device.member.may_sign]
        waiting = [device for device in signing if device.member is not None and device.member.outbox.wins]
        # Whose newest delta got lost with the disk of a copy signs again once others have come to a later round.
        head = founder.context.replica.head
        waiting = [
            device for device in waiting if device.member is not None and device.member.outbox.last.round <= head
        ]
        # Where nobody can be spared, one delta that got lost with a disk ends the clock for good.
        quorum = self.plan.genesis.quorum
        spared = max(len(self._losers(signing)), 1) if quorum > 1 else 0
        if waiting and len(signing) > quorum + spared:
            return f"{waiting} could share what they learned"
        return None

    def _losers(self, members: Sequence[Device]) -> set[bytes]:
        """Authors of deltas that can never enter the set: their payload, or that of one they cite, is on no disk."""
        headers: dict[bytes, Header] = {}
        for device in members:
            assert device.member is not None
            replica = device.member.context.replica
            headers |= {id: replica.header(id) for id in replica._pending}
        disks = [device.disk for device in self.devices if device.is_up]
        lost = {id for id, header in headers.items() if not any(disk.has_blob(header.payload) for disk in disks)}
        lost = {id for id in lost if not headers[id].is_null}
        while more := {id for id, header in headers.items() if id not in lost and not lost.isdisjoint(header.parents)}:
            lost |= more
        return {headers[id].author for id in lost}

    def _is_stranger(self, device: Device, members: Sequence[Device]) -> bool:
        """Whether nobody listens to a member: who let it in is accused, and nobody else heard of it in time."""
        certificate = self.evidence.records[device.certificate].body
        assert isinstance(certificate, Certificate)
        rosters = [other.member.context.replica.roster for other in members if other.member and other is not device]
        if certificate.issuer not in self.evidence.excused or any(r.is_member(certificate.issuer) for r in rosters):
            return False
        return all(roster.certificate_of(device.identity.node_id) is None for roster in rosters)

    def _play(self) -> None:
        while self._queue:
            self.now, _, act, arguments = heapq.heappop(self._queue)
            self.events += 1
            if self.events > MOST_EVENTS:
                raise Violation("bounds", "too many events")
            act(*arguments)

    def _outcome(self, invariant: str = "", detail: str = "", trace: tuple[str, ...] = ()) -> Outcome:
        replicas = [device.member.context.replica for device in self.devices if device.member is not None]
        rounds = max((replica.head for replica in replicas), default=0)
        seals = max((replica.sealed.height for replica in replicas), default=0)
        return Outcome(
            seed=self.plan.seed,
            events=self.events,
            time_s=self.now,
            rounds=rounds,
            seals=seals,
            learned=len(self.learned),
            happened=self.happened,
            invariant=invariant,
            detail=detail,
            trace=trace,
        )


def _describe(time: float, device: Device | None, what: str, arguments: tuple[Any, ...]) -> str:
    who = "" if device is None else device.name
    return f"{time:9.3f} {who:4} {what} {' '.join(map(_short, arguments))}".rstrip()


def _short(argument: object) -> str:
    if isinstance(argument, bytes):
        try:
            text = repr(read_message(argument))
        except P2PError:
            return f"{len(argument)} bytes"
        return text if len(text) < 300 else text[:300] + "..."
    if isinstance(argument, Record):
        return repr(argument.body)
    if isinstance(argument, np.ndarray):
        return "values"
    return str(argument)
