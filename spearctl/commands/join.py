"""`spearctl join`: makes this device a member of a swarm, with a ticket, and runs its node."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spearctl import serving, sharing, swarm
from spearctl.command import command, group
from spearctl.config import Config
from spearctl.errors import UsageError
from spearctl.output import Page, Result
from spearctl.run import Run

if TYPE_CHECKING:
    from p2p.node import Node
    from p2p.tickets import Ticket

commands = group()

POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class JoinResult(Result):
    """The swarm that this device belongs to, and how it came."""

    swarm_name: str
    genesis: str
    joined: bool
    stays: bool
    fits: bool
    took_along: bool
    running: bool
    next_lines: tuple[str, ...]

    def data(self) -> Mapping[str, Any]:
        return {
            "swarm": {"name": self.swarm_name, "genesis": self.genesis},
            "joined": self.joined,
            "stays": self.stays,
            "fits": self.fits,
            "took_along": self.took_along,
            "running": self.running,
        }

    def render(self, console: Page) -> None:
        if self.stays:
            console.print(
                "the other founder joins this swarm at the same time; this one stays, and nothing was changed"
            )
        elif self.joined:
            console.title(f"This device is a member of the swarm {self.swarm_name}")
        else:
            console.print(f"this device is a member of the swarm {self.swarm_name} already; nothing was changed")
        if self.took_along:
            console.print("what it learned before is pending there, and is shared with the next round")
        if not self.fits:
            console.health(["the swarm has another model or adapter than this home: it passes on, but learns nothing"])
        console.next_steps(*self.next_lines)


@command(commands, "join")
def join(
    run: Run,
    ticket: Annotated[str, typer.Argument(metavar="TICKET|FILE|-", help="The ticket, a file with it, or - for stdin.")],
    detach: Annotated[bool, typer.Option("--detach", help="Run the node in the background, and return.")] = False,
    timeout: Annotated[float, typer.Option(min=1.0, metavar="SECONDS", help="How long to try.")] = 60.0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask what happens to what was learned.")] = False,
) -> JoinResult:
    """Joins a swarm with a ticket from `spearctl invite`, then runs the node like `spearctl up`.

    What this device has learned so far becomes pending in the swarm. A founder whose swarm has no other members may
    join another one.
    """
    from p2p.tickets import read, read_source

    config = run.config()
    said = read(read_source(ticket, sys.stdin))
    who = swarm.identity(run, make=True)
    places = swarm.places(run)
    if places.is_member:
        return _from_swarm(run, config, said, detach=detach, timeout_s=timeout, yes=yes)
    if sharing.has_learned(run):
        run.confirm(
            f"this device has learned alone; in the swarm {said.name} that becomes pending and is shared. Join?",
            yes=yes,
        )
    enter(run, config, said, who, leaving=b"", timeout_s=timeout)
    return _result(run, config, joined=True, detach=detach)


def enter(run: Run, config: Config, ticket: Ticket, who: Any, *, leaving: bytes, timeout_s: float) -> None:
    """Asks to join and, once let in, makes this home a member's."""
    from p2p import joining, moving

    run.say(f"joining the swarm {ticket.name}")
    membership = asyncio.run(
        joining.join(ticket, who, config.name, leaving=leaving, timeout_s=timeout_s, say=run.detail)
    )
    learned = sharing.luggage(run)
    if learned is not None and not sharing.fits(membership.genesis, config, sharing.shape(run, config)):
        learned = None  # it stays a version of this home
    contacts = {endpoint.transport: endpoint.address for endpoint in reversed(ticket.endpoints)}
    moving.move_in(swarm.places(run), membership.genesis, membership.certificates, contacts, learned)


def _from_swarm(run: Run, config: Config, ticket: Ticket, *, detach: bool, timeout_s: float, yes: bool) -> JoinResult:
    """Joins from another swarm: only its founder, and only as long as nobody else is in it."""
    with swarm.view(run) as view:
        here = view.overview["swarm"]
    if here["genesis"] == ticket.genesis.hex():
        return _result(run, config, joined=False, detach=detach)
    if not here["founder"] or here["members"] > 1:
        raise UsageError(
            f"this home belongs to the swarm {here['name']}, and a home belongs to one swarm",
            "make another home for the other one: spearctl --home DIR init",
        )
    run.confirm(
        f"this device founded the swarm {here['name']}; to join {ticket.name} it gives that up,"
        " and what it learned becomes pending there. Join?",
        yes=yes,
    )
    if not swarm.is_running(run):
        serving.start(run, [])
    swarm.ask(run, "join", ticket=_text(ticket), timeout_s=timeout_s)
    deadline = time.monotonic() + timeout_s + 10
    while time.monotonic() < deadline:
        time.sleep(POLL_S)
        found = _status(run)
        if found is None:
            continue
        if found["swarm"]["genesis"] == ticket.genesis.hex():
            return _result(run, config, joined=True, detach=True)
        if found["join"] == "stays":
            return _result(run, config, joined=False, detach=True, stays=True)
        if found["join"]:
            from p2p.errors import NetworkError

            raise NetworkError(f"joining failed: {found['join']}", "ask for a new ticket: spearctl invite")
    from p2p.errors import NetworkError

    raise NetworkError(f"nobody let this device in within {timeout_s:.0f} s", "see that the other node runs")


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


def _result(run: Run, config: Config, *, joined: bool, detach: bool, stays: bool = False) -> JoinResult:
    """Brings the node up, and says where this device stands."""
    with swarm.view(run) as view:
        genesis, pending = view.genesis, view.outbox.pending.wins
    result = JoinResult(
        swarm_name=genesis.name,
        genesis=genesis.hash.hex(),
        joined=joined,
        stays=stays,
        fits=sharing.fits(genesis, config, sharing.shape(run, config)),
        took_along=joined and pending > 0,
        running=True,
        next_lines=(run.spell("status"), run.spell("train")),
    )
    if swarm.is_running(run):
        return result
    if detach:
        serving.start(run, [])
        return result
    run.say(f"this device is a member of the swarm {genesis.name}; the node runs, Ctrl-C stops it")

    def ready(node: Node) -> None:
        run.detail(f"reached by {', '.join(node.advertised) or 'nobody; it dials the others'}")

    serving.serve(run, config, serving.settings(config, listen=None, advertise=None, no_listen=False), ready)
    return result
