"""Moving a home into a swarm, whole or not at all: the new ledger is built beside the old one and takes its place.

    swarm.next  is complete once its folder has that name (it is written as swarm.building first)
    swarm       the ledger in use
    swarm.left-GENESIS  the ledger of a swarm that this home left; nothing reads it again

A run that dies between the renames is finished by the next one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from p2p.encoding import encode
from p2p.founding import enter, founder_certificate, genesis_of
from p2p.grid import from_fine
from p2p.identity import Identity
from p2p.ledger import Ledger
from p2p.member import Member
from p2p.outbox import Outbox
from p2p.places import Places
from p2p.records import Genesis, Record
from p2p.sealing import name_seal


@dataclass(frozen=True, slots=True)
class Luggage:
    """What a device learned before it came.

    Attributes:
        id: Of the increment that it becomes.
        values: ``[parameters]``, relative to the adapter's start.
        wins: What it was learned from.
    """

    id: str
    values: npt.NDArray[np.float32]
    wins: int


def found(places: Places, identity: Identity, genesis: Genesis, name: str, luggage: Luggage | None) -> None:
    """Founds a swarm with this node as its only member."""
    move_in(places, genesis, [founder_certificate(identity, genesis, name)], {}, luggage)


def move_in(
    places: Places,
    genesis: Genesis,
    records: Sequence[Record],
    contacts: Mapping[bytes, str],
    luggage: Luggage | None,
    *,
    seal: tuple[int, bytes] = (0, b""),
) -> None:
    """Makes a home a member's. What it was a member of before is put aside.

    Args:
        places: The home's.
        genesis: The new swarm's.
        records: What the node begins with; the last is its own certificate.
        contacts: Addresses to begin with, by transport key.
        luggage: What becomes pending there.
        seal: Height and id of a seal that the swarm's must contain; height 0 for none.

    Raises:
        LedgerError: The disk does not take it, or a node runs on the old ledger.
    """
    finish(places)
    building = places.home / "swarm.building"
    shutil.rmtree(building, ignore_errors=True)
    ledger = Ledger(building)
    try:
        for key, address in contacts.items():
            ledger.put(f"contact/{key.hex()}", encode(address))
        name_seal(ledger, *seal)
        if luggage is not None:
            Outbox(genesis, ledger).add(luggage.id, luggage.values, luggage.wins)
        enter(ledger, genesis, records)
    finally:
        ledger.close()
    os.rename(building, places.next_swarm)
    finish(places)


def finish(places: Places) -> None:
    """Goes on where an earlier move was interrupted; nothing if none was."""
    if not places.next_swarm.is_dir():
        return
    if places.swarm.is_dir():
        with Ledger(places.swarm) as old:
            left = genesis_of(old).hash
        target = places.left_swarm(left)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(places.swarm, target)
    os.rename(places.next_swarm, places.swarm)
    with Ledger(places.swarm) as new:
        new.accept_as_own()


def luggage_of(member: Member, genesis: Genesis) -> Luggage | None:
    """What a member of one swarm takes along into another: all it has, if the adapters are the same.

    Args:
        member: Of the swarm that it leaves; its node does not run any more.
        genesis: Of the swarm that it goes to.
    """
    here = member.context.genesis
    same = (here.fingerprint, here.tensors, here.rank, here.alpha) == (
        genesis.fingerprint,
        genesis.tensors,
        genesis.rank,
        genesis.alpha,
    )
    values = from_fine(member.state.vector + member.outbox.pending.values, here)
    if not same or not values.any():
        return None
    wins = member.outbox.wins + sum(own.wins for own in member.outbox.unsealed().values())
    return Luggage(f"swarm-{here.hash.hex()}", values, max(1, wins))
