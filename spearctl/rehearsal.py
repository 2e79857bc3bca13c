"""A few devices on this one: homes in a folder that is thrown away, each with a node of its own, in one swarm."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spearctl import serving, swarm
from spearctl.commands.init import make_home
from spearctl.commands.invite import addresses_for, found, ticket
from spearctl.commands.join import enter
from spearctl.config import Config, Preferences
from spearctl.run import Run

if TYPE_CHECKING:
    from training.feedback import Entry

AGREE_S = 60.0
POLL_S = 0.2
TICKET_S = 3600


@dataclass(frozen=True, slots=True)
class Device:
    """One of them.

    Attributes:
        name: What it calls itself.
        run: Works in its home.
        config: Its settings.
    """

    name: str
    run: Run
    config: Config

    def status(self) -> dict[str, Any]:
        """What its node says."""
        return swarm.ask(self.run, "status", patience_s=30.0)


@contextmanager
def devices(run: Run, names: Sequence[str], profile: str, seed: int, folder: Path) -> Iterator[list[Device]]:
    """Devices with empty feedback logs, whose nodes run as processes of their own until the block ends.

    Args:
        run: Whose options count.
        names: The first founds the swarm.
        profile: Of all.
        seed: Of all.
        folder: Holds their homes.
    """
    made: list[Device] = []
    try:
        for name in names:
            made.append(_device(run, name, profile, seed, folder / name))
            _enter(made)
            serving.start(made[-1].run, ["--listen", made[-1].config.listen])
        yield made
    finally:
        for device in made:
            _stop(device)


def learn_from(device: Device, entries: Sequence[Entry]) -> None:
    """Gives a device its feedback log."""
    from training.log import append

    append(device.run.home.feedback_path, entries)


def agree(made: Sequence[Device], heads: int) -> list[dict[str, Any]]:
    """What all nodes say, once they hold the same state and nothing is pending.

    Args:
        made: The devices.
        heads: A round that must have been reached.

    Raises:
        NetworkError: They did not come to agree.
    """
    from p2p.errors import NetworkError

    deadline = time.monotonic() + AGREE_S
    while True:
        found = [device.status() for device in made]
        states = {status["swarm"]["state_hash"] for status in found}
        settled = not any(status["swarm"]["pending_wins"] for status in found)
        if len(states) == 1 and settled and found[0]["swarm"]["head_round"] >= heads:
            return found
        if time.monotonic() > deadline:
            raise NetworkError(f"the nodes hold {len(states)} different states after {AGREE_S:.0f} s")
        time.sleep(POLL_S)


def _device(run: Run, name: str, profile: str, seed: int, root: Path) -> Device:
    own = Run(run.command, replace(run.options, home=root, quiet=True))
    own.place.prepare()
    make_home(own, own.place, Preferences(name=name, seed=seed), profile, host="127.0.0.1")
    return Device(name, own, own.config(profile=profile, seed=seed))


def _enter(made: Sequence[Device]) -> None:
    """The first founds the swarm, the others join it."""
    first, device = made[0], made[-1]
    if device is first:
        found(first.run, first.config, swarm.identity(first.run), "demo")
        return
    from p2p.tickets import read

    text = ticket(first.run, swarm.identity(first.run), addresses_for(first.run, first.config, []), TICKET_S)
    enter(device.run, device.config, read(text), swarm.identity(device.run), timeout_s=30.0)


def _stop(device: Device) -> None:
    from p2p.errors import P2PError

    with suppress(P2PError):  # it never came up, or is gone
        serving.stop(device.run)
