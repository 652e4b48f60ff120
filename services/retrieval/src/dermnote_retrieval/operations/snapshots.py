"""Snapshots: consistent copies of the store, taken while it is written to, and verified before they are restored.

A snapshot is complete or absent: it is written under a temporary name, the manifest last, and then renamed.
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

from dermnote_contracts.problems import Conflict, InsufficientStorage, ModelMismatch, SnapshotDamaged, UnknownSnapshot
from dermnote_contracts.retrieval import Snapshot
from dermnote_retrieval.encoder.base import Encoder, ModelLoader
from dermnote_retrieval.index.adaptive import Limits
from dermnote_retrieval.ingest.writer import ItemWriter, ServedModel, build_indexes
from dermnote_retrieval.operations.reembedding import Reembedding
from dermnote_retrieval.store.database import Database, translate_full_disk
from dermnote_retrieval.store.items import ROUTES

log = logging.getLogger(__name__)
MANIFEST, STORE = "manifest.json", "store.sqlite3"
# Name of a snapshot that `take` has not completed yet, or that `delete` has not completely removed yet.
INCOMPLETE = re.compile(r"\.\d{8}T\d{6}-[0-9a-f]{8}")


class Snapshots:
    """The snapshots of one store, in `folder`."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder

    def take(self) -> Snapshot:
        """Copy the store as it is at one moment, while writes continue. Raises InsufficientStorage."""
        moment = datetime.now(UTC)
        name = f"{moment:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        partial = self._folder / f".{name}"
        try:
            with translate_full_disk("the snapshot was not stored", at=self._folder):
                partial.mkdir(parents=True)
                snapshot = self._copy(partial, name=name, moment=moment)
                (partial / MANIFEST).write_text(snapshot.model_dump_json(indent=1))
                _sync(partial / MANIFEST)
                partial.rename(self._folder / name)
                _sync(self._folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return snapshot

    def all(self) -> list[Snapshot]:
        """Every complete snapshot, newest first; damaged ones are logged and skipped."""
        snapshots = []
        for path in sorted(self._folder.glob(f"*/{MANIFEST}"), reverse=True):
            try:
                snapshots.append(self._manifest(path.parent.name))
            except SnapshotDamaged as error:
                log.warning("skipping a snapshot: %s", error.detail)
        return snapshots

    def get(self, name: str) -> Snapshot:
        """The manifest of a snapshot; raises UnknownSnapshot or SnapshotDamaged."""
        if not (self._folder / name / MANIFEST).is_file():
            raise UnknownSnapshot()
        return self._manifest(name)

    def verify(self, snapshot: Snapshot) -> None:
        """Verify the sha256 of the snapshot's file; raises SnapshotDamaged."""
        try:
            actual = _sha256(self._folder / snapshot.id / STORE)
        except OSError as error:
            raise SnapshotDamaged(f"{snapshot.id}/{STORE} cannot be read: {error.strerror}") from error
        if actual != snapshot.sha256:
            raise SnapshotDamaged(f"{snapshot.id}/{STORE} differs from what was written (sha256 mismatch)")

    def copy_back(self, snapshot: Snapshot) -> None:
        """Replace the content of the store by the snapshot, all or nothing. The caller holds the write lock.

        Raises InsufficientStorage, or UnknownSnapshot if it was deleted meanwhile.
        """
        source = self._folder / snapshot.id / STORE
        try:
            connection = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        except sqlite3.OperationalError as error:
            raise UnknownSnapshot() from error
        with closing(connection):
            self._database.replace_with(connection)

    def delete(self, name: str) -> None:
        """Erase a snapshot; raises UnknownSnapshot."""
        self.get(name)
        # Renamed first: a partly deleted snapshot must not be listed.
        doomed = self._folder / f".{name}"
        try:
            (self._folder / name).rename(doomed)
        except FileNotFoundError as error:  # another request has just deleted it
            raise UnknownSnapshot() from error
        shutil.rmtree(doomed)

    def sweep(self) -> None:
        """Erase incomplete snapshots of a killed process, and nothing else in the folder."""
        for path in self._folder.glob(".*"):
            if INCOMPLETE.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)

    def _copy(self, partial: Path, *, name: str, moment: datetime) -> Snapshot:
        store = partial / STORE
        with closing(sqlite3.connect(store, isolation_level=None)) as copy:
            with self._database.reading() as connection:
                connection.backup(copy)
            copy.execute("pragma journal_mode = delete")  # one file, without a log
            items, meta, counts = _summary(copy)
        _sync(store)
        return Snapshot(
            id=name,
            created_at=moment,
            items=items,
            vectors={route: counts.get(route, 0) for route in ROUTES},
            model=meta.get("active_model"),
            model_id=meta.get("active_model_id"),
            bytes=store.stat().st_size,
            sha256=_sha256(store),
        )

    def _manifest(self, name: str) -> Snapshot:
        path = self._folder / name / MANIFEST
        try:
            snapshot = Snapshot.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise SnapshotDamaged(f"{name}/{MANIFEST} cannot be read") from error
        if snapshot.id != name:
            raise SnapshotDamaged(f"{name}/{MANIFEST} is the manifest of {snapshot.id}")
        return snapshot


def _summary(copy: sqlite3.Connection) -> tuple[int, dict[str, str], dict[str, int]]:
    """(number of items, content of meta, number of the active model's vectors per route)."""
    meta = dict(copy.execute("select key, value from meta").fetchall())
    sql = "select route, count(*) from vectors where model_id = ? group by route"
    counts = dict(copy.execute(sql, (meta.get("active_model_id"),)).fetchall())
    return int(copy.execute("select count(*) from items").fetchone()[0]), meta, counts


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Flush a file or a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Restore:
    """Restores snapshots, one at a time: the model, the store as it was, and new indexes over it.

    Searches meanwhile are rejected with 503: an old index over the new store would return the wrong items.
    """

    def __init__(
        self,
        writer: ItemWriter,
        snapshots: Snapshots,
        *,
        reembedding: Reembedding,
        models: ModelLoader,
        limits: Limits,
    ) -> None:
        self._writer = writer
        self._snapshots = snapshots
        self._reembedding = reembedding
        self._models = models
        self._limits = limits

    def run(self, snapshot_id: str) -> Snapshot:
        """Serve the content of a snapshot; everything stored since is lost.

        Raises UnknownSnapshot, SnapshotDamaged, Conflict while the store is re-embedded, and ModelMismatch or
        UnknownModel if the snapshot's model is not available.
        """
        snapshot = self._snapshots.get(snapshot_id)
        self._snapshots.verify(snapshot)
        writer = self._writer
        with self._reembedding.paused():
            encoder = self._encoder(snapshot)
            with writer.items.database.write_lock:
                with writer.new_epoch():
                    self._snapshots.copy_back(snapshot)
                self._forget_target()
                indexes = build_indexes(writer.vectors, encoder.manifest, limits=self._limits)
                previous, writer.served = writer.served, ServedModel(encoder, indexes, writer.epoch)
                writer.version += 1
        if previous.encoder is not encoder:
            previous.encoder.close()
        log.info("restored snapshot %s: %d items", snapshot_id, snapshot.items)
        return snapshot

    def _forget_target(self) -> None:
        """Clear the target that a snapshot taken during re-embedding holds. Never fails on a full disk."""
        try:
            if self._writer.vectors.model("target") is not None:
                self._writer.vectors.set_target(None)
        except InsufficientStorage:
            log.warning("the disk is full: the next start resumes the re-embedding during which the snapshot was taken")

    def _encoder(self, snapshot: Snapshot) -> Encoder:
        """The encoder of the snapshot's model: the one that is served, or a newly loaded one."""
        served = self._writer.served
        if snapshot.model_id in (None, served.model_id):
            return served.encoder
        if snapshot.model is None:
            raise Conflict("the snapshot does not name the model of its vectors")
        encoder = self._models.load(snapshot.model)
        if encoder.manifest.model_id != snapshot.model_id:
            encoder.close()
            raise ModelMismatch(
                f"the snapshot's vectors were computed by {snapshot.model} ({snapshot.model_id}); "
                f"the model folder now holds {encoder.manifest.model_id}"
            )
        return encoder
