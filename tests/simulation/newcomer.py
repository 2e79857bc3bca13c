"""How a device joins: it dials the addresses of a ticket with the ticket's keys, asks, and becomes a member."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2p.encoding import encode
from p2p.records import Record, open_record
from p2p.sealing import name_seal
from p2p.tickets import JoinKeys
from p2p.wire import Joined, Refused, make_join, read_message, write_message

if TYPE_CHECKING:
    from tests.simulation.device import Device


@dataclass(frozen=True)
class Ticket:
    """What a newcomer is given.

    Attributes:
        invite: Id of the invite.
        keys: Join keys.
        contacts: Addresses and transport keys, the issuer's first.
        seal: Height and id of the issuer's last seal.
    """

    invite: bytes
    keys: JoinKeys
    contacts: tuple[tuple[str, bytes], ...]
    seal: tuple[int, bytes]


class Newcomer:
    """The newcomer's side of a join.

    Args:
        device: That wants to join.
        ticket: What lets it in.
    """

    def __init__(self, device: Device, ticket: Ticket) -> None:
        self._device = device
        self._ticket = ticket
        self._links: set[int] = set()
        self.was_refused = ""

    def begin(self) -> None:
        """Dials everybody on the ticket, and asks again now and then."""
        self._device.run += 1
        self._device.newcomer = self
        self._try_again(self._device.run)

    def link_up(self, number: int) -> None:
        self._links.add(number)
        self._ask(number)

    def link_down(self, number: int) -> None:
        self._links.discard(number)

    def received(self, number: int, raw: bytes) -> None:
        match read_message(raw):
            case Joined(certificates=certificates, others=others):
                opened = [open_record(signed, self._device.world.plan.genesis.hash) for signed in certificates]
                self._come_in(opened, [open_record(signed, self._device.world.plan.genesis.hash) for signed in others])
            case Refused(reason=reason):
                self.was_refused = reason
            case _:
                return

    def _try_again(self, run: int) -> None:
        device = self._device
        if device.newcomer is not self or device.run != run:
            return
        if self._links:
            for number in sorted(self._links):
                self._ask(number)
        else:
            for address, key in self._ticket.contacts:
                device.world.network.dial(device, address, key, self._ticket.keys.transport_public)
        device.world.after(device.rng.uniform(2.0, 3.0), self._try_again, run)

    def _ask(self, number: int) -> None:
        device = self._device
        join = make_join(
            genesis=device.world.plan.genesis.hash,
            invite=self._ticket.invite,
            transport=device.identity.transport_public,
            name=device.name,
            leaving=b"",
            key=device.identity.key,
            join_key=self._ticket.keys.sign,
        )
        device.world.network.send(device, number, write_message(join))

    def _come_in(self, chain: list[Record], others: list[Record]) -> None:
        device = self._device
        for record in {record.id: record for record in (*chain, *others)}.values():
            device.disk.add_record(record)
        for address, key in self._ticket.contacts:
            device.disk.put(f"contact/{key.hex()}", encode(address))
        name_seal(device.disk, *self._ticket.seal)
        device.disk.commit()
        device.certificate = chain[-1].id
        for number in sorted(self._links):
            device.world.network.close(number)
        device.newcomer = None
        device.world.note(device, "has joined", ())
        device.start()
