"""Taking a home out of its swarm, whole or not at all.

    swarm/leaving/          the keys that the home is going to have; in a ledger that is in use they mean nothing
    swarm.left-GENESIS      the ledger of a swarm that was left, with the keys and the outbox that belong to it

One rename takes the ledger out of use; what follows it is finished by the next run if this one dies. The home gets new
keys because the old ones signed deltas that it would not remember: whoever came back with them might sign two with the
same predecessor.

Not covered: telling the members. The protocol has no message for it; to them the node is one that is switched off.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from p2p.blobs import disk_errors, flush_folder
from p2p.errors import LedgerError
from p2p.faults import reach
from p2p.identity import FILE_NAME, generate, save
from p2p.ledger import only_writer
from p2p.places import Places

FAULT_POINTS = (
    *("leave.after-keys", "leave.before-rename", "leave.after-rename", "leave.after-outbox", "leave.after-recovery"),
    *("leave.after-old-keys", "leave.after-new-keys"),
)
_LEAVING = "leaving"


def leave(places: Places, genesis: bytes | None, passphrase: bytes | None) -> Path:
    """Makes a member's home nobody's; returns where its ledger is now.

    Args:
        places: The home's.
        genesis: Hash of the swarm's; None if the ledger is too damaged to tell.
        passphrase: Locks the new keys.

    Raises:
        LedgerError: A node runs on the ledger, or the disk does not take it.
    """
    left = free(places.left_swarm(genesis) if genesis is not None else places.home / "swarm.left-damaged")
    with disk_errors(places.home), only_writer(places.swarm):
        kit = places.swarm / _LEAVING
        shutil.rmtree(kit, ignore_errors=True)
        kit.mkdir(mode=0o700)
        save(kit, generate(), passphrase)
        reach("leave.after-keys")
        flush_folder(places.swarm)
        if places.next_swarm.is_dir():  # a move that cannot be finished: its ledger would be the home's from now on
            os.rename(places.next_swarm, free(places.swarm / "unfinished"))
        reach("leave.before-rename")
        os.rename(places.swarm, left)
        flush_folder(places.home)
    reach("leave.after-rename")
    finish(places)
    return left


def finish(places: Places) -> Path | None:
    """Goes on where an earlier leave was interrupted; the ledger that was left, if one was."""
    left = unfinished(places)
    if left is None:
        return None
    with disk_errors(places.home):
        _move(places.outbox, left / places.outbox.name)
        reach("leave.after-outbox")
        _move(places.recovery, left / places.recovery.name)
        reach("leave.after-recovery")
        old, new = places.home / FILE_NAME, left / _LEAVING / FILE_NAME
        if new.exists():
            if old.exists():
                _replace(lambda scratch: shutil.copy(old, scratch), left / FILE_NAME)
            reach("leave.after-old-keys")
            os.replace(new, old)
            flush_folder(places.home)
        reach("leave.after-new-keys")
        shutil.rmtree(left / _LEAVING)
    return left


def unfinished(places: Places) -> Path | None:
    """The ledger of a swarm that this home left, but not whole: a run died on the way."""
    return next((path.parent for path in sorted(places.home.glob(f"swarm.left-*/{_LEAVING}"))), None)


def free(path: Path) -> Path:
    """A name that is free: nothing that was left before is written over."""
    tries = (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1000)))
    found = next((tried for tried in tries if not os.path.lexists(tried)), None)
    if found is None:
        raise LedgerError(f"{path}: there are too many of that name", "remove those that you do not need")
    return found


def _move(source: Path, target: Path) -> None:
    if source.exists():
        os.rename(source, target)


def _replace(write: Callable[[Path], object], target: Path) -> None:
    """Puts a copy in place, whole or not at all."""
    scratch = target.with_name(f".{target.name}.new")
    write(scratch)
    scratch.chmod(0o600)
    with open(scratch, "rb") as file:
        os.fsync(file.fileno())
    os.replace(scratch, target)
    flush_folder(target.parent)
