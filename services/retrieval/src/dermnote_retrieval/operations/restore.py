"""Going back to a snapshot: the model that it was made with, the store as it was, and fresh indexes over it.

Searches are refused with 503 meanwhile: an old index over the new store would name the wrong items.
"""

import logging

from dermnote_contracts.problems import Conflict, InsufficientStorage, ModelMismatch
from dermnote_contracts.retrieval import Snapshot
from dermnote_retrieval.encoder.protocol import Encoder, ModelSource
from dermnote_retrieval.index.adaptive import Limits
from dermnote_retrieval.ingest.writer import Catalogue, Serving, build_indexes
from dermnote_retrieval.operations.checkpoint import Checkpoint
from dermnote_retrieval.operations.reembedding import Activation
from dermnote_retrieval.operations.snapshots import Snapshots

log = logging.getLogger(__name__)


class Restoring:
    """Puts snapshots back, one at a time."""

    def __init__(
        self,
        catalogue: Catalogue,
        snapshots: Snapshots,
        *,
        checkpoint: Checkpoint,
        activation: Activation,
        source: ModelSource,
        limits: Limits,
    ) -> None:
        self._catalogue = catalogue
        self._snapshots = snapshots
        self._checkpoint = checkpoint
        self._activation = activation
        self._source = source
        self._limits = limits

    def restore(self, name: str) -> Snapshot:
        """Serve what a snapshot holds; what was stored since is gone.

        Raises UnknownSnapshot, SnapshotDamaged, Conflict while the store moves to another model, and ModelMismatch or
        UnknownModel where the snapshot's model is not to be had.
        """
        snapshot = self._snapshots.get(name)
        self._snapshots.check(snapshot)
        with self._activation.none_going_on():
            encoder = self._encoder(snapshot)
            catalogue = self._catalogue
            with catalogue.items.database.write_lock:
                self._checkpoint.forget()  # before: change numbers go back, and it would seem to be of this store
                with catalogue.new_epoch():
                    self._snapshots.put_back(snapshot)
                self._forget_target()
                indexes = build_indexes(catalogue.vectors, encoder.manifest, limits=self._limits)
                before, catalogue.serving = catalogue.serving, Serving(encoder, indexes, catalogue.epoch)
                catalogue.state += 1
        if before.encoder is not encoder:
            before.encoder.close()
        log.info("restored snapshot %s: %d items", name, snapshot.items)
        return snapshot

    def _forget_target(self) -> None:
        """It may have been taken while the store moved to another model. The store is put back: this must not fail."""
        try:
            if self._catalogue.vectors.model("target") is not None:
                self._catalogue.vectors.set_target(None)
        except InsufficientStorage:
            log.warning("the disk is full: the next start goes on with the move that the snapshot was taken in")

    def _encoder(self, snapshot: Snapshot) -> Encoder:
        """The encoder of the snapshot's model: the one that serves, or loaded anew."""
        serving = self._catalogue.serving
        if snapshot.model_id in (None, serving.model_id):
            return serving.encoder
        if snapshot.model is None:
            raise Conflict("the snapshot does not say which model made its vectors")
        encoder = self._source.load(snapshot.model)
        if encoder.manifest.model_id != snapshot.model_id:
            encoder.close()
            raise ModelMismatch(
                f"the snapshot's vectors were made by {snapshot.model} ({snapshot.model_id}); "
                f"the model folder now holds {encoder.manifest.model_id}"
            )
        return encoder
