"""Running a node in this process, or in one of its own that outlives the terminal."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from spearctl import allocator, sharing, swarm
from spearctl.config import Config
from spearctl.errors import HOME, IDENTITY
from spearctl.output import Result, emit
from spearctl.run import Run
from spearctl.signals import STOPPING

if TYPE_CHECKING:
    from p2p.errors import P2PError
    from p2p.identity import Identity
    from p2p.node import Node, Settings

START_S = 60.0
POLL_S = 0.1
STOP_S = 20.0
STOP_POLL_S = 0.02
MOST_LOG_BYTES = 1 << 20
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def settings(
    config: Config,
    *,
    listen: str | None = None,
    advertise: list[str] | None = None,
    no_listen: bool = False,
    lan: bool = False,
) -> Settings:
    """How the node is to be reached: flags, then the home's settings.

    Raises:
        NetworkError: An address is none, or what it takes to look in the local network is not installed.
    """
    from p2p.addresses import parse
    from p2p.lan import check_installed
    from p2p.node import Settings

    told = tuple(advertise or config.advertise)
    for address in told:
        parse(address)
    where = None if no_listen else listen or config.listen
    if where is not None:
        parse(where, listen=True)
    if lan or config.lan:
        check_installed()
    return Settings(where, told, config.name, lan or config.lan)


def serve(run: Run, config: Config, reached: Settings, ready: Callable[[Node], None]) -> None:
    """Runs this home's node until it is stopped.

    Args:
        run: Whose home.
        config: Its settings.
        reached: How it is reached.
        ready: Called once it can be reached; again after it has moved to another swarm.

    Raises:
        NoSwarmError: This home belongs to no swarm.
        NetworkError: It cannot listen there, or a node of this home runs already.
        LedgerError: The ledger is damaged or in use.
        IdentityError: The keys are missing, damaged or locked.
    """
    if not swarm.places(run).is_member:
        raise swarm.no_swarm(run)
    options = run.options
    level = logging.ERROR if options.quiet else logging.INFO if options.verbose else logging.WARNING
    said = _Said(swarm.places(run).log)
    logging.basicConfig(level=logging.DEBUG if options.debug else level, format=LOG_FORMAT, handlers=[said])
    who = swarm.identity(run)
    sharing.catch_up(run, config)
    allocator.return_large_blocks()  # it works on large vectors for an instant and is idle for hours
    asyncio.run(_serve(run, reached, who, ready))


class _Said(logging.StreamHandler[TextIO]):
    """Writes to stderr; where that is the node's own log, keeps it short.

    Args:
        path: Of that log.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(sys.stderr)
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line."""
        super().emit(record)
        with suppress(OSError, ValueError):  # no such log, or a stderr that is no file
            if os.path.samestat(os.fstat(self.stream.fileno()), os.stat(self._path)):
                trim(self._path)


def trim(path: Path) -> None:
    """Puts the last part of a log aside, in place of what was put aside before, once that is more than enough.

    It is copied, not renamed, because a node writes to it that would go on in the renamed file.
    """
    with suppress(OSError):  # what cannot be trimmed can still be written to
        if path.stat().st_size <= MOST_LOG_BYTES:
            return
        older = path.with_name(f"{path.name}.1")
        older.unlink(missing_ok=True)
        with open(path, "rb") as log, open(os.open(older, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as kept:
            log.seek(-MOST_LOG_BYTES, os.SEEK_END)
            shutil.copyfileobj(log, kept)
        os.truncate(path, 0)


async def _serve(run: Run, reached: Settings, who: Identity, ready: Callable[[Node], None]) -> None:
    from p2p import moving
    from p2p.ledger import Ledger
    from p2p.node import Node

    places = swarm.places(run)
    # A parent that had us ignore a signal (nohup) is obeyed.
    heeded = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    while True:
        moving.finish(places)
        with Ledger(places.swarm) as ledger:
            node = Node(places, ledger, who, reached)
            for number in heeded:
                asyncio.get_running_loop().add_signal_handler(number, node.stop)
            membership = await node.run(ready)
            if membership is None:
                return
            luggage = moving.luggage_of(node.member, membership.genesis)
            contacts = node.contacts
        moving.move_in(places, membership.genesis, membership.records, contacts, luggage, seal=membership.seal)


def announce(run: Run, result: Result) -> None:
    """Prints a result while the command goes on, and how to end that."""
    emit(run.command, result, None, as_json=run.options.json)
    run.say("Ctrl-C stops the node")


def start(run: Run, words: list[str]) -> None:
    """Starts a node that outlives this process, and waits until it can be reached.

    Args:
        run: Whose home.
        words: Options for ``up``.

    Raises:
        IdentityError: The keys are missing, damaged or locked.
        LedgerError: The ledger is damaged or in use.
        NetworkError: It did not come up; what it said is in the message.
    """
    from p2p import control

    places = swarm.places(run)
    passphrase = swarm.unlock(run)
    trim(places.log)
    command = [sys.executable, "-m", "spearctl", "--home", str(run.home.root), "--verbose", "up", *words]
    told = {} if passphrase is None else {swarm.PASSPHRASE_FILE: "/dev/stdin"}
    with open(os.open(places.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        os.fchmod(log.fileno(), 0o600)
        begin = log.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
            env={**os.environ, **told},
        )
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin:  # one that died at once is asked below
        process.stdin.write(passphrase or b"")
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        if control.is_running(places.control):
            return
        time.sleep(POLL_S)
    if process.poll() is None:
        process.terminate()
    raise _failure(process.wait(), places.log, begin)


def _failure(code: int, path: Path, begin: int) -> P2PError:
    """Why a node did not start: what it said last, from a place in its log on."""
    from p2p.errors import IdentityError, LedgerError, NetworkError

    with open(path, "rb") as log:
        log.seek(begin)
        said = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")] or said[-1:]
    hints = [line.removeprefix("hint: ") for line in said if line.startswith("hint: ")]
    kind = {IDENTITY: IdentityError, HOME: LedgerError}.get(code, NetworkError)
    return kind(
        f"the node did not start: {errors[0] if errors else 'it says nothing'}",
        hints[0] if hints else f"see what it said: {path}",
    )


def stop(run: Run) -> None:
    """Stops this home's node, and waits until its process has let go of everything.

    Raises:
        NetworkError: None runs, or it does not stop.
    """
    import psutil

    from p2p.errors import NetworkError

    try:
        process = psutil.Process(swarm.ask(run, "stop")["pid"])
        deadline = time.monotonic() + STOP_S
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                raise NetworkError("the node was asked to stop and still runs", f"end it: kill {process.pid}")
            time.sleep(STOP_POLL_S)
    except psutil.NoSuchProcess:
        return
