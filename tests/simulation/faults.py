"""What goes wrong with devices and between them: when, and with whom, is drawn from the seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.records import Certificate, Revocation, sign_record
from p2p.tickets import new_invite
from tests.simulation.books import Books
from tests.simulation.device import Device
from tests.simulation.newcomer import Newcomer, Ticket
from tests.simulation.people import person

if TYPE_CHECKING:
    from tests.memory import Snapshot
    from tests.simulation.world import World

MEAN_PAUSE_S = {
    "cut": 4.0,
    "partition": 12.0,
    "crash": 8.0,
    "power-cut": 5.0,
    "restore": 15.0,
    "copy": 20.0,
    "leave": 40.0,
    "revoke": 30.0,
    "skew": 10.0,
}


class Faults:
    """Lets things go wrong until it is told to stop.

    Args:
        world: Where.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.rng
        self._backups: dict[Device, tuple[Snapshot, Books]] = {}
        self._revoked: set[bytes] = set()
        self._is_over = False

    def begin(self) -> None:
        """Arranges what will happen."""
        for kind in sorted(self._world.plan.faults & MEAN_PAUSE_S.keys()):
            self._later(kind)
        if self._world.plan.faults & {"restore"}:
            self._world.after(self._rng.uniform(2.0, 6.0), self._back_up)
        for number in range(self._world.plan.joining):
            self._world.after(self._rng.uniform(0.5, self._world.plan.trouble_s * 0.8), self._invite, number)

    def end(self) -> None:
        """Mends what can be mended."""
        self._is_over = True
        world = self._world
        world.network.is_calm = True
        world.network.heal()
        for device in [*world.devices]:
            device.disk.fuse, device.power_goes = None, False
            if device.is_copy:
                device.go()
                device.has_left = True
            elif not device.is_up and device.newcomer is None and not device.has_left and device.certificate:
                device.start()

    def _later(self, kind: str) -> None:
        def happen() -> None:
            if not self._is_over:
                getattr(self, "_" + kind.replace("-", "_"))()
                self._later(kind)

        self._world.after(self._rng.expovariate(1 / MEAN_PAUSE_S[kind]), happen)

    def _one(self) -> Device | None:
        """An honest device that is up."""
        found = [device for device in self._world.devices if device.is_up and device.is_honest]
        return self._rng.choice(found) if found else None

    def _cut(self) -> None:
        device = self._one()
        if device is not None:
            self._world.note(device, "loses a link", ())
            self._world.network.cut(device)

    def _partition(self) -> None:
        self._world.note(None, "partition", ())
        self._world.network.part({device: self._rng.randint(0, 1) for device in self._world.devices})
        self._world.after(self._rng.uniform(2.0, 15.0), self._world.network.heal)

    def _crash(self) -> None:
        device = self._one()
        if device is not None:
            self._world.note(device, "crashes", ())
            device.go()
            self._switch_on_later(device)

    def _power_cut(self) -> None:
        """In the middle of a step, or between its commit and its messages."""
        device = self._one()
        if device is None:
            return
        if self._rng.random() < 0.3:
            device.power_goes = True
        else:
            device.disk.fuse = self._rng.randint(0, 30)
        self._world.after(3.0, self._see_that_it_runs, device)

    def _see_that_it_runs(self, device: Device) -> None:
        device.disk.fuse = None
        if not device.is_up and not device.has_left and device.newcomer is None:
            device.start()

    def _back_up(self) -> None:
        device = self._one()
        if device is not None and not device.disk.is_suspect:
            self._world.note(device, "is backed up", ())
            self._backups[device] = device.disk.snapshot(), device.books.restored()
        if not self._is_over:
            self._world.after(self._rng.uniform(2.0, 6.0), self._back_up)

    def _restore(self) -> None:
        found = [device for device in self._backups if not device.has_left]
        if not found:
            return
        device = self._rng.choice(found)
        snapshot, books = self._backups.pop(device)
        self._world.note(device, "is restored", ())
        device.go()
        device.restore(snapshot, books)
        self._switch_on_later(device)

    def _copy(self) -> None:
        original = self._one()
        if original is None or original.disk.is_suspect or any(device.is_copy for device in self._world.devices):
            return
        self._world.note(original, "is copied", ())
        copy = Device(self._world, f"{original.name}c", original.identity, original.certificate)
        copy.is_copy = original.books.was_copied = True
        copy.restore(original.disk.snapshot(), original.books.restored())
        self._world.add(copy)
        self._world.after(self._rng.uniform(0.0, 3.0), copy.start)
        if self._rng.random() < 0.5:
            self._world.after(self._rng.uniform(0.0, 10.0), self._crash_of, original)

    def _crash_of(self, device: Device) -> None:
        if device.is_up and not self._is_over:
            device.go()
            self._world.after(self._rng.uniform(5.0, 20.0), self._see_that_it_runs, device)

    def _leave(self) -> None:
        device = self._one()
        honest = [device for device in self._world.devices if device.is_honest and not device.has_left]
        if device is not None and device.name != "n0" and len(honest) > 3:
            self._world.note(device, "leaves", ())
            device.go()
            device.has_left = True

    def _revoke(self) -> None:
        """The founder, or who let a member in, ends its membership; sometimes from a round on that is long past."""
        issuer = self._one()
        if issuer is None or issuer.member is None:
            return
        roster, head = issuer.member.context.replica.roster, issuer.member.context.replica.head
        mine = [
            body
            for body in (record.body for record in roster.certificates())
            if isinstance(body, Certificate) and body.member != body.issuer
            if issuer.name == "n0" or body.issuer == issuer.identity.node_id
        ]
        if mine and len(roster.members()) > 4:
            self.revoke(issuer, self._rng.choice(mine).member, max(1, head + 1 - self._rng.choice((0, 0, 3, 9))))

    def revoke(self, issuer: Device, who: bytes, from_round: int) -> None:
        """Ends a membership."""
        body = Revocation(
            genesis=self._world.plan.genesis.hash,
            member=who,
            issuer=issuer.identity.node_id,
            from_round=from_round,
            reason="drawn",
        )
        issuer.say(sign_record(issuer.identity.key, body))

    def _skew(self) -> None:
        device = self._rng.choice(self._world.devices)
        device.skew_s = self._rng.choice((-100_000, -100, 0, 100, 100_000))

    def _switch_on_later(self, device: Device) -> None:
        def start() -> None:
            if not device.is_up and not device.has_left:
                device.start()

        self._world.after(self._rng.uniform(1.0, 6.0), start)

    # Newcomers.

    def _invite(self, number: int) -> None:
        """Somebody who may writes a ticket, and a newcomer dials whoever is on it, or those who pass requests on."""
        world = self._world
        inviters = [
            device
            for device in world.devices
            if device.is_up and device.is_honest and not device.is_copy and device.member is not None
            if device.member.context.replica.roster.may_invite(device.identity.node_id)
        ]
        if not inviters:
            if not self._is_over:
                world.after(1.0, self._invite, number)
            return
        issuer = self._rng.choice(inviters)
        assert issuer.member is not None
        genesis, sealed = world.plan.genesis.hash, issuer.member.context.replica.sealed
        record, keys = new_invite(
            issuer.identity, genesis, life_s=50_000, now_s=issuer.clock_s, secret=self._rng.randbytes(32)
        )
        issuer.say(record)
        lasting = [device for device in world.devices if device.is_honest and device.certificate and not device.is_copy]
        told = self._rng.sample(lasting, min(len(lasting), self._rng.randint(1, 2)))
        if not any(device.name in ("n0", issuer.name) for device in told):
            told.append(world.devices[0])  # which never leaves for good
        contacts = tuple((device.address, device.identity.transport_public) for device in told)
        device = Device(world, f"j{number}", person(20 + number))
        world.add(device)
        world.evidence.honest.add(device.identity.node_id)
        Newcomer(device, Ticket(record.id, keys, contacts, (sealed.height, sealed.id))).begin()
