"""Recognises a full disk in the errors of any layer."""

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dermnote_contracts.problems import InsufficientStorage

FULL = (errno.ENOSPC, errno.EDQUOT)
# A file that cannot grow: the store or its log, and the log's shared memory.
SQLITE_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
# An exhausted quota and a disk that only fails on sync end with one of these primary codes; so do broken disks.
SQLITE_MAYBE_FULL = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
PROBE_BYTES = 1 << 16


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
    """Whether a small file does not fit: SQLite hides the operating system's error code."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return error.errno in FULL
    return False
