"""`spearctl peers`: the other members, and shutting one out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.table import Column

from spearctl import swarm
from spearctl.command import command, group
from spearctl.errors import StoppedError, UsageError
from spearctl.output import Page, Result
from spearctl.run import Run
from spearctl.text import duration, size

commands = group("peers", "The other members of the swarm.")

STATES = {
    "linked": "linked",
    "away": "not linked",
    "banned": "banned here",
    "revoked": "revoked",
    "equivocator": "shut out: contradicted itself",
}


@dataclass(frozen=True, slots=True)
class PeersResult(Result):
    """All other members."""

    running: bool
    peers: tuple[dict[str, Any], ...]

    def data(self) -> Mapping[str, Any]:
        return {"running": self.running, "peers": self.peers}

    def render(self, console: Page) -> None:
        if not self.peers:
            console.print("this device is the only member so far")
            return
        render_peers(console, self.peers)


@dataclass(frozen=True, slots=True)
class PeerResult(Result):
    """One member."""

    peer: dict[str, Any]
    let_in_by: str

    def data(self) -> Mapping[str, Any]:
        return {"peer": self.peer}

    def render(self, console: Page) -> None:
        peer = self.peer
        console.title(peer["name"])
        console.fields(
            [
                ("id", peer["id"]),
                ("state", STATES[peer["state"]]),
                ("role", "founder" if peer["founder"] else ""),
                ("let in by", "" if peer["founder"] else self.let_in_by),
                ("addresses", ", ".join(peer["addresses"]) or "none; it only dials others"),
                ("head round", "" if peer["head_round"] is None else str(peer["head_round"])),
                ("state hash", peer["state_hash"] or ""),
                ("round trip", "" if peer["rtt_ms"] is None else f"{peer['rtt_ms']:.1f} ms"),
                ("traffic", f"{size(peer['sent_bytes'])} sent, {size(peer['received_bytes'])} received"),
            ]
        )


@dataclass(frozen=True, slots=True)
class RevokeResult(Result):
    """A member that is none any more."""

    name: str
    member: str
    from_round: int

    def data(self) -> Mapping[str, Any]:
        return {"id": self.member, "name": self.name, "revoked": True, "from_round": self.from_round}

    def render(self, console: Page) -> None:
        console.print(
            f"{self.name} is no member any more; what it shares from round {self.from_round} on counts nothing"
        )


@dataclass(frozen=True, slots=True)
class BanResult(Result):
    """A member that this device links to no more, or again."""

    name: str
    member: str
    banned: bool
    changed: bool

    def data(self) -> Mapping[str, Any]:
        return {"id": self.member, "name": self.name, "banned": self.banned}

    def render(self, console: Page) -> None:
        if not self.changed:
            was = "was banned here already" if self.banned else "was not banned here"
            console.print(f"{self.name} {was}; nothing was changed")
        elif self.banned:
            console.print(f"this device holds no link to {self.name} any more; for the others it stays a member")
        else:
            console.print(f"this device links to {self.name} again")


@command(commands, "list")
def list_peers(run: Run) -> PeersResult:
    """Lists all members but this device."""
    running, found = known(run)
    return PeersResult(running, tuple(found))


@command(commands, "show")
def show(
    run: Run, peer: Annotated[str, typer.Argument(metavar="NAME|ID", help="Its name, or the beginning of its id.")]
) -> PeerResult:
    """Shows one member."""
    peers = known(run)[1]
    found = find(peers, peer, run)
    names = {other["id"]: other["name"] for other in peers}
    issuer = found["let_in_by"] or ""
    return PeerResult(found, f"{names.get(issuer, 'this device')} ({issuer[:12]})")


@command(commands, "ban")
def ban(
    run: Run,
    peer: Annotated[str, typer.Argument(metavar="NAME|ID", help="Its name, or the beginning of its id.")],
    undo: Annotated[bool, typer.Option("--undo", help="Link to it again.")] = False,
) -> BanResult:
    """Keeps this device from linking to a member; it stays a member for the others."""
    found = find(_running(run), peer, run)
    answer = swarm.ask(run, "ban", member=found["id"], undo=undo)
    return BanResult(found["name"], found["id"], not undo, answer["changed"])


@command(commands, "revoke")
def revoke(
    run: Run,
    peer: Annotated[str, typer.Argument(metavar="NAME|ID", help="Its name, or the beginning of its id.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; all members can read it.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> RevokeResult:
    """Ends a membership for everybody. Only the founder can, and whoever let that member in."""
    from p2p.errors import TrustError

    found = find(_running(run), peer, run)
    run.confirm(f"{found['name']} ({found['id'][:12]}) will be no member any more, for good. Revoke?", yes=yes)
    try:
        answer = swarm.ask(run, "revoke", member=found["id"], reason=reason)
    except TrustError as error:
        instead = f"to hold no link to it from this device: {run.spell('peers', 'ban', peer)}"
        raise TrustError(error.message, error.hint or instead) from error
    return RevokeResult(found["name"], found["id"], answer["from_round"])


def known(run: Run) -> tuple[bool, list[dict[str, Any]]]:
    """Whether the node runs, and all other members as it or its ledger knows them."""
    run.config()
    if not swarm.places(run).is_member:
        raise swarm.no_swarm(run)
    if swarm.is_running(run):
        return True, swarm.ask(run, "status")["peers"]
    with swarm.view(run) as view:
        return False, view.overview["peers"]


def _running(run: Run) -> list[dict[str, Any]]:
    """All other members, as the running node knows them.

    Raises:
        StoppedError: None runs.
    """
    running, peers = known(run)
    if not running:
        raise StoppedError(
            "this needs the running node, and it does not run", f"start it: {run.spell('up', '--detach')}"
        )
    return peers


def find(peers: list[dict[str, Any]], wanted: str, run: Run) -> dict[str, Any]:
    """The member of a name, or whose id begins so; one that was revoked only if no other is meant.

    Raises:
        UsageError: There is none, or more than one.
    """
    found = [peer for peer in peers if peer["name"] == wanted] or [
        peer for peer in peers if len(wanted) >= 4 and peer["id"].startswith(wanted.lower())
    ]
    found = [peer for peer in found if peer["state"] != "revoked"] or found
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(f"no member is called {wanted!r}", f"see who there is: {run.spell('peers', 'list')}")
    ids = ", ".join(peer["id"][:12] for peer in found)
    raise UsageError(f"{len(found)} members are called {wanted!r}", f"name one by its id: {ids}")


def render_peers(console: Page, peers: tuple[dict[str, Any], ...] | list[dict[str, Any]]) -> None:
    """A row a member."""
    rows = [
        [
            peer["name"],
            peer["id"][:12],
            STATES[peer["state"]],
            "" if peer["head_round"] is None else str(peer["head_round"]),
            "" if peer["state_hash"] is None else peer["state_hash"][:12],
            "" if peer["last_seen_s"] is None else f"{duration(peer['last_seen_s'], short=True)} ago",
            f"{size(peer['sent_bytes'])} / {size(peer['received_bytes'])}" if peer["state"] == "linked" else "",
        ]
        for peer in peers
    ]
    columns: list[str | Column] = [
        "PEER",
        "ID",
        "STATE",
        Column("HEAD", justify="right"),
        "STATE HASH",
        "SEEN",
        "SENT / RECEIVED",
    ]
    console.rows(columns, rows)
