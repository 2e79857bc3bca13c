"""A newcomer's side of a join: dials the addresses of its ticket with the ticket's keys, asks, and waits.

Not covered: who hands the ticket on. Whoever has it first is let in, once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from p2p import limits
from p2p.encoding import encode
from p2p.errors import NetworkError, TicketError, TrustError, WireError
from p2p.founding import check_chain
from p2p.identity import Identity
from p2p.records import (
    Certificate,
    Genesis,
    Invite,
    PeerRecord,
    Record,
    Signed,
    open_record,
    read_genesis,
    record_id,
)
from p2p.roster import Missing, Roster
from p2p.tickets import Ticket
from p2p.transport import LinkDown, LinkUp, Received, Transport
from p2p.wire import Bye, Join, Joined, Refused, make_join, read_message, write_message

ASK_AGAIN_S = 5.0
REDIAL_S = 1.0

_REFUSALS = {
    "expired": ("the ticket's time is up", "ask for a new one: spearctl invite"),
    "used": ("the ticket was used by another device", "ask for a new one: spearctl invite"),
    "unknown": ("nobody there knows this ticket", "ask for a new one: spearctl invite"),
    "revoked": ("who wrote this ticket may not invite any more, or this device was shut out", "ask another member"),
    "full": ("the swarm is full", None),
}


class Merging(Exception):
    """The founder who wrote the ticket is about to join this device's own swarm, and that one stays."""


@dataclass(frozen=True, slots=True)
class Membership:
    """What a granted join gives.

    Attributes:
        genesis: The swarm's.
        records: What the node begins with: certificates, and peer records of others. The first is the founder's
            certificate, the last its own.
        seal: Height and id of the seal that the ticket names; height 0 for none.
    """

    genesis: Genesis
    records: tuple[Record, ...]
    seal: tuple[int, bytes] = (0, b"")


def invite_id(ticket: Ticket) -> bytes:
    """The id of the invite that a ticket is the secret part of."""
    keys = ticket.join_keys()
    body = Invite(
        genesis=ticket.genesis,
        issuer=ticket.issuer,
        join_key=keys.sign.public_key().public_bytes_raw(),
        join_transport=keys.transport_public,
        expires_s=ticket.expires_s,
    )
    return record_id(encode(body))


async def join(
    ticket: Ticket,
    identity: Identity,
    name: str,
    *,
    leaving: bytes = b"",
    timeout_s: float,
    say: Callable[[str], None] = lambda line: None,
) -> Membership:
    """Asks to become a member until somebody answers.

    Args:
        ticket: What lets this node in.
        identity: The newcomer's.
        name: What it calls itself.
        leaving: Hash of a swarm that it founded and gives up.
        timeout_s: How long to try.
        say: Told what happens, for people.

    Raises:
        NetworkError: Nobody answered in time.
        TicketError: The ticket was refused.
        TrustError: The answer does not hold.
        Merging: The other founder comes here instead.
    """
    keys = ticket.join_keys()
    request = make_join(
        genesis=ticket.genesis,
        invite=invite_id(ticket),
        transport=identity.transport_public,
        name=name[: limits.MAX_NAME_CHARS],
        leaving=leaving,
        key=identity.key,
        join_key=keys.sign,
    )
    known = {endpoint.transport for endpoint in ticket.endpoints}
    transport = Transport(secret=keys.transport_secret, listen=None, admit=lambda key: key in known)
    await transport.start()
    try:
        return await _ask(transport, ticket, identity, request, timeout_s, say)
    finally:
        await transport.close()


async def _ask(
    transport: Transport,
    ticket: Ticket,
    identity: Identity,
    request: Join,
    timeout_s: float,
    say: Callable[[str], None],
) -> Membership:
    deadline = time.monotonic() + timeout_s
    reasons: dict[str, str] = {}
    dialled: dict[int, str] = {}
    for endpoint in ticket.endpoints:
        dialled[transport.dial(endpoint.address, endpoint.transport)] = endpoint.address
    try:
        async with asyncio.timeout(timeout_s):
            asking = asyncio.create_task(_remind(transport, dialled, request))
            try:
                return await _answers(transport, ticket, identity, request, dialled, reasons, say)
            finally:
                asking.cancel()
    except TimeoutError as error:
        tried = "; ".join(f"{address}: {reason}" for address, reason in reasons.items()) or "no answer"
        raise NetworkError(
            f"nobody let this device in within {max(0, timeout_s + time.monotonic() - deadline):.0f} s ({tried})",
            "see that the other device runs `spearctl up` and can be reached, or ask for a ticket with --addr",
        ) from error


async def _remind(transport: Transport, dialled: dict[int, str], request: Join) -> None:
    """Asks again over every link: who passes requests on may have been without the issuer so far."""
    while True:
        await asyncio.sleep(ASK_AGAIN_S)
        for link in [*dialled]:
            transport.send(link, write_message(request))


async def _answers(
    transport: Transport,
    ticket: Ticket,
    identity: Identity,
    request: Join,
    dialled: dict[int, str],
    reasons: dict[str, str],
    say: Callable[[str], None],
) -> Membership:
    keys = {endpoint.address: endpoint.transport for endpoint in ticket.endpoints}
    while True:
        match await transport.next_event():
            case LinkUp(link=link):
                say(f"reached {dialled[link]}, asking to join")
                transport.send(link, write_message(request))
            case LinkDown(link=link, reason=reason):
                address = dialled.pop(link)
                reasons[address] = reason
                await asyncio.sleep(REDIAL_S)
                dialled[transport.dial(address, keys[address])] = address
            case Received(link=link, data=data):
                match read_message(data):
                    case Joined() as answer:
                        return _membership(answer, ticket, identity)
                    case Refused(invite=invite, reason=reason) if invite == request.invite:
                        if reason == "merging":
                            raise Merging
                        raise TicketError(*_REFUSALS[reason])
                    case Bye(reason=reason):
                        reasons[dialled.get(link, "?")] = reason
                    case _:
                        pass  # members greet everybody


def _membership(answer: Joined, ticket: Ticket, identity: Identity) -> Membership:
    genesis = read_genesis(answer.genesis)
    if genesis.hash != ticket.genesis:
        raise TrustError("the swarm that answered is not the ticket's")
    chain = check_chain(genesis, answer.certificates, identity)
    records = *chain[:-1], *_sound(genesis, chain, answer.others), chain[-1]
    return Membership(genesis, records, (ticket.seal_height, ticket.seal))


def _sound(genesis: Genesis, chain: Sequence[Record], others: Iterable[Signed]) -> Iterator[Record]:
    """Those records of others that hold; they are a help, not a condition."""
    roster = Roster(genesis)
    for record in chain:
        roster.add(record)
    for signed in others:
        with suppress(WireError, TrustError, Missing):
            record = open_record(signed, genesis.hash)
            if isinstance(record.body, Certificate | PeerRecord) and roster.add(record):
                yield record
