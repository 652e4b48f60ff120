"""Re-embeds the store for another model in a thread while the old model serves, then swaps the models.

The new model is recorded in the store first, so that the next start resumes what a killed process did not finish.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from dermnote_contracts.problems import Conflict, InsufficientStorage, Stopping
from dermnote_contracts.retrieval import ModelSummary, Route
from dermnote_imaging.stored import open_stored
from dermnote_retrieval.encoder.base import Encoder, ModelLoader, Vectors
from dermnote_retrieval.index.adaptive import Limits
from dermnote_retrieval.ingest.writer import ItemWriter, ServedModel, build_indexes
from dermnote_retrieval.store.items import ItemStore
from dermnote_retrieval.store.vectors import ModelRef, NewVector, VectorStore

log = logging.getLogger(__name__)
BATCH = 64
# How long `close` waits for the running batch; a slower batch is dropped and recomputed after the next start.
CLOSE_TIMEOUT_S = 10.0


class Reembedder:
    """Computes one model's missing vectors of all items."""

    def __init__(self, items: ItemStore, vectors: VectorStore, encoder: Encoder) -> None:
        self._items = items
        self._vectors = vectors
        self._encoder = encoder
        self._model_id = encoder.manifest.model_id
        self.stop = threading.Event()

    def run(self) -> bool:
        """Scan the store until no vector is missing; returns False if stopped before."""
        while self._vectors.count_missing(self._model_id):
            start = 0
            while todo := self._vectors.missing(self._model_id, start=start, limit=BATCH):
                if self.stop.is_set():
                    return False
                self.embed(todo)
                start = todo[-1][0]
        return True

    def embed(self, todo: Sequence[tuple[int, int, Route]]) -> None:
        """Compute and store the vectors of (number, version, route)s; items that change meanwhile are skipped."""
        stored = self._items.by_number([number for number, _, _ in todo])
        present = [(number, version, route) for number, version, route in todo if number in stored]
        notes = [(n, v, text) for n, v, r in present if r == "notes" and (text := stored[n].note) is not None]
        images = [(n, v, data) for n, v, r in present if r == "images" and (data := self._items.image(n)) is not None]
        self._add(notes, self._encoder.encode_texts([text for _, _, text in notes]), route="notes")
        self._add(images, self._encoder.encode_images([open_stored(data) for _, _, data in images]), route="images")

    def _add(self, sources: Sequence[tuple[int, int, object]], rows: Vectors, *, route: Route) -> None:
        # An item in which this model finds no content gets a zero vector, which ranks last.
        usable = np.where(np.isfinite(rows).all(axis=1, keepdims=True), rows, np.float32(0))
        new = [NewVector(n, version, route, row) for (n, version, _), row in zip(sources, usable, strict=True)]
        self._vectors.add(new, model_id=self._model_id)

    def share_done(self) -> float:
        """The share of vectors computed so far, 0 to 1."""
        done = sum(self._vectors.counts(self._model_id).values())
        missing = self._vectors.count_missing(self._model_id)
        return done / (done + missing) if done + missing else 1.0


class Reembedding:
    """Lists the available models, and re-embeds the store for one of them in a thread."""

    def __init__(self, writer: ItemWriter, models: ModelLoader, *, limits: Limits) -> None:
        self._writer = writer
        self._models = models
        self._limits = limits
        self._lock = threading.Lock()
        self._target: ModelRef | None = None
        self._reembedder: Reembedder | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False

    def models(self) -> list[ModelSummary]:
        """Every available model: whether it is served, and the progress of re-embedding for it."""
        target, reembedder = self._target, self._reembedder
        active = self._writer.served.model_id
        return [
            ModelSummary(
                name=manifest.name,
                model_id=manifest.model_id,
                aligned=manifest.aligned,
                active=manifest.model_id == active,
                reembedding=(reembedder.share_done() if reembedder else 0.0)
                if target and target.model_id == manifest.model_id
                else None,
            )
            for manifest in self._models.source.manifests()
        ]

    def activate(self, name: str) -> ModelSummary:
        """Start re-embedding for a model. Raises UnknownModel, ModelRefused, or Conflict while another model's runs."""
        manifest = self._models.source.manifest(name)
        target = ModelRef(name=name, model_id=manifest.model_id)
        with self._lock:
            if self._target != target:
                self._check_idle()
            if self._target is None and manifest.model_id != self._writer.served.model_id:
                self._start(target)
        return next(summary for summary in self.models() if summary.name == name)

    def resume(self) -> None:
        """Resume the re-embedding that the last process did not finish."""
        with self._lock:
            target = self._writer.vectors.model("target")
            if target is not None:
                self._start(target)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Prevent re-embedding from starting in the block; raises Conflict if it is in progress."""
        with self._lock:
            self._check_idle()
            yield

    def close(self) -> None:
        """Stop the thread between two batches; the next start resumes."""
        self._stopped = True
        if self._reembedder is not None:
            self._reembedder.stop.set()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)

    def _check_idle(self) -> None:
        if self._target is not None:
            raise Conflict(f"the store is being re-embedded for {self._target.name}; wait until that is done")

    def _start(self, target: ModelRef) -> None:
        self._writer.vectors.set_target(target)
        self._target = target
        self._thread = threading.Thread(target=self._run, args=(target,), name="reembedding", daemon=True)
        self._thread.start()

    def _run(self, target: ModelRef) -> None:
        try:
            if not self._reembed(target):
                return  # stopped: the target stays recorded
        except Stopping:
            return  # the store was closed meanwhile: the target stays recorded
        except Exception:  # the thread has no caller to raise to
            log.exception(
                "re-embedding for %s failed; %s continues to serve", target.name, self._writer.served.model_id
            )
            self._forget_target()
        with self._lock:
            self._target, self._reembedder = None, None

    def _forget_target(self) -> None:
        try:
            self._writer.vectors.set_target(None)
        except (InsufficientStorage, Stopping) as error:
            log.warning("re-embedding will be retried at the next start: %s", error)

    def _reembed(self, target: ModelRef) -> bool:
        """Re-embed the store and serve the target; returns False if stopped before."""
        encoder = self._models.load(target.name)
        try:
            if encoder.manifest.model_id != target.model_id:
                raise Conflict("the model folder changed while the store was re-embedded for it")
            reembedder = self._reembedder = Reembedder(self._writer.items, self._writer.vectors, encoder)
            if self._stopped:
                reembedder.stop.set()
            while reembedder.run():
                if self._swap(encoder, target):
                    return True
            return False
        finally:
            if self._writer.served.encoder is not encoder:
                encoder.close()

    def _swap(self, encoder: Encoder, target: ModelRef) -> bool:
        """Serve the new model if no vector is missing; False if a write came in between."""
        vectors, manifest = self._writer.vectors, encoder.manifest
        with vectors.database.write_lock:
            if vectors.count_missing(target.model_id):
                return False
            indexes = build_indexes(vectors, manifest, limits=self._limits)
            vectors.adopt(target)
            previous, self._writer.served = self._writer.served, ServedModel(encoder, indexes, self._writer.epoch)
        previous.encoder.close()
        return True
