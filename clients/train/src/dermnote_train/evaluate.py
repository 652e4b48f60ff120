"""What a trained model is worth on records that it never saw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dermnote_train.model import LesionModel
from dermnote_train.progress import Report, silent
from dermnote_train.records import Record


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap 95 % interval over groups (patients or lesions)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Classification:
    """Classification by the picture alone. `confusion[true][predicted]` counts images, in the order of `classes`.

    `chance`: the balanced accuracy of guessing, 1 / (classes present among the records).
    """

    balanced_accuracy: Interval
    f1_macro: Interval
    f1_micro: float
    f1_weighted: float
    kappa_linear: float
    chance: float
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ClassRetrieval:
    """Class-level retrieval: a hit is relevant if it has the query's class. Own note and own group are left out.

    precision_at: k -> P@k. `chance_*`: what a random ranking of the same pools gives. `queries`: those that had anything
    relevant to find.
    """

    precision_at: dict[int, Interval]
    mean_average_precision: Interval
    chance_precision: float
    chance_map: float
    queries: int


@dataclass(frozen=True)
class InstanceRetrieval:
    """Instance-level retrieval: only the query's own partner counts, among all held-out ones (`pool`)."""

    recall_at: dict[int, Interval]
    chance_recall_at: dict[int, float]
    median_rank: float
    pool: int


@dataclass(frozen=True)
class Retrieval:
    """One direction of cross-modal retrieval, at both levels, never mixed."""

    class_level: ClassRetrieval
    instance_level: InstanceRetrieval


@dataclass(frozen=True)
class Evaluation:
    """All figures of one model on one set of records. The retrieval parts are None where there are no notes."""

    n: int
    groups: int
    classes: tuple[str, ...]
    classification: Classification
    image_to_note: Retrieval | None
    note_to_image: Retrieval | None
    images_per_s: float

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values (NaN becomes null, int keys become text)."""
        raise NotImplementedError


def evaluate(
    model: LesionModel,
    *,
    records: Sequence[Record],
    notes: Mapping[str, str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: Report = silent,
) -> Evaluation:
    """Classify `records` from their pictures and, with notes, search notes by picture and pictures by note.

    records: held-out ones (split.test, or another data set's). notes: image_id -> note; records without a note take no part
    in retrieval. `resamples`: bootstrap resamples for the intervals. Raises UserError for no records, for a label that the model was not trained on, for an unreadable image.
    """
    raise NotImplementedError
