"""What `spearctl doctor` is made of: checks, each of which looks at one thing and says what mends it.

A check is a function that takes the `Examined` and yields lines. What it raises becomes a failed line, so that one
thing that is broken hides no other. Nothing here writes, waits for a lock, or waits long for a node.

Not covered: damage that was there when a backup of it was made, and a disk that is about to fail.
"""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spearctl import errors, shapes, swarm
from spearctl.config import Config
from spearctl.errors import ConfigError, HomeError, SpearctlError
from spearctl.run import Run
from spearctl.text import ago, count, size, tilde

if TYPE_CHECKING:
    import sqlite3

State = Literal["ok", "warn", "fail"]

LOW_BYTES = 1_000_000_000
"""Less is free: a few rounds of a small model are more."""
EMPTY_BYTES = 50_000_000
AHEAD_S = 300.0
"""Clocks that differ by less are as good as equal: tickets live for minutes at least."""
SHIPPED = datetime.fromisoformat("2026-11-01T00:00:00+00:00").timestamp()
"""No right clock shows less."""
HISTORY_ASIDE = "put aside with its adapter versions, which `import` takes back; the next training begins a new history"


@dataclass(frozen=True, slots=True)
class Check:
    """What was found out about one thing.

    Attributes:
        name: The thing.
        state: How it is.
        message: What is so, for a person.
        mend: The command that mends it.
        error: What a command that needs it would raise, where it fails.
    """

    name: str
    state: State
    message: str
    mend: str | None = None
    error: BaseException | None = None

    @property
    def code(self) -> int:
        """The exit code that a command which needs it would end with; 0 if none would fail."""
        return errors.explain(self.error).code if self.error is not None else errors.OK


class Examined:
    """A home that is looked at.

    Args:
        run: Whose home.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.root = run.place.root

    @cached_property
    def config(self) -> Config | None:
        """Its settings; None where they cannot be used, which another check tells."""
        try:
            return self.run.config()
        except SpearctlError:
            return None

    @property
    def quoted(self) -> str:
        """Its folder, for a command line."""
        return shlex.quote(str(self.root))


Look = Callable[[Examined], Iterator[Check]]


def checkup(run: Run, looks: tuple[tuple[str, Look], ...]) -> tuple[Check, ...]:
    """Looks at everything, one after the other.

    Args:
        run: Whose home.
        looks: What is looked at, by name.
    """
    examined, found = Examined(run), list[Check]()
    for name, look in looks:
        try:
            found.extend(look(examined))
        except Exception as error:  # also one that nobody foresaw is told, and the rest is looked at all the same
            found.append(failed(name, error))
    return tuple(found)


def failed(name: str, error: Exception, mend: str | None = None) -> Check:
    """A line for something that would make a command fail.

    Args:
        name: The thing.
        error: What the command would raise.
        mend: What mends it, if the error's own hint does not say it best.
    """
    told = errors.explain(error)
    return Check(name, "fail", told.message, mend or told.hint, error)


def libraries(examined: Examined) -> Iterator[Check]:
    """Versions of what this program is built on, and whether what training needs can be imported."""
    from importlib import metadata

    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in metadata.requires("spearctl") or ()]
    except metadata.PackageNotFoundError:
        _import_learner()
        yield Check("libraries", "ok", "a checkout that was never installed; versions are not known")
        return
    wrong = []
    needed = [found for found in wanted if found.marker is None or found.marker.evaluate({"extra": ""})]
    for requirement in needed:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append((requirement, f"{requirement.name} is not installed"))
        else:
            if not requirement.specifier.contains(version, prereleases=True):
                wrong.append((requirement, f"{requirement.name} is {version}, not {requirement.specifier}"))
    if wrong:
        lines = [str(requirement) for requirement, _ in wrong]
        error = ConfigError("; ".join(what for _, what in wrong), shlex.join(["pip", "install", *lines]))
        yield failed("libraries", error)
        return
    _import_learner()
    shown = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "peft", "pyzmq"))
    yield Check("libraries", "ok", f"{count(len(needed), 'package')} as required: {shown}")


def _import_learner() -> None:
    """Imports what training needs; raises ImportError, OSError or ConfigError where that is there and broken."""
    try:
        import training.models  # noqa: F401
    except (ImportError, OSError):  # which are told with the package
        raise
    except Exception as error:
        told = f"what training is built on cannot be imported: {type(error).__name__}: {error}"
        raise ConfigError(told, "pip install --force-reinstall torch transformers peft") from error


def home(examined: Examined) -> Iterator[Check]:
    """The folder, its format and its settings."""
    run, root = examined.run, examined.root
    shut = [path for path in (root, *_used(root)) if not _is_open(path)] if run.place.is_initialised else []
    if shut:
        is_own = all(path.lstat().st_uid == os.geteuid() for path in shut)
        more = f" and {len(shut) - 1} more" if shut[1:] else ""
        mend = "chmod -R u+rwX" if is_own else f"sudo chown -R {os.geteuid()}"
        error = HomeError(f"{shut[0]}{more}: cannot be read and written by you", f"{mend} {examined.quoted}")
        yield failed("home", error)
    else:
        config = run.config()
        yield Check("home", "ok", f"{tilde(root)}, format {config.format}, called {config.name}")


def _used(root: Path) -> Iterator[Path]:
    """All that commands read in a home; what a swarm left, and links, they do not."""
    for path in sorted(root.iterdir()) if os.access(root, os.R_OK | os.X_OK) else ():
        if not path.is_symlink() and not path.name.startswith("swarm.left-"):
            yield path
            yield from _used(path) if path.is_dir() else ()


def _is_open(path: Path) -> bool:
    """Whether this user may do what commands do: write into folders, databases, logs and locks, and read the rest."""
    if path.is_dir():
        return os.access(path, os.R_OK | os.W_OK | os.X_OK)
    is_written = path.suffix in {".jsonl", ".lock", ".log"} or path.name.startswith(("node.db", "ledger.db"))
    return os.access(path, os.R_OK | os.W_OK if is_written else os.R_OK)


def profile(examined: Examined) -> Iterator[Check]:
    """The hardware profile, and whether its device is there, and what packs its weights."""
    import profiles

    if examined.config is not None:
        found = profiles.load(examined.config.profile, examined.run.place.profiles_path)
        found = profiles.resolve(found, profiles.detect(accelerators=found.device != "cpu"))
        if found.quantization != "none":
            from training import quantization

            quantization.require(found.quantization)
        packed = "" if found.quantization == "none" else f", weights packed as {found.quantization}"
        yield Check("profile", "ok", f"{found.name}: {found.dtype} on {found.device}{packed}")


def permissions(examined: Examined) -> Iterator[Check]:
    """Whether others on this machine can read what is for its owner alone."""
    place = examined.run.place
    if not place.is_initialised:
        return
    more = [examined.root / name for name in ("swarm", "outbox", "node.log", "recovery.pem")]
    exposed = [*place.open_permissions(), *(path for path in more if path.exists() and path.stat().st_mode & 0o077)]
    if exposed:
        names = ", ".join(path.name for path in exposed)
        yield Check(
            "permissions", "warn", f"others on this machine may read {names}", f"chmod -R go-rwx {examined.quoted}"
        )
    else:
        yield Check("permissions", "ok", "for its owner alone")


def feedback(examined: Examined) -> Iterator[Check]:
    """The feedback log."""
    from training.log import read_log

    path = examined.run.place.feedback_path
    if not path.exists():
        yield Check("feedback", "ok", "no log yet")
        return
    log = read_log(path)
    if log.problems:
        bad = f"{count(len(log.problems), 'line')} cannot be read, and training leaves them out"
        yield Check("feedback", "warn", bad, examined.run.spell("feedback", "check"))
    else:
        yield Check("feedback", "ok", count(len(log.entries), "entry", "entries"))


def history(examined: Examined) -> Iterator[Check]:
    """The training history, and the adapter versions that it knows."""
    import sqlite3

    from training.errors import StoreError
    from training.history import SCHEMA_VERSION

    place = examined.run.place
    path = place.history_path
    if not place.is_initialised or not all(_is_open(found) for found in (path, place.adapters_path) if found.exists()):
        return  # told by another check
    if not path.exists() or not path.stat().st_size:
        yield Check("history", "ok", "nothing was trained yet")
        return
    try:
        with closing(open_unseen(path)) as db:
            (schema,) = db.execute("PRAGMA user_version").fetchone()
            damages = [str(line) for (line,) in db.execute("PRAGMA integrity_check") if line != "ok"]
            rows, current = _versions(db) if 0 < schema <= SCHEMA_VERSION else ([], [])
    except sqlite3.Error as error:
        schema, damages, rows, current = 0, [str(error)], [], []
    if schema > SCHEMA_VERSION:
        yield failed(
            "history", StoreError(f"{path}: written by a newer spearctl (schema {schema})", "upgrade spearctl")
        )
    elif damages or len(current) != bool(schema):
        told = f"{path}: {damages[0] if damages else 'nothing says which version is in use'}"
        yield failed("history", HomeError(f"{told}; {HISTORY_ASIDE}", _put_aside(examined)))
    else:
        yield Check("history", "ok", "whole")
        yield from _adapters(examined, rows, current[0] if current and _chooses(examined) else None)


def _versions(db: sqlite3.Connection) -> tuple[list[tuple[int, str]], list[int | None]]:
    """Numbers and digests of all versions that are there, and the number of the one in use, as a list of one."""
    rows = db.execute("SELECT number, sha256 FROM version WHERE present ORDER BY number").fetchall()
    return rows, [number for (number,) in db.execute("SELECT version FROM current")]


def _put_aside(examined: Examined) -> str:
    """What puts a history aside, with the versions that only it knows: by a new one they would be deleted."""
    from p2p.leaving import free

    place = examined.run.place
    aside = shlex.quote(str(free(examined.root / ".damaged")))
    adapters = [shlex.quote(str(place.adapters_path))] if place.adapters_path.is_dir() else []
    return f"mkdir {aside} && mv {' '.join([f'{shlex.quote(str(place.history_path))}*', *adapters])} {aside}"


def _chooses(examined: Examined) -> bool:
    """Whether this home uses a version of its own; a member uses what its swarm shares."""
    from p2p.errors import LedgerError
    from p2p.places import Places

    config = examined.config
    if config is None or not Places(examined.root).is_member:
        return True
    try:
        with swarm.view(examined.run, leave_no_trace=True) as view:
            return not shapes.fits(view.genesis, config)
    except LedgerError:  # told by another check
        return False


def _adapters(examined: Examined, rows: list[tuple[int, str]], current: int | None) -> Iterator[Check]:
    """Whether the versions are the ones that were recorded."""
    from training.adapters import adapter_digest, read_peft_folder
    from training.errors import StoreError

    good, bad = list[int](), list[int]()
    for number, digest in rows:
        try:
            held = adapter_digest(read_peft_folder(examined.run.place.adapters_path / f"local-{number}"))
        except (StoreError, OSError, ValueError):
            held = None
        (good if held == digest else bad).append(number)
    unused = ", ".join(f"local:{number}" for number in bad if number != current)
    if current in bad:
        other = f"local:{good[-1]}" if good else "base"
        told = f"local:{current} is damaged or missing, and it is in use"
        yield failed("adapters", StoreError(told, examined.run.spell("adapter", "use", other)))
    if unused:
        told = f"{unused} damaged or missing; not in use"
        yield Check("adapters", "warn", told, "put it back from a backup, or let it be")
    if not bad:
        yield Check("adapters", "ok", count(len(good), "version"))


def disk(examined: Examined) -> Iterator[Check]:
    """Free space, where the home is and where models are kept."""
    for name, path in (("disk", examined.root), ("model cache", examined.run.cache)):
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        free = shutil.disk_usage(there).free
        told, mend = f"{size(free)} free at {tilde(there)}", f"free some space: df -h {shlex.quote(str(there))}"
        if free < EMPTY_BYTES:
            yield failed(name, HomeError(told, mend))
        else:
            yield Check(name, "warn" if free < LOW_BYTES else "ok", told, mend if free < LOW_BYTES else None)


def clock(examined: Examined) -> Iterator[Check]:
    """Whether the clock runs behind what was written earlier; tickets expire by it."""
    now, place = time.time(), examined.run.place
    known = [
        path
        for path in (place.config_path, place.feedback_path, place.history_path, place.adapters_path)
        if path.exists()
    ]
    newest = max(known, key=lambda path: path.stat().st_mtime, default=None)
    mend = "set the clock: timedatectl set-ntp true"
    if now < SHIPPED:
        yield Check("clock", "warn", "the clock shows a time before this program was made", mend)
    elif newest is not None and newest.stat().st_mtime > now + AHEAD_S:
        yield Check(
            "clock",
            "warn",
            f"{newest.name} was written later than now: the clock is wrong, or was",
            f"{mend}; if it is right: touch {shlex.quote(str(newest))}",
        )
    else:
        yield Check("clock", "ok", datetime.fromtimestamp(now).astimezone().isoformat(timespec="seconds"))


def model(examined: Examined) -> Iterator[Check]:
    """Whether the base model is there, and is the one that the home was made for."""
    from training.sources import resolve

    config, run = examined.config, examined.run
    if config is None:
        return
    source = resolve(config.model, run.cache, only_look=True)
    if source.fingerprint != config.model_fingerprint:
        raise ConfigError(
            f"{config.model} is not the model that this home was made for (fingerprint {source.fingerprint[:12]},"
            f" expected {config.model_fingerprint[:12]})",
            "put the old model back, or make another home for this one: spearctl --home DIR init",
        )
    if not (source.folder / "config.json").is_file():
        yield Check("model", "warn", f"{config.model} is to be made ready once more", run.spell("train"))
    else:
        yield Check("model", "ok", f"{config.model}, fingerprint {source.fingerprint[:12]}")


def trainer(examined: Examined) -> Iterator[Check]:
    """Who trains here now."""
    holder = examined.run.place.holder()
    if holder is not None:
        yield Check("training", "ok", f"process {holder.pid} ({holder.command}) since {ago(holder.since)}")


def open_unseen(path: Path) -> sqlite3.Connection:
    """Opens a database to read it, without even the files beside it that every other reader makes."""
    import sqlite3

    alone = "" if path.with_name(f"{path.name}-wal").exists() else "&immutable=1"
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{alone}", uri=True, timeout=1.0)
