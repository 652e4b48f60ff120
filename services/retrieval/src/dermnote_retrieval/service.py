"""The parts of the service, assembled once: store, model, index, search. The routes call these parts."""

import logging
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from dermnote_contracts.problems import ModelMismatch, StartRefused, UnknownModel
from dermnote_imaging.decoder import Decoder, ImageLimits
from dermnote_retrieval.encoder.base import Encoder, ModelLoader, ModelSource
from dermnote_retrieval.encoder.dummy import DummyModels
from dermnote_retrieval.encoder.model_folders import FolderModels
from dermnote_retrieval.index.adaptive import Limits
from dermnote_retrieval.index.exact import limit_blas_threads
from dermnote_retrieval.ingest.writer import ItemWriter, ServedModel, build_indexes
from dermnote_retrieval.operations.reembedding import Reembedder, Reembedding
from dermnote_retrieval.operations.snapshots import Restore, Snapshots
from dermnote_retrieval.query.search import Search
from dermnote_retrieval.runtime.batching import WorkerPool
from dermnote_retrieval.runtime.metrics import WorkMetrics
from dermnote_retrieval.settings import Settings
from dermnote_retrieval.store.database import Database
from dermnote_retrieval.store.items import ItemStore
from dermnote_retrieval.store.vectors import ModelRef, VectorStore

log = logging.getLogger(__name__)
BULK_THREADS = 2
MAINTENANCE_INTERVAL_S = 1.0
# How long `close` waits for the thread.
CLOSE_TIMEOUT_S = 2.0
# Folders of the index checkpoint that version 0.1 wrote.
CHECKPOINT_FOLDERS = ("index", ".index", ".index.old")
# A folder that contains anything else is not a checkpoint.
CHECKPOINT_CONTENTS = {"manifest.json", "notes", "images"} | {
    f"{route}/{name}" for route in ("notes", "images") for name in ("numbers.npy", "vectors.npy", "lists.faiss")
}


class Maintenance:
    """A thread that builds inverted lists for the served model's indexes that are too large for exact search."""

    def __init__(self, writer: ItemWriter, *, interval_s: float = MAINTENANCE_INTERVAL_S) -> None:
        self._writer = writer
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._running = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether the thread still runs, possibly in a build that did not end before `close` returned."""
        return self._thread.is_alive()

    def close(self, *, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Stop the thread and drop a running build; a thread that does not end in `timeout_s` is left running."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def run_once(self) -> None:
        """Do what is due now; one caller at a time."""
        with self._running:
            for index in self._writer.served.indexes.values():
                if not index.shrink() and index.outgrown:
                    index.build(stop=self._stop)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self.run_once()
            except Exception:  # the service continues with the indexes it has
                log.exception("maintenance failed; it will be retried")


@dataclass(frozen=True)
class Service:
    """An open store and all parts that work on it."""

    settings: Settings
    decoder: Decoder
    workers: WorkerPool
    items: ItemStore
    writer: ItemWriter
    search: Search
    reembedding: Reembedding
    maintenance: Maintenance
    snapshots: Snapshots
    restore: Restore

    def begin(self) -> None:
        """Erase incomplete snapshots, and start the background work: an unfinished re-embedding, and maintenance."""
        self.snapshots.sweep()
        self.reembedding.resume()
        self.maintenance.start()

    def close(self) -> None:
        """Stop the background work and close the store."""
        self.reembedding.close()
        self.maintenance.close()
        self.search.close()
        self.writer.served.encoder.close()
        self.items.database.close()


def open_service(settings: Settings, *, source: ModelSource | None = None) -> Service:
    """Open the store, load the model, build the indexes; raises StartRefused, ModelMismatch or ModelRefused."""
    work = WorkMetrics()
    models = ModelLoader(source or model_source(settings), threads=settings.encoder_calls, work=work)
    limits = Limits(settings.flat_vectors, settings.recall_goal, settings.search_threads)
    limit_blas_threads(settings.search_threads)
    database = Database(settings.data_dir)
    try:
        items, vectors = ItemStore(database), VectorStore(database)
        encoder = _load_encoder(settings, models, vectors)
        _embed_store(settings, items, vectors, encoder)
        indexes = build_indexes(vectors, encoder.manifest, limits=limits)
        writer = ItemWriter(items=items, vectors=vectors, served=ServedModel(encoder, indexes), work=work)
        _remove_checkpoint(settings.data_dir)
    except BaseException:
        database.close()
        raise
    reembedding = Reembedding(writer, models, limits=limits)
    snapshots = Snapshots(database, settings.snapshots_dir or settings.data_dir / "snapshots")
    upload_limits = ImageLimits(settings.max_upload_bytes, settings.max_pixels, settings.stored_image_px)
    return Service(
        settings=settings,
        decoder=Decoder(upload_limits, concurrency=settings.decoders),
        workers=WorkerPool(threads=settings.workers, bulk_threads=BULK_THREADS, max_waiting=settings.max_waiting),
        items=items,
        writer=writer,
        search=Search(writer, max_waiting=settings.max_waiting),
        reembedding=reembedding,
        maintenance=Maintenance(writer),
        snapshots=snapshots,
        restore=Restore(writer, snapshots, reembedding=reembedding, models=models, limits=limits),
    )


def model_source(settings: Settings) -> ModelSource:
    """The source of models: the built-in dummies, or the model folders in RETRIEVAL_MODELS_DIR."""
    if settings.encoder == "dummy":
        return DummyModels()
    return FolderModels(settings.models_dir, threads=settings.encoder_threads, runtime=settings.encoder)


def _remove_checkpoint(data_dir: Path) -> None:
    """Delete version 0.1's copy of the index: it is as large as the vectors, and stale if 0.1 ever reads it again."""
    for folder in (data_dir / name for name in CHECKPOINT_FOLDERS):
        contents = {str(path.relative_to(folder)) for path in folder.rglob("*")} if folder.is_dir() else set()
        if contents and contents <= CHECKPOINT_CONTENTS:
            log.info("removing the index checkpoint %s of an older version", folder)
            shutil.rmtree(folder, ignore_errors=True)


def _load_encoder(settings: Settings, models: ModelLoader, vectors: VectorStore) -> Encoder:
    active = vectors.model("active")
    name = settings.model or (active.name if active else models.source.default)
    try:
        return models.load(name)
    except UnknownModel as error:
        raise StartRefused(
            f"no model {name} in {settings.models_dir}; "
            f"run `dermnote export {name} --models-dir {settings.models_dir}`, or set RETRIEVAL_MODEL"
        ) from error


def _embed_store(settings: Settings, items: ItemStore, vectors: VectorStore, encoder: Encoder) -> None:
    """Ensure that the store holds the encoder's vectors.

    A store with another model's vectors is re-embedded only if the settings allow it or an earlier process began the
    re-embedding for this model; otherwise raises ModelMismatch.
    """
    active, manifest = vectors.model("active"), encoder.manifest
    model = ModelRef(name=manifest.name, model_id=manifest.model_id)
    if active and active.model_id != model.model_id and any(vectors.counts(active.model_id).values()):
        if not settings.reembed_at_start and vectors.model("target") != model:
            raise ModelMismatch(
                f"{settings.data_dir} holds vectors of {active.name} ({active.model_id}), but the model to serve is "
                f"{model.name} ({model.model_id}): set RETRIEVAL_REEMBED_AT_START=1 to re-embed the store now, or "
                "start with the old model and PUT /models/active, or use another RETRIEVAL_DATA_DIR"
            )
        log.warning("re-embedding the store for model %s", model.name)
    Reembedder(items, vectors, encoder).run()
    if active != model:
        vectors.adopt(model)
