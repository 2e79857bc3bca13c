"""Conservation: where everything is that a trainer was promised to be kept.

    what is promised = pending + deltas under way + deltas that a seal counts          (in fine steps, and in wins)

is checked at every commit of a home as a change against the one before. A restored backup or a copied home may let go
of what was pending when the backup was made, once, and only because a delta that holds it is known to be shared.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from p2p.encoding import decode
from p2p.grid import FINE_STEPS, Wide
from p2p.outbox import Own
from p2p.pending import Pending
from p2p.records import Genesis, Record
from tests.simulation.disk import Disk
from tests.simulation.evidence import Evidence
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from tests.simulation.device import Device

Increments = dict[str, tuple[Wide, int]]


class Books:
    """The books of one home.

    Args:
        genesis: The swarm's.
        evidence: Tells what deltas hold, and which of them seals count.
        author: Whose home it is.
        increments: All increments there ever were, by id.

    Attributes:
        mine: Ids of own deltas that this home knows of.
        promised: Ids of increments that a trainer was told are safe.
        was_copied: Whether a copy of the home is about, which signs, too.
    """

    def __init__(self, genesis: Genesis, evidence: Evidence, author: bytes, increments: Increments) -> None:
        self._genesis = genesis
        self._evidence = evidence
        self._author = author
        self._increments = increments
        self.promised: set[str] = set()
        self.was_copied = False
        self._taken: set[str] = set()
        self.mine: set[bytes] = set()
        self._signed: set[bytes] = set()
        self._pending: Pending = Pending.empty(genesis)
        self._under_way: dict[bytes, Own] = {}
        self._backup: Pending | None = None

    def restored(self) -> Books:
        """The books of a home that was made from a backup of this one."""
        other = Books(self._genesis, self._evidence, self._author, self._increments)
        other.promised, other._taken, other.mine = set(self.promised), set(self._taken), set(self.mine)
        other._signed = set(self._signed)
        other._pending, other._under_way, other._backup = self._pending, dict(self._under_way), self._pending
        return other

    def signed_rounds(self) -> dict[bytes, int]:
        """Rounds of what this home signed itself, by id."""
        headers = ((id, self._evidence.header(id)) for id in self._signed)
        return {id: header.round for id, header in headers if header is not None}

    def check_promises(self, device: Device) -> None:
        """What was promised is on the disk."""
        if not self.promised <= self._taken:
            raise Violation("conservation", f"{device} lost increments {sorted(self.promised - self._taken)}")

    def committed(self, disk: Disk, new: list[Record], device: Device) -> None:
        """Checks a commit.

        Args:
            disk: What the home holds now.
            new: Records that nobody had before.
            device: For people.
        """
        pending, own, taken = self._look(disk)
        signed = {record.id for record in new}
        if any(self._is_own(id) for id in signed) and not device.could_know_better():
            self._evidence.excused.add(self._author)
        appeared, gone = own.keys() - self._under_way.keys(), self._under_way.keys() - own.keys()
        values, wins = pending.values - self._pending.values, pending.wins - self._pending.wins
        for id in taken - self._taken:
            fine, count = self._increments[id]
            values, wins = values - fine, wins - count
        if appeared - signed:
            device.world.note(device, "adopts a delta", ())
        for id in appeared & signed:
            if self._author not in self._evidence.excused:
                self._check_not_twice(self.mine | appeared, device)
            values = values + FINE_STEPS * self._evidence.delta(id)
            wins += own[id].wins
        values, wins = self._left_out(sorted(gone - self._evidence.sealed), values, wins, device)
        for id in sorted(
            appeared - signed
        ):  # one that a restored home signed again, exactly as before, is the same one
            again = values + FINE_STEPS * self._evidence.delta(id) if self._evidence.header(id) else values
            if wins + own[id].wins == 0 and not again.any():
                values, wins = again, 0
        self._settle(values, wins, bool(appeared - signed), device)
        self._signed |= {id for id in signed if self._is_own(id)}
        self.mine |= appeared | {id for id in signed if self._is_own(id)}
        self._pending, self._under_way, self._taken = pending, own, taken

    def _left_out(self, ids: list[bytes], values: Wide, wins: int, device: Device) -> tuple[Wide, int]:
        """Takes account of own deltas that a seal left out, which are pending again.

        What a copy of the home, or the home before its backup was restored, has signed may never have come here, and
        came too late for a seal: of those, as few are lost as explain the pending learning.
        """
        foreign = [id for id in ids if id not in self._signed]
        choices = [frozenset(lost) for count in range(len(foreign) + 1) for lost in combinations(foreign, count)]
        found = {}
        for lost in choices:
            back = [id for id in ids if id not in lost]
            rest = values - FINE_STEPS * sum((self._evidence.delta(id) for id in back), np.zeros_like(values))
            found[lost] = rest, wins - sum(self._under_way[id].wins for id in back)
        explained = [lost for lost, (rest, count) in found.items() if not rest.any() and count == 0]
        lost = explained[0] if explained else frozenset()
        for id in ids:
            device.world.note(device, "loses a delta of a copy" if id in lost else "gets a delta back", ())
        return found[lost]

    def _settle(self, values: Wide, wins: int, adopted: bool, device: Device) -> None:
        """What is left over must be nothing, or what a backup may let go of."""
        if not values.any() and wins == 0:
            if adopted and self._backup is None and not self.was_copied:
                raise Violation("conservation", f"{device} did not know a delta of its own")
            return
        backup = self._backup
        if backup is not None and np.array_equal(values, -backup.values) and wins == -backup.wins:
            self._backup = Pending.empty(self._genesis)
            device.world.note(device, "lets go of its backup", ())
            return
        raise Violation("conservation", f"{device}: {wins:+} wins and {values} in fine steps out of nowhere")

    def _check_not_twice(self, known: set[bytes], device: Device) -> None:
        """What a restored home signs must not hold what it had shared already, before it was restored.

        What it adopts at the same moment, it knows.
        """
        assert device.member is not None
        sealed_round = device.member.context.replica.sealed.round
        for other in self._evidence.shared.get(self._author, set()) - known:
            header = self._evidence.header(other)
            assert header is not None
            counts = other in self._evidence.sealed or header.round > sealed_round
            if self._backup is not None and self._backup.values.any() and counts:
                raise Violation("conservation", f"{device} signs what it had shared before it was restored")

    def _is_own(self, id: bytes) -> bool:
        header = self._evidence.header(id)
        return header is not None and header.author == self._author

    def _look(self, disk: Disk) -> tuple[Pending, dict[bytes, Own], set[str]]:
        name = disk.get("pending")
        pending = Pending.from_bytes(disk.read_blob(name), self._genesis) if name else Pending.empty(self._genesis)
        own = {}
        for key in disk.keys("own/delta/"):
            raw = disk.get(key)
            assert raw is not None
            own[bytes.fromhex(key.removeprefix("own/delta/"))] = decode(raw, Own, 1024)
        return pending, own, {key.removeprefix("increment/") for key in disk.keys("increment/")}
