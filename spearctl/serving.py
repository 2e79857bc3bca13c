"""Running a node in this process, or in one of its own that outlives the terminal."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from spearctl import swarm
from spearctl.config import Config
from spearctl.run import Run

if TYPE_CHECKING:
    from p2p.node import Node, Settings

START_S = 30.0
POLL_S = 0.1
LOG_LINES = 12
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def settings(config: Config, *, listen: str | None, advertise: list[str] | None, no_listen: bool) -> Settings:
    """How the node is to be reached: flags, then the home's settings."""
    from p2p.addresses import parse
    from p2p.node import Settings

    told = tuple(advertise or config.advertise)
    for address in told:
        parse(address)
    where = None if no_listen else listen or config.listen
    if where is not None:
        parse(where, listen=True)
    return Settings(where, told, config.name)


def serve(run: Run, config: Config, reached: Settings, ready: Callable[[Node], None]) -> None:
    """Runs this home's node until it is stopped.

    Raises:
        NoSwarmError: This home belongs to no swarm.
        NetworkError: It cannot listen there, or a node of this home runs already.
        LedgerError: The ledger is damaged or in use.
        IdentityError: The keys are missing, damaged or locked.
    """
    if not swarm.places(run).is_member:
        raise swarm.no_swarm(run)
    level = logging.DEBUG if run.options.verbose else logging.INFO if run.options.quiet else logging.WARNING
    logging.basicConfig(level=level, format=LOG_FORMAT, stream=sys.stderr)
    who = swarm.identity(run)
    asyncio.run(_serve(run, config, reached, who, ready))


async def _serve(run: Run, config: Config, reached: Settings, who: object, ready: Callable[[Node], None]) -> None:
    from p2p import moving
    from p2p.ledger import Ledger
    from p2p.node import Node

    places = swarm.places(run)
    while True:
        moving.finish(places)
        with Ledger(places.swarm) as ledger:
            node = Node(places, ledger, who, reached)  # type: ignore[arg-type]  # an Identity, which only p2p knows
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, node.stop)
            membership = await node.run(ready)
            if membership is None:
                return
            luggage = moving.luggage_of(node.member, membership.genesis)
            contacts = node.contacts
        moving.move_in(places, membership.genesis, membership.certificates, contacts, luggage)


def start(run: Run, words: list[str]) -> int:
    """Starts a node that outlives this process; its process id, once it can be reached.

    Args:
        run: Whose home.
        words: Options for ``up``.

    Raises:
        NetworkError: It did not come up; what it said is in the message.
    """
    from p2p import control
    from p2p.errors import NetworkError

    places = swarm.places(run)
    command = [sys.executable, "-m", "spearctl", "--home", str(run.home.root), "--quiet", "up", *words]
    with open(os.open(places.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        begin = log.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
        )
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if control.is_running(places.control):
            return process.pid
        time.sleep(POLL_S)
    with open(places.log, "rb") as log:
        log.seek(begin)
        said = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")] or said[-1:]
    hints = [line.removeprefix("hint: ") for line in said if line.startswith("hint: ")]
    if process.poll() is None:
        process.terminate()
    raise NetworkError(
        f"the node did not start: {errors[0] if errors else 'it says nothing'}",
        hints[0] if hints else f"see what it said: {places.log}",
    )
