"""`spearctl up` and `spearctl down`: the node of this home, running and not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spearctl import metrics, serving, swarm
from spearctl.command import command, group
from spearctl.errors import UsageError
from spearctl.output import Page, Result
from spearctl.run import Run

if TYPE_CHECKING:
    from p2p.node import Node

commands = group()


@dataclass(frozen=True, slots=True)
class UpResult(Result):
    """A node that runs in the background, or one that was stopped after it ran here."""

    running: bool
    started: bool
    pid: int | None
    address: str | None
    swarm_name: str
    status_line: str

    def data(self) -> Mapping[str, Any]:
        return {
            "running": self.running,
            "started": self.started,
            "pid": self.pid,
            "address": self.address,
            "swarm": self.swarm_name,
        }

    def render(self, console: Page) -> None:
        if not self.running:
            console.print("the node was stopped")
            return
        where = f"on {self.address}" if self.address else "without an address: it only dials others"
        what = f"in process {self.pid}, {where}"
        if self.started:
            console.print(f"the node of the swarm {self.swarm_name} runs now {what}")
        else:
            console.print(f"nothing was changed: the node of the swarm {self.swarm_name} runs already {what}")
        console.next_steps(self.status_line)


@dataclass(frozen=True, slots=True)
class DownResult(Result):
    """Whether a node was stopped."""

    stopped: bool

    def data(self) -> Mapping[str, Any]:
        return {"stopped": self.stopped}

    def render(self, console: Page) -> None:
        console.print("the node was stopped" if self.stopped else "no node runs here; nothing was changed")


@command(commands, "up")
def up(
    run: Run,
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background, and return.")] = False,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where to listen, instead of the home's setting.")
    ] = None,
    advertise: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="An address by which others reach this device. Repeatable."),
    ] = None,
    no_listen: Annotated[bool, typer.Option("--no-listen", help="Only dial others; nobody dials this device.")] = False,
    lan: Annotated[
        bool, typer.Option("--lan", help="Announce this node in the local network, and look for members there.")
    ] = False,
    prometheus: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Serve metrics there, such as 127.0.0.1:9464."),
    ] = None,
) -> UpResult:
    """Runs the node: shares what this device learned, and takes in what others learned.

    In the foreground it runs until Ctrl-C. A swarm has to be founded (invite) or joined (join) first.
    """
    if listen is not None and no_listen:
        raise UsageError("--listen and --no-listen exclude each other", "leave one of them out")
    config = run.config()
    reached = serving.settings(config, listen=listen, advertise=advertise, no_listen=no_listen, lan=lan)
    scraped = None if prometheus is None else metrics.address(run, prometheus)
    if not swarm.places(run).is_member:
        raise swarm.no_swarm(run)
    if swarm.is_running(run):
        if prometheus is not None:
            again = f"{run.spell('down')}, then {run.spell('up', '--detach', '--prometheus', prometheus)}"
            run.say(f"--prometheus counts when a node starts; to start this one again: {again}")
        return result(run, started=False)
    if detach:
        where = ["--no-listen"] if no_listen else ["--listen", listen] if listen else []
        others = [word for address in advertise or [] for word in ("--advertise", address)]
        more = [*(["--lan"] if lan else []), *(["--prometheus", str(scraped)] if scraped else [])]
        serving.start(run, [*where, *others, *more])
        return result(run, started=True)
    told: list[UpResult] = []
    with metrics.serving(run, scraped):
        serving.serve(run, config, reached, lambda node: _ready(run, node, told))
    return replace(told[-1], running=False, pid=None)


def _ready(run: Run, node: Node, told: list[UpResult]) -> None:
    """Says that a node runs here, which it may do again in another swarm."""
    name, address = node.member.context.genesis.name, next(iter(node.advertised), None)
    told.append(UpResult(True, True, os.getpid(), address, name, run.spell("status")))
    serving.announce(run, told[-1])


def result(run: Run, *, started: bool) -> UpResult:
    """What there is to say of the node that runs in the background."""
    found = swarm.ask(run, "status")
    address = next(iter(found["addresses"]), None)
    return UpResult(True, started, found["pid"], address, found["swarm"]["name"], run.spell("status"))


@command(commands, "down")
def down(run: Run) -> DownResult:
    """Stops the node of this home; what it holds stays."""
    run.config()
    if not swarm.is_running(run):
        return DownResult(False)
    serving.stop(run)
    return DownResult(True)
