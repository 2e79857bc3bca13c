"""What a node keeps of its swarm, on a disk: small values and records in SQLite, blobs as files beside it.

    ledger.db      values, records, and the place (below)
    blobs/         see ``p2p.blobs``
    node.lock      held by the one process that may write; commands read beside it
    place.*        a symbolic link, which tells this place from copies of it

All values and records of a step enter the database in one transaction, in WAL mode, flushed. A blob lies flushed on the
disk before ``write_blob`` returns, and one that a step removes goes only after its commit: what the database names is
always there, and what a crash leaves is only ever too much. ``tidy`` removes that. A write that fails undoes the step.

*The place.* At every opening and closing a new ``place.GENERATION`` is made, its inode and change time and the inode of
the database are put into the database, and the link before it goes. Nothing that copies or restores can give a link an
old change time, so where the database names one that is not there, or not the same, this is a copy or a backup. Kills,
power cuts and reboots change none of that, nor does moving the home within one file system, nor ``chmod -R``, which
leaves links alone. Such a ledger is suspect until ``accept_as_own``, however often it is opened.

Not noticed: copies of whole file systems (disk images, snapshots, virtual machines); an older ``ledger.db`` of the same
opening that is written over this one in place, or a lost ``ledger.db-wal``. Suspected for nothing: a home on a file
system that does not keep inodes and change times over a mount, and one whose links were touched (``cp -l``, ``chown
-R``). Not covered: file systems without ``flock``, and whoever can write into the home.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from p2p.blobs import Blobs, disk_errors, flush_folder
from p2p.errors import LedgerError
from p2p.faults import reach
from p2p.records import Record, Signed, record_id

FILE_NAME = "ledger.db"
SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE value (key TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE record (
    seq INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, kind TEXT NOT NULL, body BLOB NOT NULL, signature BLOB NOT NULL
);
CREATE TABLE place (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), generation TEXT NOT NULL, marks TEXT NOT NULL);
PRAGMA user_version = 1
"""
_LOCK = "node.lock"
_PLACE = "place."
_PATIENCE_S = 10
_HINTS = {
    sqlite3.SQLITE_FULL: "free some disk space, then try again",
    sqlite3.SQLITE_IOERR: "look at the disk: is it full, or failing?",
    sqlite3.SQLITE_READONLY: "make it writable for you, or choose another place: spearctl --home DIR",
    sqlite3.SQLITE_CANTOPEN: "let yourself read and write it",
    sqlite3.SQLITE_BUSY: "another program is writing to it; try again",
}


class LedgerReader:
    """The reading half of ``p2p.storage.Storage``: for commands beside the node, what is committed when they ask.

    What one method names may be gone at the next; whoever follows a name into a blob starts again then.

    Args:
        folder: Of the ledger.
        db: Its database.

    Raises:
        LedgerError: From any method: it is damaged, or cannot be read.
    """

    def __init__(self, folder: Path, db: sqlite3.Connection) -> None:
        self.folder = folder
        self._db = db
        self._path = folder / FILE_NAME
        self._blobs = Blobs(folder / "blobs")
        self._doomed: set[bytes] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the use of the ledger."""
        self._db.close()

    @property
    def is_suspect(self) -> bool:
        """Whether this may be a copy or an old backup of what was written last."""
        while True:
            place = self._rows("SELECT generation, marks FROM place")
            if any(self._marks(generation) == marks for generation, marks in place):
                return False
            if self._rows("SELECT generation, marks FROM place") == place:  # not just replaced by the node
                return True

    def get(self, key: str) -> bytes | None:
        found = self._rows("SELECT value FROM value WHERE key = ?", key)
        return found[0][0] if found else None

    def keys(self, prefix: str) -> tuple[str, ...]:
        statement = "SELECT key FROM value WHERE key >= ? AND key < ? ORDER BY key"
        return tuple(key for (key,) in self._rows(statement, prefix, prefix + "\U0010ffff"))

    def records(self) -> Iterator[Signed]:
        return (Signed(*row) for row in self._rows("SELECT body, signature FROM record ORDER BY seq"))

    def has_blob(self, name: bytes) -> bool:
        return self.blob_bytes(name) > 0

    def read_blob(self, name: bytes) -> bytes:
        if name in self._doomed:
            raise LedgerError(f"blob {name.hex()}: removed")
        return self._blobs.read(name)

    def blobs(self) -> tuple[bytes, ...]:
        return tuple(name for name in self._blobs.names() if name not in self._doomed)

    def blob_bytes(self, name: bytes) -> int:
        return 0 if name in self._doomed else self._blobs.size(name)

    def read_chunk(self, name: bytes, offset: int, size: int) -> bytes:
        return b"" if name in self._doomed else self._blobs.read_chunk(name, offset, size)

    def partial_bytes(self, name: bytes) -> int:
        return self._blobs.partial_size(name)

    def read_partial(self, name: bytes) -> bytes:
        return self._blobs.read_partial(name)

    def check(self, is_sha256: Callable[[bytes], bool]) -> list[str]:
        """Reads everything, and says in words what is wrong with it; ``is_sha256`` as in ``Blobs.check``."""
        problems = []
        try:
            found = (line for (line,) in self._rows("PRAGMA integrity_check") if line != "ok")
            problems += [f"{self._path}: {line}" for line in found]
            for id, body in self._rows("SELECT id, body FROM record ORDER BY seq"):
                if record_id(body) != id:
                    problems.append(f"{self._path}: record {id.hex()} is not what its id says")
        except LedgerError as error:
            problems.append(error.message)
        return problems + self._blobs.check(is_sha256)

    def _marks(self, generation: str) -> str | None:
        """What tells this place from any other; None if its link is gone."""
        with disk_errors(self.folder), suppress(FileNotFoundError):
            link = os.lstat(self.folder / (_PLACE + generation))
            return f"{link.st_ino} {link.st_ctime_ns} {self._path.stat().st_ino}"
        return None

    def _rows(self, statement: str, *values: object) -> list[Any]:
        with _sqlite_errors(self._path), closing(self._db.execute(statement, values)) as cursor:
            return cursor.fetchall()


class Ledger(LedgerReader):
    """A ``p2p.storage.Storage`` on a disk. For one process at a time, in one thread.

    Args:
        folder: Made when missing, for its owner alone.

    Raises:
        LedgerError: Another process writes to it, it is damaged, or written by a newer spearctl; from any method that
            writes: the disk is full, read-only or broken. All that the step wrote is undone then.
    """

    def __init__(self, folder: Path) -> None:
        with ExitStack() as stack:
            stack.enter_context(only_writer(folder))
            super().__init__(folder, stack.enter_context(closing(_open(folder))))
            self._is_suspect = self._begin()
            self._blobs.remove_interrupted()
            self._held = stack.pop_all()
        self._is_closed = False

    @staticmethod
    def open_readonly(folder: Path, *, leave_no_trace: bool = False) -> LedgerReader:
        """Opens a ledger for reading, whether or not a node runs.

        With ``leave_no_trace``, files by which users agree on turns are not even made; nobody may write meanwhile then.

        Raises:
            LedgerError: There is none, it is damaged, or written by a newer spearctl.
        """
        path = folder.absolute() / FILE_NAME
        nothing = LedgerError(f"{path}: there is no ledger", "found a swarm, or join: spearctl invite, spearctl join")
        if not path.exists():
            raise nothing
        how = "&immutable=1" if leave_no_trace and not path.with_name(f"{FILE_NAME}-wal").exists() else ""
        with ExitStack() as stack, _sqlite_errors(path):
            db = sqlite3.connect(f"{path.as_uri()}?mode=ro{how}", uri=True, isolation_level=None, timeout=_PATIENCE_S)
            stack.callback(db.close)
            if _schema_version(db, path) == 0:
                raise nothing
            stack.pop_all()
            return LedgerReader(folder, db)

    def close(self) -> None:
        """Drops what was not committed, and lets other processes in."""
        if self._is_closed:
            return
        self._is_closed = True
        with self._held:
            self.rollback()
            if not self._is_suspect:
                with suppress(LedgerError):  # the place that is on record stays the right one
                    self._mark_place()

    @property
    def is_suspect(self) -> bool:
        """Whether this may be a copy or an old backup of what was written last."""
        return self._is_suspect

    def accept_as_own(self) -> None:
        """Makes the present place the right one: what was written last is known to be here. Commits."""
        self._mark_place()
        self._is_suspect = False

    # Steps.

    def commit(self) -> None:
        if self._db.in_transaction:
            reach("ledger.before-commit")
            with self._undone_if_it_fails(), _sqlite_errors(self._path):
                self._db.execute("COMMIT")
            reach("ledger.after-commit")
        doomed, self._doomed = self._doomed, set()
        for name in doomed:
            self._blobs.remove(name)
            reach("blob.after-remove")

    def rollback(self) -> None:
        """Undoes everything since the last commit; blobs that it wrote may stay."""
        self._doomed.clear()
        with suppress(sqlite3.Error):  # after some errors there is nothing left to undo
            self._db.execute("ROLLBACK")

    def put(self, key: str, value: bytes) -> None:
        self._run("INSERT INTO value VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, value)

    def delete(self, key: str) -> None:
        self._run("DELETE FROM value WHERE key = ?", key)

    def add_record(self, record: Record) -> None:
        """Keeps a record; one that is kept already stays where it is."""
        kind, signed = str(record.body.__struct_config__.tag), record.signed
        self._run(
            "INSERT OR IGNORE INTO record (id, kind, body, signature) VALUES (?, ?, ?, ?)",
            record.id, kind, signed.body, signed.signature,
        )  # fmt: skip

    def remove_record(self, id: bytes) -> None:
        self._run("DELETE FROM record WHERE id = ?", id)

    def write_blob(self, name: bytes, raw: bytes) -> None:
        """Keeps a whole blob. It is durable at once, and harmless should the step be undone.

        Raises:
            ValueError: It is empty.
        """
        with self._undone_if_it_fails():
            self._blobs.write(name, raw)
        self._doomed.discard(name)

    def remove_blob(self, name: bytes) -> None:
        """Removes a blob: a whole one after the commit, what there is of an unfinished one at once."""
        self._blobs.remove_partial(name)
        self._doomed.add(name)

    def write_partial(self, name: bytes, offset: int, data: bytes) -> None:
        """Adds to an unfinished blob at an offset; what was behind it is gone. Not part of the step.

        Raises:
            LedgerError: There is less of it than ``offset``.
        """
        with self._undone_if_it_fails():
            self._blobs.write_partial(name, offset, data)

    # Care.

    def tidy(self, referenced: Set[bytes]) -> None:
        """Removes what a crash left, and, with the next commit, all blobs that nothing refers to.

        Args:
            referenced: Names of blobs that are needed, those on their way included.
        """
        self._blobs.remove_interrupted()
        for name in {*self._blobs.names(), *self._blobs.partials()} - referenced:
            self.remove_blob(name)

    def _begin(self) -> bool:
        """Makes the tables of a new ledger and says that this is its place; whether an old one is out of its place."""
        if _schema_version(self._db, self._path) == 0:
            if self._blobs.names():
                raise LedgerError(f"{self._path}: missing or empty, but there are blobs", "restore it from a backup")
            with disk_errors(self.folder), suppress(PermissionError):
                flush_folder(self.folder.parent)
            for statement in _SCHEMA.split(";"):
                self._run(statement)
        elif super().is_suspect:
            return True
        self._mark_place()
        return False

    def _mark_place(self) -> None:
        """Says on the disk, and durably in the database, that this is the place. The one before counts until then."""
        generation = secrets.token_hex(8)
        with disk_errors(self.folder):
            os.symlink(_LOCK, self.folder / (_PLACE + generation))
            flush_folder(self.folder)
        reach("place.after-write")
        self._run("INSERT OR REPLACE INTO place VALUES (1, ?, ?)", generation, self._marks(generation))
        self.commit()
        reach("place.after-commit")
        for path in self.folder.glob(_PLACE + "*"):
            if path.name != _PLACE + generation:
                with suppress(OSError):
                    path.unlink()

    def _run(self, statement: str, *values: object) -> None:
        with self._undone_if_it_fails(), _sqlite_errors(self._path):
            if not self._db.in_transaction:
                self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(statement, values)

    @contextmanager
    def _undone_if_it_fails(self) -> Iterator[None]:
        """Half of a step must not become durable with the next."""
        try:
            yield
        except LedgerError:
            self.rollback()
            raise


def _open(folder: Path) -> sqlite3.Connection:
    path = folder / FILE_NAME
    with disk_errors(path):
        (folder / "blobs").mkdir(mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # an empty file is an empty database
    with ExitStack() as stack, _sqlite_errors(path):
        db = sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE_S)
        stack.callback(db.close)
        _schema_version(db, path)
        # FULL: what was committed survives a power cut, not only a crash.
        db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
        stack.pop_all()
        return db


def _schema_version(db: sqlite3.Connection, path: Path) -> int:
    """The schema's number, 0 for an empty database.

    Raises:
        LedgerError: It is newer than this spearctl.
    """
    with _sqlite_errors(path):
        found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found > SCHEMA_VERSION:
        raise LedgerError(f"{path}: written by a newer spearctl (schema {found})", "upgrade spearctl")
    return found


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keeps other writers out; the kernel ends it when the process dies."""
    path = folder / _LOCK
    with disk_errors(path):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with disk_errors(path):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(handle, 20, 0).decode(errors="replace").strip() or "not known"
                raise LedgerError(
                    f"{folder}: in use by a running node, process {holder}", "stop it: spearctl down"
                ) from None
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    """Turns what SQLite raises into a LedgerError."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        raise LedgerError(f"{path}: {error}", _HINTS.get(code, "restore it from a backup")) from error
