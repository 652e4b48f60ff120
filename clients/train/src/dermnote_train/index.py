"""Filling the index over HTTP, and asking it for notes of a picture."""

import io
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dermnote_contracts.problems import DermnoteError, InsufficientStorage, one_line
from dermnote_contracts.retrieval import BulkOutcome, Exclude, SearchResponse, Via
from dermnote_train.data.images import FORMATS
from dermnote_train.data.records import LesionDataset, Record
from dermnote_train.errors import UserError
from dermnote_train.progress import Report, Step, silent
from dermnote_train.remote.retrieval import RetrievalService
from dermnote_train.remote.shards import NewItem

SHARD = 64
SUFFIX_OF = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


@dataclass(frozen=True)
class IndexRun:
    """What became of the items pushed. `unchanged`: they were there just so. `failed`: item id -> reason."""

    created: int
    updated: int
    failed: Mapping[str, str]
    seconds: float
    unchanged: int = 0

    @property
    def stored(self) -> int:
        """Items that the index holds now as they were pushed."""
        return self.created + self.updated + self.unchanged


class IndexStopped(UserError):
    """Not everything was pushed; `run` is what was."""

    def __init__(self, reason: str, *, run: IndexRun, total: int) -> None:
        self.run = run
        super().__init__(
            f"{reason}; {run.stored} of {total} items are stored: run the same again, it goes on with the others"
        )


def item_id(dataset: str, image_id: str) -> str:
    """The id of an image in the index: unique over data sets, and without dots."""
    return f"{dataset}-{image_id}"


def push(
    service: RetrievalService,
    dataset: LesionDataset,
    *,
    records: Sequence[Record],
    notes: Mapping[str, str],
    run: str | None = None,
    progress: Report = silent,
) -> IndexRun:
    """Store records with image, note (image_id -> text; may lack some), metadata and group, 64 a request.

    `run`: a mark kept in the metadata, by which a search can be held to this run's items. What the index holds just so
    costs the service no encoding, so that a push may be repeated. Raises IndexStopped where it breaks off.
    """
    marks: dict[str, str] = {} if run is None else {"run": run}
    begun = time.monotonic()
    outcomes: list[BulkOutcome] = []
    for shard in _shards(records):
        items = [_item(record, dataset, notes.get(record.image_id), marks=marks) for record in shard]
        with _what_was_stored_is_told(outcomes, begun=begun, total=len(records)):
            outcomes += service.bulk(items)
            _check_room(outcomes)
        progress(Step("index", len(outcomes), len(records)))
    if len(outcomes) != len(records):
        raise UserError(
            f"the retrieval service told the outcome of {len(outcomes)} of {len(records)} items; see its log"
        )
    return _run(outcomes, begun=begun)


def search_like(
    service: RetrievalService, record: Record, *, dataset: LesionDataset, k: int, via: Via, run: str
) -> SearchResponse:
    """Items of the same data set and run like a record's picture, never of its own group."""
    return service.search_image(
        read_picture(record.image_path),
        k=k,
        via=via,
        where={"dataset": dataset.name, "run": run},
        exclude=Exclude(ids=[item_id(dataset.name, record.image_id)], groups=[record.group]),
    )


def read_picture(path: Path) -> bytes:
    """A picture file's bytes. Raises UserError."""
    try:
        return path.read_bytes()
    except OSError as wrong:
        raise UserError(
            f"{path}: cannot be read ({wrong.strerror}); give the path of a JPEG, PNG or WebP image"
        ) from wrong


def _run(outcomes: Sequence[BulkOutcome], *, begun: float) -> IndexRun:
    count = Counter(outcome.status for outcome in outcomes)
    return IndexRun(
        created=count["created"],
        updated=count["updated"],
        unchanged=count["unchanged"],
        failed={outcome.id: _reason(outcome) for outcome in outcomes if outcome.status == "failed"},
        seconds=time.monotonic() - begun,
    )


@contextmanager
def _what_was_stored_is_told(outcomes: Sequence[BulkOutcome], *, begun: float, total: int) -> Iterator[None]:
    """Raise IndexStopped for what the service can't do now, once it has told any outcome."""
    try:
        yield
    except (UserError, DermnoteError) as wrong:
        if not outcomes:
            raise
        reason = one_line(wrong) if isinstance(wrong, DermnoteError) else str(wrong)
        raise IndexStopped(reason, run=_run(outcomes, begun=begun), total=total) from wrong


def _check_room(outcomes: Sequence[BulkOutcome]) -> None:
    """Raise InsufficientStorage where the last outcome says so: what would follow finds no room either."""
    last = outcomes[-1].error if outcomes else None
    if last is not None and last.code == InsufficientStorage.code:
        raise InsufficientStorage("make room where the retrieval service keeps its data")


def _shards(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    return (records[start : start + SHARD] for start in range(0, len(records), SHARD))


def _item(record: Record, dataset: LesionDataset, note: str | None, *, marks: Mapping[str, str]) -> NewItem:
    picture = read_picture(record.image_path)
    with Image.open(io.BytesIO(picture), formats=FORMATS) as image:
        suffix = SUFFIX_OF.get(image.format or "", "jpg")  # a JPEG of several pictures calls itself MPO
    ours = {"dataset": dataset.name, "label": record.label, "synthetic": dataset.synthetic}
    return NewItem(
        item_id=item_id(dataset.name, record.image_id),
        image=picture,
        suffix=suffix,
        note=note,
        metadata=record.metadata.given() | ours | dict(marks),
        group=record.group,
    )


def _reason(outcome: BulkOutcome) -> str:
    return (outcome.error.detail or outcome.error.title) if outcome.error else "no reason given"
