"""The part of `spearctl doctor` that looks at keys, ledger and node; see `spearctl.checkup`."""

from __future__ import annotations

import errno
import os
import shlex
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from spearctl import swarm
from spearctl.checkup import Check, Examined, failed
from spearctl.errors import UsageError
from spearctl.text import count, tilde

if TYPE_CHECKING:
    from p2p.places import Places

PATIENCE_S = 2.0
"""A node that does not answer for so long is busy, and is left alone."""


def _places(examined: Examined) -> Places:
    """Where the home keeps what the swarm needs; unlike `swarm.places`, of a damaged home too."""
    from p2p.places import Places

    return Places(examined.root)


def keys(examined: Examined) -> Iterator[Check]:
    """The keys of this device, and whether they are those that the swarm knows."""
    from p2p.errors import IdentityError, LedgerError
    from p2p.identity import FILE_NAME, load

    path, places = examined.root / FILE_NAME, _places(examined)
    if not examined.run.place.is_initialised:
        return
    anew = examined.run.spell("leave")
    if not path.exists():
        if places.is_member:
            error = IdentityError(f"{path}: the keys are gone", f"put the file back from a backup, or: {anew}")
            yield failed("keys", error)
        else:
            yield Check("keys", "ok", "none yet; invite and join make them")
        return
    try:
        who = load(examined.root, _locked)
    except UsageError:
        yield Check("keys", "ok", "locked by a passphrase")
        return
    except IdentityError as refused:
        mend = refused.hint or ""
        if "backup" in mend:  # nothing else mends these keys; new ones can be had
            mend += f", or: {anew if places.is_member else f'rm {shlex.quote(str(path))}'}"
        yield failed("keys", refused, mend)
        return
    if places.is_member and examined.config is not None:
        with suppress(LedgerError):  # told by another check
            with swarm.view(examined.run, leave_no_trace=True) as view:
                known = view.context.me
            if known != who.node_id:
                error = IdentityError(
                    f"{path}: the swarm knows this device by other keys ({known.hex()[:12]})",
                    f"put the right file back from a backup, or: {anew}",
                )
                yield failed("keys", error)
                return
    yield Check("keys", "ok", f"node {who.node_id.hex()[:12]}")


def _locked() -> bytes:
    raise UsageError("locked")


def moves(examined: Examined) -> Iterator[Check]:
    """Whether joining or leaving was interrupted."""
    from p2p import leaving
    from p2p.errors import LedgerError

    places = _places(examined)
    left = leaving.unfinished(places)
    if left is not None:
        yield Check("swarm", "warn", f"leaving was interrupted: {left.name}", examined.run.spell("leave"))
    if places.next_swarm.is_dir():
        yield Check("swarm", "warn", "joining was interrupted", examined.run.spell("up", "--detach"))
    ledger, aside = places.swarm / "ledger.db", places.home / "swarm.left-damaged"
    if places.swarm.is_dir() and not ledger.is_file():
        mend = f"put it back from a backup, or what is left aside: mv {shlex.quote(str(places.swarm))}"
        error = LedgerError(f"{ledger}: the ledger is gone", f"{mend} {shlex.quote(str(leaving.free(aside)))}")
        yield failed("swarm", error)
    elif not places.is_member and examined.run.place.is_initialised:
        yield Check("swarm", "ok", "this home belongs to none")


def ledger(examined: Examined) -> Iterator[Check]:
    """What the members share: whole, and fit to run on."""
    from p2p.errors import LedgerError
    from p2p.examine import examine
    from p2p.ledger import Ledger

    places, run = _places(examined), examined.run
    if not places.is_member or not run.place.is_initialised:
        return
    try:
        with Ledger.open_readonly(places.ledger, leave_no_trace=True) as reader:
            damages, is_copy = examine(reader), reader.is_suspect
    except LedgerError as error:
        yield failed("ledger", error, f"restore {tilde(places.ledger)} from a backup, or: {run.spell('leave')}")
        return
    for damage in damages:
        mend = f"restore it from a backup, or: {run.spell('leave')}"
        if damage.blob is not None:
            mend = f"rm {shlex.quote(str(damage.blob))}"
        yield failed("ledger", LedgerError(damage.text, mend))
    if damages:
        return
    if examined.config is None:
        yield Check("ledger", "ok", "whole")
        return
    with swarm.view(run, leave_no_trace=True) as view:
        said = view.overview["swarm"]
    if is_copy:
        told = "this home is a copy or an old backup; its node signs nothing until the other members were heard"
        yield Check("ledger", "warn", told, run.spell("up", "--detach"))
    else:
        told = f"whole; swarm {said['name']}, {count(said['members'], 'member')}, round {said['head_round']}"
        yield Check("ledger", "ok", told)


def node(examined: Examined) -> Iterator[Check]:
    """The control socket, and what the node says of itself if it runs and has the time."""
    from p2p import control
    from p2p.errors import NetworkError, P2PError

    places, run = _places(examined), examined.run
    path = places.control
    folder = path.parent
    if folder.exists() and folder.stat().st_mode & 0o077 and folder.stat().st_uid == os.geteuid():
        error = NetworkError(f"others can enter {folder}, so no command talks to the node", f"chmod 700 {folder}")
        yield failed("socket", error)
        return
    if not control.is_running(path):
        if path.exists():
            yield Check("socket", "ok", "left by a node that was killed; the next one replaces it")
        if places.is_member and run.place.is_initialised:
            yield Check("node", "warn", "does not run, so nothing is shared", run.spell("up", "--detach"))
        yield from _port(examined, is_member=places.is_member)
        return
    try:
        said = control.ask(path, "status", {}, PATIENCE_S)
    except P2PError:
        mend = f"try again; if it stays so: {run.spell('down')}"
        yield Check("node", "warn", f"runs, and did not answer within {PATIENCE_S:g} s", mend)
        return
    linked = sum(peer["state"] == "linked" for peer in said["peers"])
    where = ", ".join(said["addresses"]) or "only dials others"
    yield Check("node", "ok", f"runs in process {said['pid']}, {where}, {count(linked, 'link')}")
    for line in said["health"]:
        yield Check("node", "warn", line, run.spell("status"))


def _port(examined: Examined, *, is_member: bool) -> Iterator[Check]:
    """Whether the node could listen where it is told to."""
    from p2p.addresses import free_port, parse
    from p2p.errors import NetworkError

    if examined.config is None:
        return
    place = parse(examined.config.listen, listen=True)
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((place.host, place.port))
            probe.listen(1)
    except OSError as error:
        other = f"{examined.config.listen.rpartition(':')[0]}:{free_port()}"
        if error.errno == errno.EADDRNOTAVAIL:
            other = f"0.0.0.0:{place.port}"
        told = f"cannot listen on {place}: {error.strerror}"
        mend = examined.run.spell("up", "--detach", "--listen", other)
        if is_member:
            yield failed("port", NetworkError(told, mend))
        else:
            yield Check("port", "warn", told, f'listen = "{other}" in {tilde(examined.run.place.config_path)}')
        return
    yield Check("port", "ok", f"{place} is free")
