"""The service's parts, put together once: store, model, index, search. What the routes get to call."""

import logging
from dataclasses import dataclass

from dermnote_contracts.problems import ModelMismatch, StartRefused, UnknownModel
from dermnote_retrieval.encoder.batched import BatchedModels
from dermnote_retrieval.encoder.dummy import DummyModels
from dermnote_retrieval.encoder.model_folders import FolderModels
from dermnote_retrieval.encoder.protocol import Encoder, ModelSource
from dermnote_retrieval.index.adaptive import Limits
from dermnote_retrieval.index.scan import use_threads
from dermnote_retrieval.ingest.images import Decoder, ImageLimits
from dermnote_retrieval.ingest.writer import Catalogue, Serving, build_indexes
from dermnote_retrieval.operations.checkpoint import Checkpoint
from dermnote_retrieval.operations.maintenance import Upkeep
from dermnote_retrieval.operations.reembedding import Activation, Reembedder
from dermnote_retrieval.operations.restore import Restoring
from dermnote_retrieval.operations.snapshots import Snapshots
from dermnote_retrieval.query.search import Search
from dermnote_retrieval.runtime.threadpool import Workers
from dermnote_retrieval.runtime.work import Work
from dermnote_retrieval.settings import Settings
from dermnote_retrieval.store.database import Database
from dermnote_retrieval.store.items import ItemStore
from dermnote_retrieval.store.vectors import ModelRef, VectorStore

log = logging.getLogger(__name__)
BULK_THREADS = 2


@dataclass(frozen=True)
class Service:
    """One open store and everything that works on it."""

    settings: Settings
    decoder: Decoder
    workers: Workers
    items: ItemStore
    catalogue: Catalogue
    search: Search
    activation: Activation
    upkeep: Upkeep
    snapshots: Snapshots
    restoring: Restoring
    checkpoint: Checkpoint

    def begin(self) -> None:
        """Start the background work: a move to another model that was not finished, and upkeep."""
        self.snapshots.sweep()
        self.activation.resume()
        self.upkeep.start()

    def close(self) -> None:
        """End the background work and let go of the store."""
        self.activation.close()
        self.upkeep.close()
        self.search.close()
        self.catalogue.serving.encoder.close()
        with self.items.database.write_lock:
            serving = self.catalogue.serving
            if self.checkpoint.behind(serving.model_id):
                self.checkpoint.save(serving.indexes, model_id=serving.model_id)
        self.items.database.close()


def open_service(settings: Settings, *, source: ModelSource | None = None) -> Service:
    """Open the store, load the model, build the index; raises StartRefused, ModelMismatch or ModelRefused."""
    work = Work()
    source = BatchedModels(source or model_source(settings), threads=settings.encoder_calls, work=work)
    limits = Limits(settings.flat_vectors, settings.recall_goal, settings.search_threads)
    use_threads(settings.search_threads)
    database = Database(settings.data_dir)
    try:
        items, vectors = ItemStore(database), VectorStore(database)
        encoder = _load_encoder(settings, source, vectors)
        _fit_store(settings, items, vectors, encoder)
        checkpoint = Checkpoint(settings.data_dir / "index", items=items, vectors=vectors)
        catalogue = _open_catalogue(items, vectors, encoder, checkpoint=checkpoint, limits=limits, work=work)
        _check(catalogue, settings)
    except BaseException:
        database.close()
        raise
    activation = Activation(catalogue, source, limits=limits)
    snapshots = Snapshots(database, settings.snapshots_dir or settings.data_dir / "snapshots")
    return Service(
        settings=settings,
        decoder=_decoder(settings),
        workers=Workers(threads=settings.workers, bulk_threads=BULK_THREADS, max_waiting=settings.max_waiting),
        items=items,
        catalogue=catalogue,
        search=Search(catalogue, max_waiting=settings.max_waiting),
        activation=activation,
        upkeep=Upkeep(catalogue, checkpoint),
        checkpoint=checkpoint,
        snapshots=snapshots,
        restoring=Restoring(
            catalogue,
            snapshots,
            checkpoint=checkpoint,
            activation=activation,
            source=source,
            limits=limits,
        ),
    )


def _open_catalogue(
    items: ItemStore, vectors: VectorStore, encoder: Encoder, *, checkpoint: Checkpoint, limits: Limits, work: Work
) -> Catalogue:
    """The indexes from the checkpoint where it leads to what the store holds, else from the store."""
    indexes = checkpoint.load(encoder.manifest, limits=limits)
    if indexes is not None:
        catalogue = Catalogue(items=items, vectors=vectors, serving=Serving(encoder, indexes), work=work)
        if catalogue.consistent():
            return catalogue
        log.warning("the checkpoint of the index does not lead to what the store holds; it is made from the store")
        checkpoint.forget()
    indexes = build_indexes(vectors, encoder.manifest, limits=limits)
    return Catalogue(items=items, vectors=vectors, serving=Serving(encoder, indexes), work=work)


def _check(catalogue: Catalogue, settings: Settings) -> None:
    if not catalogue.consistent():
        raise StartRefused(f"{settings.data_dir}: the index does not hold what the store holds; check the disk")


def _decoder(settings: Settings) -> Decoder:
    limits = ImageLimits(settings.max_upload_bytes, settings.max_pixels, settings.stored_image_px)
    return Decoder(limits, at_once=settings.decoders)


def model_source(settings: Settings) -> ModelSource:
    """Where models come from: the package's dummies, or the model folder."""
    if settings.encoder == "dummy":
        return DummyModels()
    return FolderModels(settings.models_dir, threads=settings.encoder_threads, runtime=settings.encoder)


def _load_encoder(settings: Settings, source: ModelSource, vectors: VectorStore) -> Encoder:
    active = vectors.model("active")
    name = settings.model or (active.name if active else source.default)
    try:
        return source.load(name)
    except UnknownModel as wrong:
        raise StartRefused(
            f"no model {name} in {settings.models_dir}; "
            f"run `dermnote export {name} --models-dir {settings.models_dir}`, or set RETRIEVAL_MODEL"
        ) from wrong


def _fit_store(settings: Settings, items: ItemStore, vectors: VectorStore, encoder: Encoder) -> None:
    """Make sure that the store holds the encoder's vectors: as it is, or re-embedded if that was asked for."""
    active, manifest = vectors.model("active"), encoder.manifest
    model = ModelRef(name=manifest.name, model_id=manifest.model_id)
    if active and active.model_id != model.model_id and any(vectors.counts(active.model_id).values()):
        if not settings.reembed_at_start and vectors.model("target") != model:
            raise ModelMismatch(
                f"{settings.data_dir} holds vectors of {active.name} ({active.model_id}), but {model.name} is "
                f"{model.model_id}: set RETRIEVAL_REEMBED_AT_START=1 to move the store to it now, or start with the "
                "old model and PUT /models/active, or use another RETRIEVAL_DATA_DIR"
            )
        log.warning("re-embedding the store for model %s", model.name)
    Reembedder(items, vectors, encoder).run()
    if active != model:
        vectors.adopt(model)
