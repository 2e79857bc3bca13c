"""What must hold after every event, and what must hold in the end."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from p2p import fold, limits
from p2p.codec import most_payload_bytes
from p2p.downloads import MOST_AT_ONCE
from p2p.opening import open_context
from p2p.records import Genesis
from p2p.replica import Replica
from tests.memory import MemoryStorage
from tests.simulation.evidence import Evidence
from tests.simulation.oracle import Oracle
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from tests.simulation.device import Device


class Invariants:
    """Looks at honest devices.

    Args:
        genesis: The swarm's.
        evidence: Of all devices.
        rng: Chooses what is looked at only now and then.
    """

    def __init__(self, genesis: Genesis, evidence: Evidence, rng: random.Random) -> None:
        self._genesis = genesis
        self._evidence = evidence
        self._oracle = Oracle(genesis, evidence)
        self._rng = rng
        self._versions: dict[tuple[Device, int], int] = {}
        self._seals: dict[int, bytes] = {}
        self._states: dict[object, bytes] = {}
        self._checked: set[bytes] = set()
        self._accused: set[bytes] = set()

    def stepped(self, device: Device) -> None:
        """A device took a step."""
        if not device.is_honest:
            return
        assert device.member is not None
        replica = device.member.context.replica
        if self._rng.random() < 0.05:
            self._check_bounds(device)
        if self._versions.get((device, device.run)) == replica.version:
            return
        self._versions[device, device.run] = replica.version
        self._check_seal(device, replica)
        self._check_clock(device, replica)
        self._check_state(device, replica)
        if self._rng.random() < 0.02:
            self.refold(device)
        for member in replica.roster.equivocators - self._accused:
            self._accused.add(member)
            device.world.note(device, "knows an equivocator", ())
        accused = replica.roster.equivocators & self._evidence.honest - self._evidence.excused
        if accused:
            raise Violation("equivocation", f"{device} holds a proof against {[id.hex()[:8] for id in accused]}")
        if device.member.sealing.mismatch or replica.seals.forked:
            raise Violation("seal agreement", f"{device}: {device.member.sealing.mismatch} {replica.seals.forked}")
        device.books.check_promises(device)

    def _check_seal(self, device: Device, replica: Replica) -> None:
        sealed = replica.sealed
        if device.identity.node_id == self._genesis.sealer:
            return  # a restored one may forget a seal that nobody else saw; what others see is held against it
        if self._seals.setdefault(sealed.height, sealed.id) != sealed.id:
            raise Violation("seal agreement", f"{device} took another seal of height {sealed.height}")

    def _check_clock(self, device: Device, replica: Replica) -> None:
        """Nobody races ahead: each delta cites enough others of the round before."""
        for round in replica.rounds():
            for id in replica.in_round(round):
                if id in self._checked or round == 1 or round <= replica.sealed.round + 1:
                    continue
                self._checked.add(id)
                header = replica.header(id)
                cited = [self._evidence.header(parent) for parent in header.parents]
                others = {
                    parent.author
                    for parent in cited
                    if parent is not None and parent.round == round - 1 and parent.author != header.author
                }
                if len(others) < self._genesis.quorum or len(others) < len(header.parents):
                    raise Violation("clock", f"{device} took a delta of round {round} that cites {len(others)} others")

    def _check_state(self, device: Device, replica: Replica) -> None:
        """Same seal and same composition, same state, whoever has it and however it came about."""
        assert device.member is not None
        composition = tuple((round, replica.composition(round)) for round in replica.rounds())
        composition = tuple((round, parts) for round, parts in composition if parts)
        key, state = (replica.sealed.id, composition), device.member.state
        if key not in self._states:
            expected = self._oracle.state(replica.sealed.id, composition)
            if not np.array_equal(expected, state.vector):
                raise Violation("purity", f"{device} has the state {state.vector} where {expected} is right")
            self._states[key] = state.hash
        if self._states[key] != state.hash:
            raise Violation("purity", f"{device} has another state than others with the same set")
        for _, parts in composition:
            if any(weight > self._genesis.weight_cap for _, weight in parts):
                raise Violation("purity", f"{device} counts a delta above the cap")

    def _check_bounds(self, device: Device) -> None:
        assert device.member is not None
        replica, disk = device.member.context.replica, device.disk
        headers = [replica.header(record.id) for record in replica.unsealed()]
        low, high = replica.sealed.round, replica.sealed.round + limits.MOST_UNSEALED_ROUNDS
        if not all(low < header.round <= min(high, replica.head + limits.ROUNDS_AHEAD) for header in headers):
            raise Violation("bounds", f"{device} holds a header of a round out of bounds")
        for author in sorted({header.author for header in headers}):
            waiting = [h for h in headers if h.author == author]
            held = sum(1 for record in replica.pending_of(author))
            if held > limits.MAX_PENDING_HEADERS_PER_AUTHOR + 4:
                raise Violation("bounds", f"{device} holds {held} of {len(waiting)} headers of one author that wait")
        if len(device.member.downloads) > MOST_AT_ONCE:
            raise Violation("bounds", f"{device} fetches {len(device.member.downloads)} blobs at once")
        stray = disk.blob_names() - device.member.referenced()
        if stray:
            raise Violation("bounds", f"{device} keeps {len(stray)} blobs that nothing needs: {sorted(stray)[0].hex()}")
        each = most_payload_bytes(self._genesis.tensors)
        payloads = {header.payload for header in headers}
        most = (
            (len(payloads) + 64) * each
            + 64 * 1024
            + sum(len(self._evidence.blobs.get(name, b"")) for name in device.member.referenced())
        )
        if disk.bytes_used() > most:
            raise Violation("bounds", f"{device} keeps {disk.bytes_used():,} bytes of blobs")

    def refold(self, device: Device) -> None:
        """What is on the disk, read and folded again in any order, gives what grew step by step."""
        assert device.member is not None
        here, snapshot = device.member.context.replica, device.disk.snapshot()
        places = [*range(len(snapshot.records))]
        self._rng.shuffle(places)
        records = [(place, signed) for place, (_, signed) in zip(places, snapshot.records.values(), strict=True)]
        disk = MemoryStorage()
        disk.restore(replace(snapshot, records=dict(zip(snapshot.records, records, strict=True))))
        author = device.member.context.author
        again = open_context(self._genesis, author, disk, random.Random(0), 0.0, 0).replica
        for round in sorted({*here.rounds(), *again.rounds()}):
            if here.in_round(round) != again.in_round(round) or here.composition(round) != again.composition(round):
                raise Violation("purity", f"{device} holds another set of round {round} than it would after a restart")
        self._refold_state(device, here)

    def _refold_state(self, device: Device, replica: Replica) -> None:
        assert device.member is not None
        state = device.member.state
        rounds = [round for round in replica.rounds() if replica.composition(round)]
        self._rng.shuffle(rounds)
        vector = state.sealed_vector()
        for round in rounds:
            parts = [
                fold.Part(id, replica.header(id).author, weight, partial(state.load, id))
                for id, weight in replica.composition(round)
            ]
            self._rng.shuffle(parts)
            vector = fold.add(vector, fold.fold_round(self._genesis, round, parts))
        if not np.array_equal(vector, state.vector):
            raise Violation("purity", f"{device} comes to another state when it folds again")
