"""The figures of one evaluation, and their JSON form. Values only."""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap 95 % interval over groups (patients or lesions)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Classification:
    """Classification by the picture alone. `confusion[true][predicted]` counts images, in the order of `classes`.

    `chance`: the balanced accuracy of guessing, 1 / (classes present among the records). Macro means are over the
    classes present. `auroc_macro`: one class against the rest; `calibration_error`: of the predicted class, 15 bins.
    """

    balanced_accuracy: Interval
    f1_macro: Interval
    f1_micro: float
    f1_weighted: float
    kappa_linear: float
    auroc_macro: Interval
    calibration_error: Interval
    chance: float
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Subgroup:
    """Classification of the records that have one value of one fact: `field` "age", `value` "50 to 69".

    `classes`: that are present among them; `chance` is 1 / their number.
    """

    field: str
    value: str
    n: int
    groups: int
    classes: int
    balanced_accuracy: Interval
    chance: float


@dataclass(frozen=True)
class ClassRetrieval:
    """Class-level retrieval: a hit is relevant if it has the query's class. Own note and own group are left out.

    precision_at: k -> P@k. `chance_*`: what a random ranking of the same pools gives. `queries`: those that had
    anything relevant to find.
    """

    precision_at: dict[int, Interval]
    mean_average_precision: Interval
    chance_precision: float
    chance_map: float
    queries: int


@dataclass(frozen=True)
class InstanceRetrieval:
    """Instance-level retrieval: only the query's own partner counts, among all held-out ones (`pool`).

    Where notes are equal, each may be the own one, so recall is shared among them; `distinct_notes` says how many
    really differ.
    """

    recall_at: dict[int, Interval]
    chance_recall_at: dict[int, float]
    median_rank: float
    pool: int
    distinct_notes: int


@dataclass(frozen=True)
class Retrieval:
    """One direction of cross-modal retrieval, at both levels, never mixed."""

    class_level: ClassRetrieval
    instance_level: InstanceRetrieval


@dataclass(frozen=True)
class Evaluation:
    """All figures of one model on one set of records. The retrieval parts are None where there are no notes.

    `blinded_note`, `image_and_blinded_note`: classification by a note that was made without the diagnosis, and by the
    mean of its logits and the picture's; None where there are no such notes.
    """

    n: int
    groups: int
    classes: tuple[str, ...]
    classification: Classification
    subgroups: tuple[Subgroup, ...]
    image_to_note: Retrieval | None
    note_to_image: Retrieval | None
    images_per_s: float
    blinded_note: Classification | None = None
    image_and_blinded_note: Classification | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values: NaN becomes null, number keys become text, tuples become lists."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return value
