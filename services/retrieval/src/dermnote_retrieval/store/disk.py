"""Telling a full disk from other trouble, whichever layer met it."""

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dermnote_contracts.problems import InsufficientStorage

FULL = (errno.ENOSPC, errno.EDQUOT)
# A file that can't grow: the store or its log, and the log's shared memory.
SQLITE_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
# A used-up quota and a disk that only notices when it syncs end like this, whatever the code's upper bits say; so do
# broken disks.
SQLITE_MAYBE_FULL = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
PROBE_BYTES = 1 << 16


@contextmanager
def full_disk_told(detail: str, *, at: Path) -> Iterator[None]:
    """Raise InsufficientStorage with `detail` for whatever the full disk of a folder makes of the work inside."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as wrong:
        if _is_full(wrong, folder=at):
            raise InsufficientStorage(detail) from wrong
        raise


def _is_full(wrong: OSError | sqlite3.OperationalError, *, folder: Path) -> bool:
    if isinstance(wrong, OSError):
        return wrong.errno in FULL
    code = getattr(wrong, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code in SQLITE_FULL or (code & 0xFF in SQLITE_MAYBE_FULL and _takes_no_more(folder))


def _takes_no_more(folder: Path) -> bool:
    """Whether a small file finds no room: SQLite does not say what the operating system told it."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as wrong:
        return wrong.errno in FULL
    return False
