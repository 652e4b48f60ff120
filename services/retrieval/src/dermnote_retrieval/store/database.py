"""One SQLite file in WAL mode: one writer at a time, any number of readers, and a lock against a second process.

synchronous=FULL: a committed transaction survives kill -9 and power loss.
"""

import errno
import fcntl
import os
import sqlite3
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from dermnote_contracts.problems import Conflict, DermnoteError, InsufficientStorage, StartRefused, Stopping

FULL = (errno.ENOSPC, errno.EDQUOT)
# SQLite's codes when a file cannot grow: the store or its log, and the log's shared memory.
SQLITE_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
# An exhausted quota, or a full disk that fails only on sync, yields one of these primary codes; so does a broken disk.
SQLITE_MAYBE_FULL = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
PROBE_BYTES = 1 << 16
# `items.changed` and the table `erased` are unused; they stay so that stores and snapshots can be exchanged with 0.1.
SCHEMA_VERSION = 3
SCHEMA = """
create table items (
    number integer primary key autoincrement, id text not null unique, note text, metadata text not null, grp text,
    version integer not null, has_image integer not null, updated_at text not null, changed integer not null,
    note_digest text, signs integer, digest text
) strict;
create index items_by_group on items (grp) where grp is not null;
create index items_by_change on items (changed);
create table erased (number integer primary key, changed integer not null) strict;
create index erased_by_change on erased (changed);
create table pictures (
    item integer primary key references items (number) on delete cascade, image blob not null, thumbnail blob not null
) strict;
create table facts (
    item integer not null references items (number) on delete cascade, path text not null, value,
    primary key (path, value, item)
) without rowid;
create index facts_by_item on facts (item);
create table vectors (
    item integer not null references items (number) on delete cascade, route text not null, model_id text not null,
    vector blob not null, primary key (model_id, route, item)
) strict;
create index vectors_by_item on vectors (item);
create table meta (key text primary key, value text not null) strict;
"""

# Statements that upgrade a store from a schema version to the next.
UPGRADES = {
    1: """
alter table items add column changed integer not null default 0;
alter table items add column note_digest text;
alter table items add column signs integer;
create index items_by_change on items (changed);
create table erased (number integer primary key, changed integer not null) strict;
create index erased_by_change on erased (changed);
""",
    2: "alter table items add column digest text",
}
# temp_store: queries leave nothing in the temporary folder. journal_size_limit: bytes of the log kept after a large
# write.
PRAGMAS = (
    "synchronous = full",
    "foreign_keys = on",
    "secure_delete = on",
    "busy_timeout = 5000",
    "temp_store = memory",
    "journal_size_limit = 67108864",
)


class Database:
    """Connections to one file. `write_lock` may be held across several transactions."""

    def __init__(self, folder: Path) -> None:
        self.write_lock = threading.RLock()
        self._guard = _lock_folder(folder)
        self._folder = folder
        self._path = folder / "store.sqlite3"
        self._readers: deque[sqlite3.Connection] = deque()
        self._closed = False
        try:
            with translate_full_disk(f"{self._path} cannot be opened; free some space and start again", at=folder):
                self._writer = self._connect()
                self._create()
        except sqlite3.DatabaseError as error:
            self._guard.close()
            raise StartRefused(f"{self._path} cannot be opened as a store ({error}); restore it or move it") from error
        except DermnoteError:
            self._guard.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction, committed to disk when the block ends. Raises InsufficientStorage when the disk is full."""
        with self.write_lock, translate_full_disk("nothing was stored for this request", at=self._folder):
            self._check_open()
            try:
                self._writer.execute("begin immediate")
                yield self._writer
                self._writer.execute("commit")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("rollback")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for reading; each statement sees the last committed state."""
        self._check_open()
        try:
            connection = self._readers.pop()
        except IndexError:
            connection = self._connect()
        try:
            yield connection
        finally:
            self._readers.append(connection)
            if self._closed:
                self._close_readers()

    def rows(self, sql: str, *values: Any) -> list[Any]:
        """All rows of a query."""
        with self.reading() as connection:
            return connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: Any) -> Any:
        """The first row of a query, or None."""
        with self.reading() as connection:
            return connection.execute(sql, values).fetchone()

    def replace_with(self, other: sqlite3.Connection) -> None:
        """Replace the whole content with that of another database, in one transaction.

        Raises Conflict if the other database has a different schema version, InsufficientStorage when the disk is full.
        """
        (version,) = other.execute("pragma user_version").fetchone()
        if version != SCHEMA_VERSION:
            raise Conflict(f"the snapshot has schema {version}, this version reads {SCHEMA_VERSION}")
        with self.write_lock:
            self._check_open()
            self._truncate_log()  # so that all of the log can be released if the copy fails
            try:
                with translate_full_disk("the store is unchanged", at=self._folder):
                    other.backup(self._writer)
            except InsufficientStorage:
                self._truncate_log()
                raise

    def size(self) -> int:
        """Bytes of the database's files."""
        files = [self._path, *(self._path.with_name(f"{self._path.name}-{kind}") for kind in ("wal", "shm"))]
        return sum(file.stat().st_size for file in files if file.exists())

    def close(self) -> None:
        """Close every connection and release the folder. Later calls raise Stopping."""
        self._closed = True
        self._close_readers()
        with self.write_lock:
            self._writer.close()
        self._guard.close()

    def _close_readers(self) -> None:
        with suppress(IndexError):
            while True:
                self._readers.pop().close()

    def _check_open(self) -> None:
        if self._closed:
            raise Stopping(retry_after_s=1)

    def _truncate_log(self) -> None:
        """Truncate the write-ahead log, if possible, to release its disk space."""
        with suppress(sqlite3.OperationalError):
            self._writer.execute("pragma wal_checkpoint(truncate)")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        connection.execute("pragma journal_mode = wal")
        for pragma in PRAGMAS:
            connection.execute(f"pragma {pragma}")
        return connection

    def _create(self) -> None:
        (version,) = self._writer.execute("pragma user_version").fetchone()
        if version == 0:
            self._apply(SCHEMA, version=SCHEMA_VERSION)
            version = SCHEMA_VERSION
        while version in UPGRADES:
            self._apply(UPGRADES[version], version=version + 1)
            version += 1
        if version != SCHEMA_VERSION:
            raise StartRefused(
                f"{self._path} has schema {version}, but this version of the service reads {SCHEMA_VERSION}; "
                "use another RETRIEVAL_DATA_DIR"
            )

    def _apply(self, statements: str, *, version: int) -> None:
        """Run the statements and set the version in one transaction; `executescript` would commit on its own."""
        with self.transaction() as connection:
            for statement in filter(str.strip, statements.split(";")):
                connection.execute(statement)
            connection.execute(f"pragma user_version = {version}")


def _lock_folder(folder: Path) -> IO[bytes]:
    """A lock on the data folder, which the operating system releases however the process ends; raises StartRefused."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        guard = (folder / "store.lock").open("ab")
    except OSError as error:
        raise StartRefused(f"the data folder {folder} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        guard.close()
        raise StartRefused(f"another process serves the data folder {folder}; stop it or use another folder") from error
    return guard


@contextmanager
def translate_full_disk(detail: str, *, at: Path) -> Iterator[None]:
    """Raise InsufficientStorage with `detail` when the block fails because the disk of the folder `at` is full."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        if _is_full(error, folder=at):
            raise InsufficientStorage(detail) from error
        raise


def _is_full(error: OSError | sqlite3.OperationalError, *, folder: Path) -> bool:
    if isinstance(error, OSError):
        return error.errno in FULL
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code in SQLITE_FULL or (code & 0xFF in SQLITE_MAYBE_FULL and _probe_fails(folder))


def _probe_fails(folder: Path) -> bool:
    """Whether the disk has no space for a small file; needed because SQLite hides the operating system's error code."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return error.errno in FULL
    return False
