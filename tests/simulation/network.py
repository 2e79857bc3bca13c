"""Links between devices: in order and with latency as over TCP, and worse when a plan says so.

A link has two ends with a number each. What is under way when a link breaks still arrives; what crosses a partition
waits, as TCP would make it wait, until the partition heals or one end gives the link up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2p.wire import Message

if TYPE_CHECKING:
    from tests.simulation.device import Device
    from tests.simulation.world import World


@dataclass(eq=False)
class End:
    """One end of a link.

    Attributes:
        number: By which its device knows the link.
        device: At this end.
        key: That the other end shows.
        dialled: Whether this end dialled.
        run: Of its device when the link came up; what is left of an earlier run hears nothing.
        other: The other end.
        is_open: Whether this end still uses it.
        arrives: When the last message that was sent from here arrives.
        held: What waits for a partition to heal.
    """

    number: int
    device: Device
    key: bytes
    dialled: bool
    run: int
    is_open: bool = True
    arrives: float = 0.0
    held: list[tuple[bytes, Message | None]] = field(default_factory=list)
    other: End = field(init=False)


class Network:
    """All links.

    Attributes:
        groups: By device, the side of a partition it is on; empty without one.
        is_calm: Whether nothing goes wrong any more.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.rng
        self._ends: dict[int, End] = {}
        self._next = 1
        self.groups: dict[Device, int] = {}
        self.is_calm = False

    def reaches(self, one: Device, other: Device) -> bool:
        """Whether no partition lies between two devices."""
        return self.groups.get(one, 0) == self.groups.get(other, 0)

    def latency(self) -> float:
        """Of a message."""
        return self._rng.uniform(*self._world.plan.latency_s)

    def dial(self, dialler: Device, address: str, expected: bytes, shown: bytes) -> None:
        """Dials; comes to nothing where nobody with that key can be reached."""
        target, run = self._world.by_address.get(address), dialler.run

        def connect() -> None:
            if target is None or not target.is_up or not dialler.is_running(run) or not self.reaches(dialler, target):
                return
            if target.identity.transport_public != expected or target is dialler:
                return
            ends = End(self._next, dialler, expected, True, run), End(self._next + 1, target, shown, False, target.run)
            self._next += 2
            for end, other in (ends, ends[::-1]):
                end.other = other
                self._ends[end.number] = end
                self._world.after(self.latency(), self._up, end)

        self._world.after(self.latency(), connect)

    def send(self, device: Device, number: int, raw: bytes, message: Message | None = None) -> None:
        """Sends a message from one end of a link: as it travels, and for evidence as it was meant."""
        end, plan = self._ends.get(number), self._world.plan
        if end is None or not end.is_open or end.device is not device:
            return
        if not self.is_calm and self._rng.random() < plan.loss:
            return
        times = 2 if not self.is_calm and self._rng.random() < plan.duplication else 1
        for _ in range(times):
            arrives = self._world.now + self.latency()
            if not self.is_calm and self._rng.random() < plan.reordering:
                arrives += self._rng.uniform(0.0, 1.0)
            else:
                arrives = end.arrives = max(arrives, end.arrives + 1e-6)
            self._world.at(arrives, self._arrive, end.other, raw, message)

    def other_end(self, number: int) -> Device | None:
        """The device at the other end of a link."""
        end = self._ends.get(number)
        return end.other.device if end is not None else None

    def close(self, number: int) -> None:
        """Ends a link from one side; the other side hears of it after all that was sent."""
        end = self._ends.pop(number, None)
        if end is not None and end.is_open:
            end.is_open = False
            self._world.at(max(end.arrives, self._world.now) + self.latency(), self._down, end.other)

    def vanish(self, device: Device) -> None:
        """Ends all links of a device that is gone. Some of the others do not notice."""
        for end in [end for end in self._ends.values() if end.device is device]:
            end.other.held.clear()  # it waited at the sender's
            if self._rng.random() < 0.7 or self.is_calm:
                self.close(end.number)
            else:
                end.is_open = False
                del self._ends[end.number]

    def cut(self, device: Device) -> None:
        """Breaks one link of a device, at both ends."""
        numbers = sorted(end.number for end in self._ends.values() if end.device is device)
        if numbers:
            end = self._ends[self._rng.choice(numbers)]
            self._down(end.other)
            self._down(end)

    def part(self, groups: dict[Device, int]) -> None:
        """Parts the devices. Half of the links that cross it break at once."""
        self.groups = groups
        for end in [*self._ends.values()]:
            if end.dialled and not self.reaches(end.device, end.other.device) and self._rng.random() < 0.5:
                self._down(end.other)
                self._down(end)

    def heal(self) -> None:
        """Ends a partition; what waited goes on."""
        self.groups = {}
        for end in [*self._ends.values()]:
            held, end.held = end.held, []
            for raw, message in held:
                self._world.after(self.latency(), self._arrive, end, raw, message)

    def _up(self, end: End) -> None:
        if end.is_open and end.device.is_running(end.run):
            end.device.link_up(end.number, end.key, dialled=end.dialled)

    def _arrive(self, end: End, raw: bytes, message: Message | None) -> None:
        if not end.is_open or not end.device.is_running(end.run):
            return
        if not self.reaches(end.device, end.other.device):
            end.held.append((raw, message))
            return
        end.device.received(end.number, raw, message)

    def _down(self, end: End) -> None:
        self._ends.pop(end.number, None)
        if end.is_open:
            end.is_open = False
            if end.device.is_running(end.run):
                end.device.link_down(end.number)
