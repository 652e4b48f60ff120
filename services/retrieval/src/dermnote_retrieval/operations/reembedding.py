"""Moving the store to another model: re-embed in a thread while the old one serves, catch up with writes, then swap.

The target is written down first, so that a process that was killed goes on where it stopped.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from dermnote_contracts.problems import Conflict, InsufficientStorage, Stopping
from dermnote_contracts.retrieval import ModelSummary, Route
from dermnote_retrieval.encoder.protocol import Encoder, ModelSource, Vectors
from dermnote_retrieval.index.adaptive import Limits
from dermnote_retrieval.ingest.images import open_stored
from dermnote_retrieval.ingest.writer import Catalogue, Serving, build_indexes
from dermnote_retrieval.store.items import ItemStore
from dermnote_retrieval.store.vectors import ModelRef, NewVector, VectorStore

log = logging.getLogger(__name__)
BATCH = 64
# For the batch that runs when the service closes; a slower one finds the store closed, and is made again.
PATIENCE_S = 10.0


class Reembedder:
    """Makes the vectors of one model for every item that lacks them."""

    def __init__(self, items: ItemStore, vectors: VectorStore, encoder: Encoder) -> None:
        self._items = items
        self._vectors = vectors
        self._encoder = encoder
        self._model_id = encoder.manifest.model_id
        self.stop = threading.Event()

    def run(self) -> bool:
        """Go over the store until nothing is lacking; False when it was stopped before."""
        while self._vectors.count_lacking(self._model_id):
            start = 0
            while todo := self._vectors.lacking(self._model_id, start=start, limit=BATCH):
                if self.stop.is_set():
                    return False
                self.embed(todo)
                start = todo[-1][0]
        return True

    def embed(self, todo: Sequence[tuple[int, int, Route]]) -> None:
        """Make and keep the vectors of (number, version, route)s; items that changed meanwhile are passed over."""
        stored = self._items.by_number([number for number, _, _ in todo])
        present = [(number, version, route) for number, version, route in todo if number in stored]
        notes = [(n, v, text) for n, v, r in present if r == "notes" and (text := stored[n].note) is not None]
        images = [(n, v, data) for n, v, r in present if r == "images" and (data := self._items.image(n)) is not None]
        self._keep(notes, self._encoder.encode_texts([text for _, _, text in notes]), route="notes")
        self._keep(images, self._encoder.encode_images([open_stored(data) for _, _, data in images]), route="images")

    def _keep(self, sources: Sequence[tuple[int, int, object]], rows: Vectors, *, route: Route) -> None:
        # An item in which this model finds nothing keeps a zero vector: found last, but not lost.
        usable = np.where(np.isfinite(rows).all(axis=1, keepdims=True), rows, np.float32(0))
        new = [NewVector(n, version, route, row) for (n, version, _), row in zip(sources, usable, strict=True)]
        self._vectors.add(new, model_id=self._model_id)

    def share_done(self) -> float:
        """The share of vectors made, 0 to 1."""
        made = sum(self._vectors.counts(self._model_id).values())
        lacking = self._vectors.count_lacking(self._model_id)
        return made / (made + lacking) if made + lacking else 1.0


class Activation:
    """The model that is served, the one that is moved to, and the thread in between."""

    def __init__(self, catalogue: Catalogue, source: ModelSource, *, limits: Limits) -> None:
        self._catalogue = catalogue
        self._source = source
        self._limits = limits
        self._lock = threading.Lock()
        self._target: ModelRef | None = None
        self._work: Reembedder | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False

    def models(self) -> list[ModelSummary]:
        """Every model of the source, which one serves, and how far the move to another one is."""
        target, work = self._target, self._work
        active = self._catalogue.serving.model_id
        return [
            ModelSummary(
                name=manifest.name,
                model_id=manifest.model_id,
                aligned=manifest.aligned,
                active=manifest.model_id == active,
                reembedding=(work.share_done() if work else 0.0)
                if target and target.model_id == manifest.model_id
                else None,
            )
            for manifest in self._source.manifests()
        ]

    def activate(self, name: str) -> ModelSummary:
        """Begin to move to a model; raises UnknownModel, ModelRefused, or Conflict while another move goes on."""
        manifest = self._source.manifest(name)
        target = ModelRef(name=name, model_id=manifest.model_id)
        with self._lock:
            if self._target is not None and self._target != target:
                raise Conflict(f"the store is being moved to {self._target.name}; wait until that is done")
            if self._target is None and manifest.model_id != self._catalogue.serving.model_id:
                self._begin(target)
        return next(summary for summary in self.models() if summary.name == name)

    def resume(self) -> None:
        """Go on with a move that the last process did not finish."""
        with self._lock:
            target = self._catalogue.vectors.model("target")
            if target is not None:
                self._begin(target)

    @contextmanager
    def none_going_on(self) -> Iterator[None]:
        """No move to another model begins inside; raises Conflict while one goes on."""
        with self._lock:
            if self._target is not None:
                raise Conflict(f"the store is being moved to {self._target.name}; wait until that is done")
            yield

    def close(self) -> None:
        """Stop the thread between two batches; the next start resumes."""
        self._stopped = True
        if self._work is not None:
            self._work.stop.set()
        if self._thread is not None:
            self._thread.join(PATIENCE_S)

    def _begin(self, target: ModelRef) -> None:
        self._catalogue.vectors.set_target(target)
        self._target = target
        self._thread = threading.Thread(target=self._move, args=(target,), name="reembedding", daemon=True)
        self._thread.start()

    def _move(self, target: ModelRef) -> None:
        try:
            if not self._reembed(target):
                return  # stopped: the target stays written down
        except Stopping:
            return  # closed meanwhile: as above
        except Exception:  # a thread's end: nobody above could be told
            log.exception("moving to model %s failed; %s goes on", target.name, self._catalogue.serving.model_id)
            self._forget_target()
        with self._lock:
            self._target, self._work = None, None

    def _forget_target(self) -> None:
        try:
            self._catalogue.vectors.set_target(None)
        except (InsufficientStorage, Stopping) as wrong:
            log.warning("the move is tried again at the next start: %s", wrong)

    def _reembed(self, target: ModelRef) -> bool:
        encoder = self._source.load(target.name)
        try:
            if encoder.manifest.model_id != target.model_id:
                raise Conflict("the model folder was changed while the store moved to it")
            return self._moved(encoder, target)
        finally:
            if self._catalogue.serving.encoder is not encoder:
                encoder.close()

    def _moved(self, encoder: Encoder, target: ModelRef) -> bool:
        """Whether it serves in the end; False when stopped before."""
        self._work = Reembedder(self._catalogue.items, self._catalogue.vectors, encoder)
        if self._stopped:
            self._work.stop.set()
        while self._work.run():
            if self._swap(encoder, target):
                return True
        return False

    def _swap(self, encoder: Encoder, target: ModelRef) -> bool:
        """Serve the new model if nothing is lacking; False when a write came in between."""
        vectors, manifest = self._catalogue.vectors, encoder.manifest
        with vectors.database.write_lock:
            if vectors.count_lacking(target.model_id):
                return False
            indexes = build_indexes(vectors, manifest, limits=self._limits)
            vectors.adopt(target)
            before, self._catalogue.serving = self._catalogue.serving, Serving(encoder, indexes, self._catalogue.epoch)
        before.encoder.close()
        return True
