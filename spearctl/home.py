"""A home: the folder that holds what one device knows, and the lock that lets one trainer at a time into it.

    config.toml      settings, and the format number
    node.db          training history; node.db.schema-1 is as an older spearctl left it
    adapters/        adapter versions
    feedback.jsonl   what people said
    train.lock       held while something is trained
    train.progress   how far that is
    identity.pem     the keys of this device
    swarm/           what it shares with others, once it belongs to a swarm
    profiles/        hardware profiles that were measured here
    outbox/          what was learned and waits for the node to share it
    swarm.left-*     what is left of a swarm that this home left; nothing reads it again
    .left            what such a swarm knows already, should this home come back to it
    node.log         what a detached node says; node.log.1 is the part before
    preferences.toml on macOS, in the default home: the user's own settings, for all homes

The folder and what is in it are for its owner alone. `config.toml` is written last, in one rename: a home without it is
one that was never finished, and the next `init` finishes it.

Not covered: a folder on a file system without `flock`, and somebody who can write into the home.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import platformdirs

from spearctl.config import PREFERENCES_NAME
from spearctl.errors import ConfigError, HomeError, HomeLockedError
from spearctl.text import ago, tilde

FORMAT = 1
"""Of a home. A newer one is refused, because what it means is not known here."""

OWN_NAMES = frozenset(
    {
        *("config.toml", "node.db", "node.db-wal", "node.db-shm", "adapters", "feedback.jsonl", "train.lock"),
        *("node.db.schema-1", "train.progress"),
        *("profiles", "identity.pem", "recovery.pem", "swarm", "swarm.next", "swarm.building", "outbox"),
        *("node.log", "node.log.1"),
        PREFERENCES_NAME,
    }
)
LOCK_TRIES = 5
LOCK_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that trains in a home.

    Attributes:
        pid: Its process id; None in the instant in which it has the lock but has not said so yet.
        command: What it was started as.
        since: When, ISO 8601.
    """

    pid: int | None
    command: str
    since: str


@dataclass(frozen=True, slots=True)
class Home:
    """Where everything lies in a home."""

    root: Path

    @property
    def config_path(self) -> Path:
        """The settings."""
        return self.root / "config.toml"

    @property
    def history_path(self) -> Path:
        """The database of the training history."""
        return self.root / "node.db"

    @property
    def adapters_path(self) -> Path:
        """The folder of adapter versions."""
        return self.root / "adapters"

    @property
    def profiles_path(self) -> Path:
        """The folder of profiles that were made for this home; there may be none."""
        return self.root / "profiles"

    @property
    def feedback_path(self) -> Path:
        """The feedback log."""
        return self.root / "feedback.jsonl"

    @property
    def lock_path(self) -> Path:
        """The file that a trainer locks."""
        return self.root / "train.lock"

    @property
    def progress_path(self) -> Path:
        """The file in which a trainer says how far it is."""
        return self.root / "train.progress"

    @property
    def is_initialised(self) -> bool:
        """Whether an `init` was finished here."""
        return self.config_path.is_file()

    def prepare(self) -> None:
        """Makes the folder and what every home has, as far as it is missing; leaves `config.toml` to the caller.

        Raises:
            HomeError: It cannot be made there, or the folder holds something else.
        """
        try:
            foreign = (
                sorted(path.name for path in self.root.iterdir() if not _may_be_ours(path)) if self._exists() else []
            )
            if foreign:
                raise HomeError(
                    f"{self.root} holds other files ({', '.join(foreign[:3])}), so it cannot become a home",
                    "choose an empty or a new folder: spearctl --home DIR init",
                )
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.root.chmod(0o700)
            self.adapters_path.mkdir(mode=0o700, exist_ok=True)
            for path in (self.feedback_path, self.history_path):  # an empty file is an empty database
                os.close(os.open(path, os.O_CREAT | os.O_RDONLY, 0o600))
        except OSError as error:
            raise HomeError(
                f"{self.root}: the home cannot be made: {error.strerror}",
                "choose a folder that you can write to: --home DIR",
            ) from error

    def _exists(self) -> bool:
        if self.root.exists() and not self.root.is_dir():
            raise HomeError(f"{self.root} is a file, not a folder", "choose a folder: --home DIR")
        return self.root.is_dir()

    def open_permissions(self) -> tuple[Path, ...]:
        """Returns what other users of this machine may read although it is for its owner alone."""
        private = (self.root, self.config_path, self.history_path, self.feedback_path, self.adapters_path)
        return tuple(path for path in private if path.exists() and path.stat().st_mode & 0o077)

    def check_format(self, settings: Mapping[str, object]) -> None:
        """Refuses a home that this version cannot read.

        Args:
            settings: What its `config.toml` says.

        Raises:
            HomeError: The format number is missing, not a number, or newer.
        """
        found = settings.get("format")
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise HomeError(
                f"{self.config_path}: no format number in it, so this is no home or a damaged one",
                "put `format = 1` on its first line if it is yours, or choose another folder: --home DIR",
            )
        if found > FORMAT:
            raise HomeError(
                f"{self.root}: this home has format {found}, this spearctl reads up to {FORMAT}", "upgrade spearctl"
            )

    @contextmanager
    def training_lock(self, command: str) -> Iterator[None]:
        """Keeps every other trainer out while the block runs; the kernel ends it when the process dies.

        Args:
            command: What holds it, for whom it keeps out.

        Raises:
            HomeLockedError: Another process holds it.
        """
        handle = os.open(self.lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # `holder` takes the lock for an instant to see whether it is free.
            for attempt in range(LOCK_TRIES):
                if _lock(handle, fcntl.LOCK_EX):
                    break
                if attempt + 1 == LOCK_TRIES:
                    raise self._locked(handle)
                time.sleep(LOCK_PAUSE_S)
            record = {"pid": os.getpid(), "command": command, "since": datetime.now(UTC).isoformat(timespec="seconds")}
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(record).encode(), 0)
            yield
        finally:
            os.close(handle)

    def holder(self) -> Holder | None:
        """Returns the process that trains in this home now, if there is one."""
        try:
            handle = os.open(self.lock_path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            return None if _lock(handle, fcntl.LOCK_SH) else _read_holder(handle)
        finally:
            os.close(handle)

    def _locked(self, handle: int) -> HomeLockedError:
        holder = _read_holder(handle)
        if holder.pid is None:
            return HomeLockedError(f"{tilde(self.root)} is in use by another process", "wait until it is done")
        return HomeLockedError(
            f"{tilde(self.root)} is in use: process {holder.pid} ({holder.command}) took it {ago(holder.since)}",
            f"wait until it is done, or stop it: kill {holder.pid}",
        )


def home_root(flag: Path | None, environ: Mapping[str, str]) -> Path:
    """Returns the folder of the home that is meant: the flag's, else SPEARCTL_HOME's, else the user's own."""
    named = flag or environ.get("SPEARCTL_HOME")
    if not named:
        return platformdirs.user_data_path("spearctl")
    return Path(os.path.abspath(os.path.expanduser(named)))


def cache_root(environ: Mapping[str, str]) -> Path:
    """Returns the folder of the model cache, which all homes share."""
    named = environ.get("SPEARCTL_CACHE")
    if not named:
        return platformdirs.user_cache_path("spearctl") / "models"
    return Path(os.path.abspath(os.path.expanduser(named)))


def no_home(root: Path, init_line: str) -> ConfigError:
    """Returns the error for a command that needs a home where there is none.

    Args:
        root: Where it was looked for.
        init_line: What to type to make one.
    """
    return ConfigError(f"there is no spearctl home in {tilde(root)}", f"make one: {init_line}")


def _may_be_ours(path: Path) -> bool:
    return path.name in OWN_NAMES or path.name.startswith((".", "swarm.left-")) or path.name == "lost+found"


def _lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_holder(handle: int) -> Holder:
    try:
        record = json.loads(os.pread(handle, 4096, 0))
        return Holder(int(record["pid"]), str(record["command"]), str(record["since"]))
    except (ValueError, KeyError, TypeError):
        return Holder(None, "unknown", "")
