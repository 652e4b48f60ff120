"""Pushes a data set to the retrieval service and searches that service for similar images."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dermnote_contracts.problems import DermnoteError, InsufficientStorage, one_line
from dermnote_contracts.retrieval import BulkOutcome, Exclude, SearchResponse, Via
from dermnote_imaging.decoder import read_header
from dermnote_train.data.records import LesionDataset, Record
from dermnote_train.errors import UserError
from dermnote_train.progress import Report, Step, silent
from dermnote_train.remote.retrieval import RetrievalService
from dermnote_train.remote.shards import NewItem

SHARD = 64
SUFFIX_OF = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


@dataclass(frozen=True)
class IndexRun:
    """Result of a push. `unchanged`: items that the index already held in this form; `failed`: item id -> reason."""

    created: int
    updated: int
    failed: Mapping[str, str]
    seconds: float
    unchanged: int = 0

    @property
    def stored(self) -> int:
        """Items that the index holds in the pushed form."""
        return self.created + self.updated + self.unchanged


class IndexInterrupted(UserError):
    """A push that ended early; `run` reports the items stored before."""

    def __init__(self, reason: str, *, run: IndexRun, total: int) -> None:
        self.run = run
        super().__init__(
            f"{reason}; {run.stored} of {total} items are stored: run the same command again to store the rest"
        )


def item_id(dataset: str, image_id: str) -> str:
    """The id of an image in the index: unique across data sets, without dots."""
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
    """Store records with image, note (`notes`: image_id -> text, where there is one), metadata and group.

    Sends 64 items per request. Unchanged items are not embedded again, so a push is cheap to repeat. `run` is stored in
    the metadata, so that a search can be restricted to the items of this run. Raises IndexInterrupted.
    """
    started = time.monotonic()
    outcomes: list[BulkOutcome] = []
    for start in range(0, len(records), SHARD):
        items = [
            _item(record, dataset, notes.get(record.image_id), run=run) for record in records[start : start + SHARD]
        ]
        try:
            outcomes += service.bulk(items)
            _check_disk(outcomes)
        except (UserError, DermnoteError) as error:
            if not outcomes:
                raise
            reason = one_line(error) if isinstance(error, DermnoteError) else str(error)
            raise IndexInterrupted(reason, run=_summary(outcomes, started), total=len(records)) from error
        progress(Step("index", len(outcomes), len(records)))
    if len(outcomes) != len(records):
        raise UserError(
            f"the retrieval service reported only {len(outcomes)} of {len(records)} items; check its log, then run the "
            "same command again"
        )
    return _summary(outcomes, started)


def search_similar(
    service: RetrievalService, record: Record, *, dataset: LesionDataset, k: int, via: Via, run: str
) -> SearchResponse:
    """Items of the same data set and run that are similar to a record's image; never of its own group."""
    return service.search_image(
        read_image(record.image_path),
        k=k,
        via=via,
        where={"dataset": dataset.name, "run": run},
        exclude=Exclude(ids=[item_id(dataset.name, record.image_id)], groups=[record.group]),
    )


def read_image(path: Path) -> bytes:
    """The content of an image file. Raises UserError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); give the path of a JPEG, PNG or WebP image"
        ) from error


def _summary(outcomes: Sequence[BulkOutcome], started: float) -> IndexRun:
    count = Counter(outcome.status for outcome in outcomes)
    return IndexRun(
        created=count["created"],
        updated=count["updated"],
        unchanged=count["unchanged"],
        failed={outcome.id: _reason(outcome) for outcome in outcomes if outcome.status == "failed"},
        seconds=time.monotonic() - started,
    )


def _reason(outcome: BulkOutcome) -> str:
    return (outcome.error.detail or outcome.error.title) if outcome.error else "no reason given"


def _check_disk(outcomes: Sequence[BulkOutcome]) -> None:
    """Raise InsufficientStorage if the last item did not fit on the disk, since later ones will not fit either."""
    error = outcomes[-1].error if outcomes else None
    if error is not None and error.code == InsufficientStorage.code:
        raise InsufficientStorage("free disk space where the retrieval service keeps its data")


def _item(record: Record, dataset: LesionDataset, note: str | None, *, run: str | None) -> NewItem:
    content = read_image(record.image_path)
    metadata = record.metadata.given() | {
        "dataset": dataset.name,
        "label": record.label,
        "synthetic": dataset.synthetic,
    }
    return NewItem(
        item_id=item_id(dataset.name, record.image_id),
        image=content,
        suffix=SUFFIX_OF[read_header(content).format],
        note=note,
        metadata=metadata if run is None else metadata | {"run": run},
        group=record.group,
    )
