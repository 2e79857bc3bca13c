"""What this device has learned and when: adapter versions, rounds, what was trained on, and what versions were worth.

One SQLite database in WAL mode. A round enters it in one transaction, after its adapter lies safely on disk: a version
that is not in here does not exist, whatever folder a crash left behind. An older database is brought up to date when it
is opened, after a copy of it was put beside it.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from training.errors import StoreError, UnknownAdapterError
from training.faults import reach

BASE = "base"
"""The adapter version that changes nothing."""

SCHEMA_VERSION = 2

COPY_SUFFIX = ".schema-1"
"""Of the copy of a database of schema 1 that is kept when it is brought up to date."""

_SINCE_1 = """
CREATE TABLE evaluation (
    number INTEGER PRIMARY KEY, at TEXT NOT NULL, adapter TEXT NOT NULL, log_sha256 TEXT NOT NULL,
    n INTEGER NOT NULL, right INTEGER NOT NULL, formatted INTEGER NOT NULL
);
CREATE TABLE origin (version INTEGER PRIMARY KEY REFERENCES version (number), said TEXT NOT NULL);
PRAGMA user_version = 2
"""
_SCHEMA = (
    """
CREATE TABLE version (
    number INTEGER PRIMARY KEY, created_at TEXT NOT NULL, parent TEXT NOT NULL,
    wins INTEGER NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, present INTEGER NOT NULL DEFAULT 1
);
CREATE TABLE round (
    number INTEGER PRIMARY KEY, started_at TEXT NOT NULL, seconds REAL NOT NULL,
    version INTEGER REFERENCES version (number), report TEXT NOT NULL
);
CREATE TABLE trained (attempt_key TEXT PRIMARY KEY, round INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE played (prompt_key TEXT PRIMARY KEY, times INTEGER NOT NULL, last_round INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE current (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), version INTEGER REFERENCES version (number));
INSERT INTO current VALUES (1, NULL);
"""
    + _SINCE_1
)
_HINTS = {
    sqlite3.SQLITE_FULL: "free some disk space and try again",
    sqlite3.SQLITE_IOERR: "look at the disk: is it full or failing, or are files limited in size (ulimit -f)?",
    sqlite3.SQLITE_READONLY: "make it writable for you, or choose another home: --home DIR",
    sqlite3.SQLITE_CANTOPEN: "see that its folder is there, and let yourself read and write both",
    sqlite3.SQLITE_BUSY: "another process is writing to it; try again",
}


@dataclass(frozen=True, slots=True)
class Version:
    """An immutable adapter version.

    Attributes:
        name: ``local:N``.
        number: N.
        created_at: ISO 8601, UTC, by this device's clock.
        parent: Name of the version it was trained from; ``round:R`` where it was taken over from a swarm.
        round: Number of the round that made it, if one did.
        wins: What that round won.
        sha256: Digest of the adapter's canonical bytes.
        bytes: Size on disk.
        present: False once it was deleted to save space.
    """

    name: str
    number: int
    created_at: str
    parent: str
    round: int | None
    wins: int
    sha256: str
    bytes: int
    present: bool


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """A round as it was reported, with the version it made (None where it made none)."""

    number: int
    started_at: str
    seconds: float
    version: str | None
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """How good an adapter was on a log.

    Attributes:
        at: When, ISO 8601, UTC, by this device's clock.
        adapter: The version; ``round:R`` for what a swarm shared, with what was learned here on top.
        log_sha256: Of the questions. Only figures on the same ones can be compared.
        n: How many questions.
        right: Answers that were right and in the asked form.
        formatted: Answers in the asked form.
    """

    at: str
    adapter: str
    log_sha256: str
    n: int
    right: int
    formatted: int


@dataclass(frozen=True, slots=True)
class NewVersion:
    """What :meth:`History.commit` records of a new version, already on disk."""

    number: int
    parent: str
    wins: int
    sha256: str
    bytes: int


class History:
    """The database of one home. Readers never wait for a writer, nor a writer for readers.

    Args:
        path: Of the database; created when missing.

    Raises:
        StoreError: It is damaged, or written by a newer spearctl.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _explained(self.path):
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
            # FULL: a committed round survives a power cut, not only a crash.
            self._db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
            if self._schema_version() == 0:
                self._bring_up_to_date(0, _SCHEMA)
            elif self._schema_version() == 1:
                self._bring_up_to_date(1, _SINCE_1)
            found = self._schema_version()
        if found > SCHEMA_VERSION:
            self._db.close()
            raise StoreError(f"{path}: written by a newer spearctl (schema {found})", "upgrade spearctl")

    def _bring_up_to_date(self, before: int, statements: str) -> None:
        with _transaction(self._db):
            if self._schema_version() != before:  # another process was faster
                return
            if before:
                _keep_copy(self.path, self.path.with_name(f"{self.path.name}{COPY_SUFFIX}"))
            for statement in statements.split(";"):
                self._db.execute(statement)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    @property
    def current(self) -> str:
        """Name of the version in use."""
        return _name(self._row("SELECT version FROM current")[0])

    def versions(self) -> tuple[Version, ...]:
        """Every version ever made, oldest first, deleted ones included."""
        rows = self._rows(
            "SELECT v.number, v.created_at, v.parent, r.number, v.wins, v.sha256, v.bytes, v.present"
            " FROM version v LEFT JOIN round r ON r.version = v.number ORDER BY v.number"
        )
        return tuple(
            Version(_name(number), number, created, parent, made_in, wins, sha256, size, bool(present))
            for number, created, parent, made_in, wins, sha256, size, present in rows
        )

    def version(self, name: str) -> Version:
        """One version that is still on disk.

        Raises:
            UnknownAdapterError: There is none of that name, or it was deleted.
        """
        found = {version.name: version for version in self.versions()}.get(name)
        if found is None or not found.present:
            state = "was deleted to save space" if found else "is not known"
            raise UnknownAdapterError(f"adapter {name} {state}", "see which there are: spearctl adapter list")
        return found

    def use(self, name: str) -> None:
        """Makes a version the current one; ``base`` always exists.

        Raises:
            UnknownAdapterError: There is no such version.
        """
        number = None if name == BASE else self.version(name).number
        self._run("UPDATE current SET version = ?", number)

    def rounds(self, limit: int | None = None) -> tuple[RoundRecord, ...]:
        """The last ``limit`` rounds (all without one), oldest first."""
        rows = self._rows(
            "SELECT number, started_at, seconds, version, report FROM round ORDER BY number DESC LIMIT ?",
            -1 if limit is None else limit,
        )
        with _explained(self.path):
            return tuple(
                RoundRecord(number, started, seconds, None if version is None else _name(version), json.loads(report))
                for number, started, seconds, version, report in reversed(rows)
            )

    def evaluations(self, limit: int | None = None) -> tuple[EvaluationRecord, ...]:
        """The last ``limit`` evaluations (all without one), oldest first."""
        rows = self._rows(
            "SELECT at, adapter, log_sha256, n, right, formatted FROM evaluation ORDER BY number DESC LIMIT ?",
            -1 if limit is None else limit,
        )
        return tuple(EvaluationRecord(*row) for row in reversed(rows))

    def add_evaluation(self, *, adapter: str, log_sha256: str, n: int, right: int, formatted: int) -> None:
        """Records how good an adapter was on a log, now."""
        self._run(
            "INSERT INTO evaluation (at, adapter, log_sha256, n, right, formatted) VALUES (?, ?, ?, ?, ?, ?)",
            *(datetime.now(UTC).isoformat(timespec="seconds"), adapter, log_sha256, n, right, formatted),
        )

    def next_round(self) -> int:
        """Number of the round that comes next, from 1."""
        return int(self._row("SELECT coalesce(max(number), 0) + 1 FROM round")[0])

    def next_version(self) -> int:
        """Number of the version that comes next, from 1; never used before, deleted ones included."""
        return int(self._row("SELECT coalesce(max(number), 0) + 1 FROM version")[0])

    def trained_count(self) -> int:
        """How many attempts of people were trained on."""
        return int(self._row("SELECT count(*) FROM trained")[0])

    def trained(self) -> frozenset[str]:
        """Keys of all attempts that were trained on."""
        return frozenset(key for (key,) in self._rows("SELECT attempt_key FROM trained"))

    def plays(self) -> dict[str, int]:
        """How often each prompt was played, by prompt key."""
        return dict(self._rows("SELECT prompt_key, times FROM played"))

    def commit(
        self,
        *,
        number: int,
        seconds: float,
        report: Mapping[str, Any],
        version: NewVersion | None,
        trained: Iterable[str] = (),
        played: Iterable[str] = (),
    ) -> None:
        """Records a round, its version, which becomes the current one, and what it used up: all of it or nothing."""
        now = datetime.now(UTC)
        started = datetime.fromtimestamp(now.timestamp() - seconds, UTC).isoformat(timespec="seconds")
        with _explained(self.path), _transaction(self._db):
            if version is not None:
                self._insert(version, now)
            self._db.execute(
                "INSERT INTO round VALUES (?, ?, ?, ?, ?)",
                (number, started, seconds, version and version.number, json.dumps(report)),
            )
            self._db.executemany("INSERT OR IGNORE INTO trained VALUES (?, ?)", [(key, number) for key in trained])
            self._db.executemany(
                "INSERT INTO played VALUES (?, 1, ?)"
                " ON CONFLICT (prompt_key) DO UPDATE SET times = times + 1, last_round = excluded.last_round",
                [(key, number) for key in played],
            )
            reach("history.before-commit")
        reach("history.after-commit")

    def adopt(self, version: NewVersion, origin: str | None = None) -> None:
        """Records a version that no round made, and makes it the current one: what others learned came with it.

        Args:
            version: Already on disk.
            origin: Where it came from, if somebody brought it.
        """
        with _explained(self.path), _transaction(self._db):
            self._insert(version, datetime.now(UTC))
            if origin is not None:
                self._db.execute("INSERT INTO origin VALUES (?, ?)", (version.number, origin))
            reach("history.before-commit")
        reach("history.after-commit")

    def origins(self) -> dict[str, str]:
        """Where the versions came from that somebody brought, by their names."""
        return {_name(number): said for number, said in self._rows("SELECT version, said FROM origin")}

    def _insert(self, version: NewVersion, now: datetime) -> None:
        self._db.execute(
            "INSERT INTO version (number, created_at, parent, wins, sha256, bytes) VALUES (?, ?, ?, ?, ?, ?)",
            (version.number, now.isoformat(timespec="seconds"), version.parent, version.wins, version.sha256,
             version.bytes),
        )  # fmt: skip
        self._db.execute("UPDATE current SET version = ?", (version.number,))

    def mark_deleted(self, names: Iterable[str]) -> None:
        """Records that the folders of these versions are going to be deleted."""
        numbers = [(self.version(name).number,) for name in names]
        with _explained(self.path), _transaction(self._db):
            self._db.executemany("UPDATE version SET present = 0 WHERE number = ?", numbers)

    def _schema_version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _rows(self, statement: str, *values: object) -> list[Any]:
        with _explained(self.path), closing(self._db.execute(statement, values)) as cursor:
            return cursor.fetchall()

    def _row(self, statement: str) -> Any:
        found = self._rows(statement)
        if not found:
            raise _failed(self.path, ValueError("a row that is always there is missing"))
        return found[0]

    def _run(self, statement: str, *values: object) -> None:
        with _explained(self.path):
            self._db.execute(statement, values)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns what SQLite raises into a StoreError, and what its answers raise where they are not even text."""
    try:
        yield
    except (sqlite3.Error, ValueError) as error:
        raise _failed(path, error) from error


class _transaction:
    """BEGIN IMMEDIATE, then COMMIT, or ROLLBACK if the block raised."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._db.in_transaction:
            self._db.execute("COMMIT" if error is None else "ROLLBACK")


def _keep_copy(path: Path, target: Path) -> None:
    """Copies a database that nobody writes to meanwhile, durably."""
    scratch = target.with_name(f".{target.name}.new")
    try:
        os.close(os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600))
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(scratch)) as copy:
            copy.execute("PRAGMA synchronous = FULL")
            source.backup(copy)
        os.replace(scratch, target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        hint = "look at the free space and the permissions there"
        raise StoreError(f"{target}: the history cannot be copied: {error.strerror}", hint) from error


def _name(number: int | None) -> str:
    return BASE if number is None else f"local:{number}"


def _failed(path: Path, error: Exception) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest says more than there is advice for
    otherwise = "restore it from a backup, or see what else there is to do: spearctl doctor"
    return StoreError(f"{path}: {error}", _HINTS.get(code, otherwise))
