"""The metrics of one evaluation, and their JSON form."""

import math
from collections.abc import Mapping
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
    """Classification from one kind of input. `confusion[true][predicted]` counts images, classes as in Evaluation.

    `chance`: the balanced accuracy of guessing, 1 / (number of classes among the records). Macro means cover only
    those classes. `auroc_macro`: one-vs-rest; `calibration_error`: of the predicted class, 15 bins.
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
    """Classification of the records with one value of one field, such as `field` "age", `value` "50 to 69".

    `classes`: number of classes among them; `chance` is 1 / `classes`.
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
    """Class-level retrieval: hits of the query's class are relevant; the query's own group is excluded.

    precision_at: k -> P@k. `chance_*`: expected for random rankings of the same pools. `queries`: number of queries
    with relevant items.
    """

    precision_at: dict[int, Interval]
    mean_average_precision: Interval
    chance_precision: float
    chance_map: float
    queries: int


@dataclass(frozen=True)
class InstanceRetrieval:
    """Instance-level retrieval among `pool` items: only the query's partner (an image's note, a note's image) counts.

    Notes that tie with the partner (equal texts) count in part: the recall is the probability that the partner is among
    the first k if ties are ordered at random. `distinct_notes`: number of different texts.
    """

    recall_at: dict[int, Interval]
    chance_recall_at: dict[int, float]
    median_rank: float
    pool: int
    distinct_notes: int


@dataclass(frozen=True)
class Retrieval:
    """One direction of cross-modal retrieval, at both levels."""

    class_level: ClassRetrieval
    instance_level: InstanceRetrieval


@dataclass(frozen=True)
class Evaluation:
    """All metrics of one model on one set of records. The retrieval parts are None without notes.

    `blinded_note`, `image_and_blinded_note`: classification from a note written without the diagnosis, and from the
    mean of its logits and the image's; None without such notes.
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
        plain: dict[str, Any] = plain_json(asdict(self))
        return plain


def plain_json(value: Any, *, digits: int | None = None) -> Any:
    """JSON-safe form of dicts, lists and numbers: NaN becomes null, keys become text; floats rounded to `digits`."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(inner, digits=digits) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(inner, digits=digits) for inner in value]
    if isinstance(value, float):
        return None if math.isnan(value) else value if digits is None else round(value, digits)
    return value
