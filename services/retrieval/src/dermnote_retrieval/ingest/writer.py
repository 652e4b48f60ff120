"""Items in and out: encode, commit to the store, then bring the index up to date, under one write lock.

Holds what is served at this moment (an encoder and its two indexes); a swap replaces all of it at once.
"""

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
from dermnote_retrieval.encoder.protocol import Encoder, Vectors
from dermnote_retrieval.index.adaptive import AdaptiveIndex, Limits
from dermnote_retrieval.ingest.images import open_stored
from dermnote_retrieval.ingest.records import Record
from dermnote_retrieval.query.duplicates import note_digest
from dermnote_retrieval.runtime.work import Work
from dermnote_retrieval.store.items import ItemStore, NewItem, Written
from dermnote_retrieval.store.vectors import VectorStore

Outcome = Literal["created", "updated", "unchanged"] | DermnoteError


@dataclass(frozen=True)
class Serving:
    """An encoder and the indexes of its vectors. Whoever works with one keeps to it until the end."""

    encoder: Encoder
    indexes: Mapping[Route, AdaptiveIndex]
    epoch: int = 0
    """Grows when a snapshot is restored: numbers of another epoch may stand for other items."""

    @property
    def model_id(self) -> str:
        return self.encoder.manifest.model_id


@dataclass(frozen=True)
class Refused:
    """A record of a bulk load that could not be read."""

    id: str
    error: DermnoteError


class Catalogue:
    """The one writer of items."""

    def __init__(self, *, items: ItemStore, vectors: VectorStore, serving: Serving, work: Work | None = None) -> None:
        self.items = items
        self.work = work or Work()
        self.vectors = vectors
        self.serving = serving
        self.state = 0
        """Grows with every write, before it is answered."""
        self.epoch = serving.epoch

    def put(self, record: Record) -> bool:
        """Store one item; True if it is new. What is held already just so is neither encoded nor written again.

        Raises InvalidRequest when the encoder finds nothing in it, InsufficientStorage when the disk is full.
        """
        (outcome,) = self._write([record])
        if isinstance(outcome, DermnoteError):
            raise outcome
        return outcome == "created"

    def load(self, records: Iterable[Record | Refused], *, chunk: int) -> Iterator[BulkOutcome]:
        """Store many, `chunk` at a time in one commit; one outcome a record, in their order.

        What comes after the disk is full is refused untried: encoding it would be in vain.
        """
        source, full = iter(records), False
        while part := list(islice(source, chunk)):
            new = [record for record in part if isinstance(record, Record)]
            try:
                outcomes = iter(_not_tried(new) if full else self._write(new))
            except InsufficientStorage as wrong:
                outcomes, full = repeat(wrong), True
            for record in part:
                yield _outcome(record.id, record.error if isinstance(record, Refused) else next(outcomes))

    def delete(self, item_id: str) -> None:
        """Erase an item; raises UnknownItem."""
        with self.items.database.write_lock:
            number = self.items.delete(item_id)
            if number is None:
                raise UnknownItem()
            for index in self.serving.indexes.values():
                index.replace(gone=[number], numbers=[], vectors=np.empty((0, index.dim), np.float32))
            self.state += 1

    def check_epoch(self, serving: Serving) -> None:
        """That what `serving` found are still the items that it stood for; raises Unavailable."""
        if serving.epoch != self.epoch:
            raise Unavailable("a snapshot is being restored", retry_after_s=1)

    @contextmanager
    def new_epoch(self) -> Iterator[None]:
        """From here on what serves now finds nothing, until a new Serving is set; undone where this fails."""
        self.epoch += 1
        try:
            yield
        except BaseException:
            self.epoch -= 1
            raise

    def consistent(self) -> bool:
        """Whether the store and the indexes hold the same number of vectors."""
        with self.items.database.write_lock:
            counts = self.vectors.counts(self.serving.model_id)
            return all(counts[route] == len(index) for route, index in self.serving.indexes.items())

    def _write(self, records: Sequence[Record]) -> list[Outcome]:
        """Encode outside the lock; when the encoder was swapped meanwhile, encode again."""
        while True:
            serving = self.serving
            held = self._held(serving, records)
            new = [record for record in records if record.id not in held]
            encoded = encode_records(serving.encoder, new)
            with self.items.database.write_lock:
                if self.serving is serving:
                    written = iter(self._commit(serving, new, encoded))
                    return ["unchanged" if record.id in held else next(written) for record in records]

    def _held(self, serving: Serving, records: Sequence[Record]) -> set[str]:
        """The ids of records that the store holds just so, with every vector that the served model would make."""
        count = Counter(record.id for record in records)
        once = {record.id: record for record in records if count[record.id] == 1}
        found = self.items.with_digests({name: record.digest() for name, record in once.items()})
        return {name for name, number in found.items() if self._has_vectors(serving, number, once[name])}

    def _has_vectors(self, serving: Serving, number: int, record: Record) -> bool:
        """Whether an item's vectors are those of the record; its own ones are replaced when the store moves."""
        for route in record.routes():
            vector = serving.indexes[route].vector(number)
            own = record.vectors.get(route)
            if vector is None or (own is not None and not np.array_equal(vector, own)):
                return False
        return True

    def _commit(
        self, serving: Serving, records: Sequence[Record], encoded: Sequence[Mapping[Route, Vectors] | DermnoteError]
    ) -> list[Outcome]:
        new = [
            _new_item(record, made) for record, made in zip(records, encoded, strict=True) if isinstance(made, Mapping)
        ]
        if not new:
            return [made for made in encoded if isinstance(made, DermnoteError)]
        with self.work.one("store", size=len(new)):
            written = self.items.upsert(new, model_id=serving.model_id)
        # A record later in the chunk replaces an earlier one with the same id, so the last vectors count.
        latest = {done.number: item.vectors for done, item in zip(written, new, strict=True)}
        for route, index in serving.indexes.items():
            rows = {number: held[route] for number, held in latest.items() if route in held}
            vectors = np.stack(list(rows.values())) if rows else np.empty((0, index.dim), np.float32)
            index.replace(gone=list(latest), numbers=list(rows), vectors=vectors)
        self.state += 1
        done = iter(written)
        return [made if isinstance(made, DermnoteError) else _status(next(done)) for made in encoded]


def build_indexes(vectors: VectorStore, model: ModelManifest, *, limits: Limits) -> dict[Route, AdaptiveIndex]:
    """Fresh indexes with all vectors that the store holds of a model."""
    widths: dict[Route, int] = {"notes": model.text_dim, "images": model.image_dim}
    counts = vectors.counts(model.model_id)
    indexes: dict[Route, AdaptiveIndex] = {}
    for route, width in widths.items():
        index = indexes[route] = AdaptiveIndex(width, limits)
        index.reserve(counts[route])
        for numbers, rows in vectors.chunks(model_id=model.model_id, route=route):
            index.replace(gone=[], numbers=numbers, vectors=rows)
    return indexes


def encode_records(encoder: Encoder, records: Sequence[Record]) -> list[Mapping[Route, Vectors] | DermnoteError]:
    """For each record its vectors by route, or why it has none that can be used."""
    refused = [_refusal(record, encoder.manifest) for record in records]
    usable = [record for record, wrong in zip(records, refused, strict=True) if wrong is None]
    pictures = [record.picture for record in usable if record.picture is not None and "images" not in record.vectors]
    texts = [record.note for record in usable if record.note is not None and "notes" not in record.vectors]
    images = iter(encoder.encode_images([open_stored(picture.image) for picture in pictures]))
    notes = iter(encoder.encode_texts(texts))
    return [
        _made(record, notes, images) if wrong is None else wrong for record, wrong in zip(records, refused, strict=True)
    ]


def _made(
    record: Record, notes: Iterator[Vectors], images: Iterator[Vectors]
) -> Mapping[Route, Vectors] | DermnoteError:
    made: dict[Route, Vectors] = dict(record.vectors)
    if record.note is not None and "notes" not in made:
        made["notes"] = next(notes)
    if record.picture is not None and "images" not in made:
        made["images"] = next(images)
    usable = all(np.isfinite(vector).all() for vector in made.values())
    return made if usable else InvalidRequest("the encoder finds nothing in this note or image")


def _refusal(record: Record, model: ModelManifest) -> DermnoteError | None:
    """Why vectors that were made elsewhere can't be taken, if so."""
    if record.vectors and record.model_id != model.model_id:
        return ModelMismatch(f"the vectors were made by {record.model_id}; {model.model_id} is served")
    widths: dict[Route, int] = {"notes": model.text_dim, "images": model.image_dim}
    for route, vector in record.vectors.items():
        if len(vector) != widths[route]:
            return InvalidRequest(f"a vector for {route} has {widths[route]} values, this one {len(vector)}")
    return None


def _new_item(record: Record, vectors: Mapping[Route, Vectors]) -> NewItem:
    return NewItem(
        id=record.id,
        note=record.note,
        metadata=record.metadata,
        group=record.group,
        image=record.picture.image if record.picture else None,
        thumbnail=record.picture.thumbnail if record.picture else None,
        vectors=vectors,
        note_digest=note_digest(record.note) if record.note is not None else None,
        signs=record.picture.signs if record.picture else None,
        digest=record.digest(),
    )


def _not_tried(records: Sequence[Record]) -> list[Outcome]:
    return [InsufficientStorage("it was full before this record, which was not tried") for _ in records]


def _status(written: Written) -> Literal["created", "updated"]:
    return "created" if written.created else "updated"


def _outcome(item_id: str, result: Outcome) -> BulkOutcome:
    if isinstance(result, DermnoteError):
        return BulkOutcome(id=item_id, status="failed", error=result.problem())
    return BulkOutcome(id=item_id, status=result)
