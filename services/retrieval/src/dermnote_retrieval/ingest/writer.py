"""Writes of items: encode, commit to the store, then update the index, under one write lock.

Also holds the served model and its indexes as one object, so that a swap replaces all of them at once.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Literal

import numpy as np

from dermnote_contracts.manifest import ModelManifest
from dermnote_contracts.problems import (
    DermnoteError,
    InsufficientStorage,
    InvalidRequest,
    ModelMismatch,
    Unavailable,
    UnknownItem,
)
from dermnote_contracts.retrieval import BulkOutcome, Route
from dermnote_imaging.stored import open_stored
from dermnote_retrieval.encoder.base import Encoder, Vectors
from dermnote_retrieval.index.adaptive import AdaptiveIndex, Limits
from dermnote_retrieval.ingest.records import Record
from dermnote_retrieval.runtime.metrics import WorkMetrics
from dermnote_retrieval.store.items import ItemStore, NewItem
from dermnote_retrieval.store.vectors import VectorStore

Status = Literal["created", "updated", "unchanged"]
Outcome = Status | DermnoteError
RouteVectors = Mapping[Route, Vectors]


@dataclass(frozen=True)
class ServedModel:
    """An encoder and the indexes of its vectors. A request uses one ServedModel from beginning to end.

    `epoch` grows when a snapshot is restored: after that, an item number may stand for a different item.
    """

    encoder: Encoder
    indexes: Mapping[Route, AdaptiveIndex]
    epoch: int = 0

    @property
    def model_id(self) -> str:
        return self.encoder.manifest.model_id


@dataclass(frozen=True)
class RejectedRecord:
    """A record of a bulk load that could not be read."""

    id: str
    error: DermnoteError


class ItemWriter:
    """The only writer of items. `version` grows with every write, before the write is answered."""

    def __init__(
        self, *, items: ItemStore, vectors: VectorStore, served: ServedModel, work: WorkMetrics | None = None
    ) -> None:
        self.items = items
        self.vectors = vectors
        self.served = served
        self.work = work or WorkMetrics()
        self.version = 0
        self.epoch = served.epoch

    def put(self, record: Record) -> bool:
        """Store one item; True if it is new. An unchanged item is neither encoded nor written again.

        Raises InvalidRequest if the encoder finds no content in it, InsufficientStorage when the disk is full.
        """
        (outcome,) = self._write([record])
        if isinstance(outcome, DermnoteError):
            raise outcome
        return outcome == "created"

    def load(self, records: Iterable[Record | RejectedRecord], *, chunk: int) -> Iterator[BulkOutcome]:
        """Store many items, `chunk` per commit; one outcome per record, in order.

        Once the disk is full, the following records fail without being encoded.
        """
        source, full = iter(records), False
        while part := list(islice(source, chunk)):
            new = [record for record in part if isinstance(record, Record)]
            try:
                outcomes = iter(_not_tried(new) if full else self._write(new))
            except InsufficientStorage as error:
                outcomes, full = repeat(error), True
            for record in part:
                yield _outcome(record.id, record.error if isinstance(record, RejectedRecord) else next(outcomes))

    def delete(self, item_id: str) -> None:
        """Erase an item; raises UnknownItem."""
        with self.items.database.write_lock:
            number = self.items.delete(item_id)
            if number is None:
                raise UnknownItem()
            for index in self.served.indexes.values():
                index.replace(removed=[number], numbers=[], vectors=np.empty((0, index.dim), np.float32))
            self.version += 1

    def check_epoch(self, served: ServedModel) -> None:
        """Verify that the numbers found with `served` still stand for the same items; raises Unavailable."""
        if served.epoch != self.epoch:
            raise Unavailable("a snapshot is being restored", retry_after_s=1)

    @contextmanager
    def new_epoch(self) -> Iterator[None]:
        """Invalidate searches until a new ServedModel is set; reverted if the block fails."""
        self.epoch += 1
        try:
            yield
        except BaseException:
            self.epoch -= 1
            raise

    def consistent(self) -> bool:
        """Whether the store and the indexes hold the same number of vectors."""
        with self.items.database.write_lock:
            counts = self.vectors.counts(self.served.model_id)
            return all(counts[route] == len(index) for route, index in self.served.indexes.items())

    def _write(self, records: Sequence[Record]) -> list[Outcome]:
        """Encode outside the lock; repeat if the model was swapped meanwhile."""
        while True:
            served = self.served
            unchanged = self._unchanged(served, records)
            new = [record for record in records if record.id not in unchanged]
            encoded = encode_records(served.encoder, new)
            with self.items.database.write_lock:
                if self.served is served:
                    outcomes = iter(self._commit(served, new, encoded))
                    return ["unchanged" if record.id in unchanged else next(outcomes) for record in records]

    def _unchanged(self, served: ServedModel, records: Sequence[Record]) -> set[str]:
        """The ids of records that the store already holds: the same content, and the vectors for the served model."""
        count = Counter(record.id for record in records)
        once = {record.id: record for record in records if count[record.id] == 1}
        stored = self.items.with_digests({item_id: record.digest() for item_id, record in once.items()})
        return {item_id for item_id, number in stored.items() if self._has_vectors(served, number, once[item_id])}

    def _has_vectors(self, served: ServedModel, number: int, record: Record) -> bool:
        """Whether a stored item still has the record's vectors: re-embedding the store replaces a client's vectors."""
        for route in record.routes():
            vector = served.indexes[route].vector(number)
            own = record.vectors.get(route)
            if vector is None or (own is not None and not np.array_equal(vector, own)):
                return False
        return True

    def _commit(
        self, served: ServedModel, records: Sequence[Record], encoded: Sequence[RouteVectors | DermnoteError]
    ) -> list[Outcome]:
        pairs = zip(records, encoded, strict=True)
        new = [_new_item(record, vectors) for record, vectors in pairs if isinstance(vectors, Mapping)]
        if not new:
            return [error for error in encoded if isinstance(error, DermnoteError)]
        with self.work.measure("store", size=len(new)):
            written = self.items.upsert(new, model_id=served.model_id)
        # A record later in the chunk replaces an earlier one with the same id, so only its vectors are indexed.
        latest = {result.number: item.vectors for result, item in zip(written, new, strict=True)}
        for route, index in served.indexes.items():
            rows = {number: vectors[route] for number, vectors in latest.items() if route in vectors}
            matrix = np.stack(list(rows.values())) if rows else np.empty((0, index.dim), np.float32)
            index.replace(removed=list(latest), numbers=list(rows), vectors=matrix)
        self.version += 1
        statuses: Iterator[Status] = iter(["created" if result.created else "updated" for result in written])
        return [each if isinstance(each, DermnoteError) else next(statuses) for each in encoded]


def build_indexes(vectors: VectorStore, model: ModelManifest, *, limits: Limits) -> dict[Route, AdaptiveIndex]:
    """New indexes of all vectors that the store holds for a model. Nothing may be written meanwhile."""
    widths = _widths(model)
    indexes = {route: AdaptiveIndex(width, limits) for route, width in widths.items()}
    for route, (numbers, rows) in vectors.read_all(model.model_id, widths=widths).items():
        indexes[route].adopt(numbers, rows)
    return indexes


def encode_records(encoder: Encoder, records: Sequence[Record]) -> list[RouteVectors | DermnoteError]:
    """Each record's vectors by route, or the reason why it has no usable ones."""
    errors = [_vector_error(record, encoder.manifest) for record in records]
    usable = [record for record, error in zip(records, errors, strict=True) if error is None]
    stored = [record.image for record in usable if record.image is not None and "images" not in record.vectors]
    texts = [record.note for record in usable if record.note is not None and "notes" not in record.vectors]
    images = iter(encoder.encode_images([open_stored(image.jpeg) for image in stored]))
    notes = iter(encoder.encode_texts(texts))
    return [error or _join_vectors(record, notes, images) for record, error in zip(records, errors, strict=True)]


def note_digest(note: str) -> str:
    """Equal for notes that differ only in case and white space."""
    return hashlib.sha256(" ".join(note.casefold().split()).encode()).hexdigest()[:32]


def _join_vectors(record: Record, notes: Iterator[Vectors], images: Iterator[Vectors]) -> RouteVectors | DermnoteError:
    vectors: dict[Route, Vectors] = dict(record.vectors)
    if record.note is not None and "notes" not in vectors:
        vectors["notes"] = next(notes)
    if record.image is not None and "images" not in vectors:
        vectors["images"] = next(images)
    usable = all(np.isfinite(vector).all() for vector in vectors.values())
    return vectors if usable else InvalidRequest("the encoder finds no content in this note or image")


def _vector_error(record: Record, model: ModelManifest) -> DermnoteError | None:
    """Why the client's vectors are invalid, or None."""
    if record.vectors and record.model_id != model.model_id:
        return ModelMismatch(f"the vectors were computed by {record.model_id}, but {model.model_id} is served")
    widths = _widths(model)
    for route, vector in record.vectors.items():
        if len(vector) != widths[route]:
            return InvalidRequest(f"a vector for {route} must have {widths[route]} values, not {len(vector)}")
    return None


def _widths(model: ModelManifest) -> dict[Route, int]:
    return {"notes": model.text_dim, "images": model.image_dim}


def _new_item(record: Record, vectors: RouteVectors) -> NewItem:
    image = record.image
    return NewItem(
        id=record.id,
        note=record.note,
        metadata=record.metadata,
        group=record.group,
        image=image.jpeg if image else None,
        thumbnail=image.thumbnail if image else None,
        vectors=vectors,
        note_digest=note_digest(record.note) if record.note is not None else None,
        difference_hash=image.difference_hash if image else None,
        digest=record.digest(),
    )


def _not_tried(records: Sequence[Record]) -> list[Outcome]:
    return [InsufficientStorage("the disk was already full, so this record was not tried") for _ in records]


def _outcome(item_id: str, result: Outcome) -> BulkOutcome:
    if isinstance(result, DermnoteError):
        return BulkOutcome(id=item_id, status="failed", error=result.problem())
    return BulkOutcome(id=item_id, status=result)
