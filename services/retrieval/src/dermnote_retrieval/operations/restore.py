"""Restoring a snapshot: the model it was taken with, the store as it was, and new indexes over it.

Searches meanwhile are rejected with 503: an old index over the new store would return the wrong items.
"""

import logging

from dermnote_contracts.problems import Conflict, InsufficientStorage, ModelMismatch
from dermnote_contracts.retrieval import Snapshot
from dermnote_retrieval.encoder.batched import ModelLoader
from dermnote_retrieval.encoder.protocol import Encoder
from dermnote_retrieval.index.adaptive import Limits
from dermnote_retrieval.ingest.writer import ItemWriter, ServedModel, build_indexes
from dermnote_retrieval.operations.reembedding import Reembedding
from dermnote_retrieval.operations.snapshots import Snapshots

log = logging.getLogger(__name__)


class Restore:
    """Restores snapshots, one at a time."""

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
        """Clear the target of a snapshot taken during re-embedding. The store is already restored: must not fail."""
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
