"""Consistent copies of the store in a folder beside it: taken while it is written to, checked before they are put back.

A copy is whole or absent: it is made under another name and renamed when its manifest is written.
"""

import hashlib
import logging
import os
import re
import secrets
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from dermnote_contracts.problems import SnapshotDamaged, UnknownSnapshot
from dermnote_contracts.retrieval import Snapshot
from dermnote_retrieval.store.database import Database
from dermnote_retrieval.store.disk import full_disk_told
from dermnote_retrieval.store.items import ROUTES

log = logging.getLogger(__name__)
MANIFEST, STORE = "manifest.json", "store.sqlite3"
# What `take` calls a snapshot that is not whole yet, and `delete` one that is on its way out.
HALF = re.compile(r"\.\d{8}T\d{6}-[0-9a-f]{8}")


class Snapshots:
    """The snapshots of one store, in `folder`."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder

    def take(self) -> Snapshot:
        """Copy the store as it is at one moment; writes go on. Raises InsufficientStorage."""
        moment = datetime.now(UTC)
        name = f"{moment:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        making = self._folder / f".{name}"
        try:
            with full_disk_told("no snapshot was kept", at=self._folder):
                making.mkdir(parents=True)
                snapshot = self._copy(making, name=name, moment=moment)
                _write(making / MANIFEST, snapshot.model_dump_json(indent=1).encode())
                making.rename(self._folder / name)
                _sync(self._folder)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise
        return snapshot

    def all(self) -> list[Snapshot]:
        """Every whole snapshot, the newest first; damaged ones are logged and passed over."""
        found = []
        for path in sorted(self._folder.glob(f"*/{MANIFEST}"), reverse=True):
            try:
                found.append(self._manifest(path.parent.name))
            except SnapshotDamaged as wrong:
                log.warning("a snapshot is passed over: %s", wrong.detail)
        return found

    def get(self, name: str) -> Snapshot:
        """One snapshot's manifest; raises UnknownSnapshot or SnapshotDamaged."""
        if not (self._folder / name / MANIFEST).is_file():
            raise UnknownSnapshot()
        return self._manifest(name)

    def check(self, snapshot: Snapshot) -> None:
        """That the file is the one that was written; raises SnapshotDamaged."""
        try:
            found = _sha256(self._folder / snapshot.id / STORE)
        except OSError as wrong:
            raise SnapshotDamaged(f"{snapshot.id}/{STORE} cannot be read: {wrong.strerror}") from wrong
        if found != snapshot.sha256:
            raise SnapshotDamaged(f"{snapshot.id}/{STORE} is not what was written (sha256 differs)")

    def put_back(self, snapshot: Snapshot) -> None:
        """Make the store what it was, all or nothing. The caller holds the write lock.

        Raises InsufficientStorage, or UnknownSnapshot for one that was deleted meanwhile.
        """
        source = self._folder / snapshot.id / STORE
        try:
            connection = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        except sqlite3.OperationalError as gone:
            raise UnknownSnapshot() from gone
        with closing(connection):
            self._database.become(connection)

    def delete(self, name: str) -> None:
        """Erase a snapshot; raises UnknownSnapshot."""
        self.get(name)
        # Away at once: one that is half deleted must not be listed.
        going = self._folder / f".{name}"
        try:
            (self._folder / name).rename(going)
        except FileNotFoundError as gone:  # somebody else deleted it just now
            raise UnknownSnapshot() from gone
        shutil.rmtree(going)

    def sweep(self) -> None:
        """Erase what a killed process left half made or half deleted, and nothing else that the folder may hold."""
        for path in self._folder.glob(".*"):
            if HALF.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)

    def _copy(self, making: Path, *, name: str, moment: datetime) -> Snapshot:
        store = making / STORE
        with closing(sqlite3.connect(store, isolation_level=None)) as copy:
            with self._database.reading() as connection:
                connection.backup(copy)
            copy.execute("pragma journal_mode = delete")  # one file, no log beside it
            items, model, counts = _figures(copy)
        _sync(store)
        return Snapshot(
            id=name,
            created_at=moment,
            items=items,
            vectors={route: counts.get(route, 0) for route in ROUTES},
            model=model.get("active_model"),
            model_id=model.get("active_model_id"),
            bytes=store.stat().st_size,
            sha256=_sha256(store),
        )

    def _manifest(self, name: str) -> Snapshot:
        path = self._folder / name / MANIFEST
        try:
            snapshot = Snapshot.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as wrong:
            raise SnapshotDamaged(f"{name}/{MANIFEST} cannot be read") from wrong
        if snapshot.id != name:
            raise SnapshotDamaged(f"{name}/{MANIFEST} is the manifest of {snapshot.id}")
        return snapshot


def _figures(copy: sqlite3.Connection) -> tuple[int, dict[str, str], dict[str, int]]:
    """(items, what meta holds, vectors of the active model by route)."""
    meta = dict(copy.execute("select key, value from meta").fetchall())
    sql = "select route, count(*) from vectors where model_id = ? group by route"
    counts = dict(copy.execute(sql, (meta.get("active_model_id"),)).fetchall())
    return int(copy.execute("select count(*) from items").fetchone()[0]), meta, counts


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    _sync(path)


def _sync(path: Path) -> None:
    """On disk, a file or a folder's entries."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
