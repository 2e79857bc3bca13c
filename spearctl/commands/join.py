"""`spearctl join`: makes this device a member of a swarm, with a ticket, and runs its node."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from spearctl import parting, serving, shapes, sharing, swarm
from spearctl.command import command, group
from spearctl.config import Config
from spearctl.errors import UsageError
from spearctl.output import Page, Result
from spearctl.run import Run

if TYPE_CHECKING:
    from p2p.identity import Identity
    from p2p.node import Settings
    from p2p.tickets import Ticket

commands = group()

POLL_S = 0.2
LATE_S = 10.0
"""After a join's own time is up, its node has so long to say so."""


@dataclass(frozen=True, slots=True)
class JoinResult(Result):
    """The swarm that this device belongs to, and how it came there.

    Attributes:
        swarm_name: Of the swarm.
        genesis: Its hash, in hex.
        joined: Whether this run made the device a member.
        stays: Whether the ticket's founder came here instead.
        fits: Whether the swarm's adapters are this home's.
        had_learned: Whether the device had learned something before.
        running: Whether the node runs.
        next_lines: What comes next.
    """

    swarm_name: str
    genesis: str
    joined: bool
    stays: bool
    fits: bool
    had_learned: bool
    running: bool
    next_lines: tuple[str, ...]

    def data(self) -> Mapping[str, Any]:
        return {
            "swarm": {"name": self.swarm_name, "genesis": self.genesis},
            "joined": self.joined,
            "stays": self.stays,
            "fits": self.fits,
            "took_along": self.had_learned and self.fits,
            "running": self.running,
        }

    def render(self, console: Page) -> None:
        if not self.running:
            console.print("the node was stopped")
            return
        if self.stays:
            console.print(f"who wrote the ticket joined this device's swarm, {self.swarm_name}, so nothing was changed")
        elif self.joined:
            console.title(f"This device is a member of the swarm {self.swarm_name} now, and its node runs")
        else:
            console.print(f"this device is a member of the swarm {self.swarm_name} already; nothing was changed")
        if self.had_learned and self.fits:
            console.print("what it learned before is pending there: the next round shares it")
        elif self.had_learned:
            console.print("what it learned before stays on this device, as before")
        if not self.fits:
            console.health([sharing.UNFIT])
        console.next_steps(*self.next_lines)


@command(commands, "join")
def join(
    run: Run,
    ticket: Annotated[str, typer.Argument(metavar="TICKET|FILE|-", help="The ticket, a file with it, or - for stdin.")],
    detach: Annotated[bool, typer.Option("--detach", help="Run the node in the background, and return.")] = False,
    lan: Annotated[
        bool, typer.Option("--lan", help="Look in the local network for those who may let this device in, too.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=1.0, metavar="SECONDS", help="How long to try.")] = 60.0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask what happens to what was learned.")] = False,
) -> JoinResult:
    """Joins a swarm with a ticket from `spearctl invite`, then runs the node like `spearctl up`.

    What this device has learned so far becomes pending in the swarm, if that has the same model. A founder whose swarm
    has no other members may join another one. With --lan, the node is run like `spearctl up --lan`.
    """
    from p2p.tickets import read, read_source

    config = run.config()
    reached = serving.settings(config, lan=lan)
    said = read(read_source(ticket, sys.stdin))
    who = swarm.identity(run, make=True)
    if swarm.places(run).is_member:
        return _from_swarm(run, config, said, reached, detach=detach, timeout_s=timeout, yes=yes)
    had_learned = sharing.has_learned(run)
    if had_learned:
        run.confirm(
            f"this device has learned by itself. If the swarm {said.name} has the same model, that becomes pending"
            " there and is shared with its members; if not, it stays here. Join?",
            yes=yes,
        )
    is_news = enter(run, config, _look_nearby(run, said, reached), who, timeout_s=timeout)
    return _result(run, config, reached, joined=True, had_learned=had_learned and is_news, detach=detach)


def _look_nearby(run: Run, ticket: Ticket, reached: Settings) -> Ticket:
    """The ticket, with the addresses at which its members are found in the local network, if that is asked for.

    Only whom the ticket names is looked for: anybody may announce anything, and anybody else could turn it down.
    """
    from p2p import lan, limits
    from p2p.nearby import LOOK_S, networks
    from p2p.tickets import Endpoint

    if not reached.lan:
        return ticket
    named = {endpoint.transport for endpoint in ticket.endpoints}
    run.say("looking in the local network")
    found = lan.browse(LOOK_S, networks(reached.listen), enough=lambda one: one.transport_public in named)
    near = [
        Endpoint(address, one.transport_public)
        for one in found
        for address in one.addresses
        if one.transport_public in named
    ]
    run.say("found there: " + ", ".join(endpoint.address for endpoint in near) if near else "nobody was found there")
    endpoints = dict.fromkeys((*near[: limits.MAX_NEARBY], *ticket.endpoints))
    return msgspec.structs.replace(ticket, endpoints=tuple(endpoints)[: limits.MAX_ADDRESSES])


def enter(run: Run, config: Config, ticket: Ticket, who: Identity, *, timeout_s: float) -> bool:
    """Asks to join and, once let in, makes this home a member's.

    Returns:
        Whether what it learned, if it did, is news to the swarm. It is not where this home left that swarm before, and
        has learned nothing since.

    Raises:
        NetworkError: Nobody answered in time.
        TicketError: The ticket was refused.
        HomeLockedError: Something is trained here.
    """
    from p2p import joining, moving
    from training.history import History

    with run.home.training_lock("join"):
        run.say(f"joining the swarm {ticket.name}")
        membership = asyncio.run(joining.join(ticket, who, config.name, timeout_s=timeout_s, say=run.detail))
        genesis, learned, is_news = membership.genesis, None, True
        known = parting.known(run, genesis.hash)
        if shapes.fits(genesis, config) and known is not None:
            is_news = sharing.bring_back(run, config, shapes.shape_of(genesis), known)
        elif shapes.fits(genesis, config):
            learned = sharing.luggage(run, config, shapes.shape_of(genesis))
        else:
            with History(run.home.history_path) as history:
                sharing.stay_behind(run, history)
        contacts = {endpoint.transport: endpoint.address for endpoint in reversed(ticket.endpoints)}
        moving.move_in(swarm.places(run), genesis, membership.records, contacts, learned, seal=membership.seal)
        return is_news


def _from_swarm(
    run: Run, config: Config, ticket: Ticket, reached: Settings, *, detach: bool, timeout_s: float, yes: bool
) -> JoinResult:
    """Joins from another swarm: only its founder, and only as long as nobody else is in it."""
    from p2p.errors import TrustError

    with swarm.view(run) as view:
        found, had_learned = view.overview, bool(view.learned().any())
    here = found["swarm"]
    if here["genesis"] == ticket.genesis.hex() and not here["member"]:
        raise TrustError(
            f"this device is no member of the swarm {here['name']} any more: its membership was revoked for good",
            "to join as a new device, make another home: spearctl --home DIR init",
        )
    if here["genesis"] == ticket.genesis.hex():
        return _result(run, config, reached, joined=False, had_learned=False, detach=detach)
    others = [peer for peer in found["peers"] if peer["state"] != "revoked" and peer["id"] != ticket.issuer.hex()]
    if not here["founder"] or others:
        raise UsageError(
            f"this home belongs to the swarm {here['name']}, and a home belongs to one swarm",
            "make another home for the other one: spearctl --home DIR init",
        )
    run.confirm(
        f"this device founded the swarm {here['name']}. To join {ticket.name} it gives that up; if the model is the"
        " same, what it learned becomes pending there. Join?",
        yes=yes,
    )
    if not swarm.is_running(run):
        serving.start(run, _words(reached))
    swarm.ask(run, "join", ticket=_text(_look_nearby(run, ticket, reached)), timeout_s=timeout_s)
    stays = _wait_for_join(run, ticket, timeout_s)
    had_learned = had_learned and not stays
    return _result(run, config, reached, joined=not stays, had_learned=had_learned, detach=True, stays=stays)


def _wait_for_join(run: Run, ticket: Ticket, timeout_s: float) -> bool:
    """Waits until this home's node is in the ticket's swarm; True if the other founder came here instead.

    Raises:
        NetworkError: Nobody let it in in time.
        P2PError: It was refused.
    """
    from p2p.errors import NetworkError

    deadline = time.monotonic() + timeout_s + LATE_S
    while time.monotonic() < deadline:
        found = _status(run)
        if found is not None and found["swarm"]["genesis"] == ticket.genesis.hex():
            return False
        outcome = found["join"] if found is not None else None
        if outcome is not None:
            if outcome.get("stays"):
                return True
            raise swarm.error(run, outcome["kind"], outcome["message"], outcome["hint"])
        time.sleep(POLL_S)
    raise NetworkError("the node does not say whether it was let in", f"see where it is: {run.spell('status')}")


def _status(run: Run) -> dict[str, Any] | None:
    """What the node says; nothing in the instant in which it changes from one swarm to the other."""
    from p2p.errors import NetworkError

    try:
        return swarm.ask(run, "status")
    except NetworkError:
        return None


def _text(ticket: Ticket) -> str:
    from p2p.tickets import write

    return write(ticket)


def _words(reached: Settings) -> list[str]:
    """What `up` has to be told to reach that."""
    return ["--lan"] if reached.lan else []


def _result(
    run: Run,
    config: Config,
    reached: Settings,
    *,
    joined: bool,
    had_learned: bool,
    detach: bool,
    stays: bool = False,
) -> JoinResult:
    """Brings the node up, and says where this device stands."""
    genesis = swarm.genesis(run)
    assert genesis is not None
    result = JoinResult(
        swarm_name=genesis.name,
        genesis=genesis.hash.hex(),
        joined=joined,
        stays=stays,
        fits=shapes.fits(genesis, config),
        had_learned=had_learned,
        running=True,
        next_lines=(run.spell("status"), run.spell("train")),
    )
    if swarm.is_running(run):
        return result
    if detach:
        serving.start(run, _words(reached))
        return result

    serving.serve(run, config, reached, lambda node: serving.announce(run, result))
    return replace(result, running=False)
