"""The figures of a study: each arm by itself, and paired. Values only; figures.py makes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dermnote_train.evaluation.bootstrap import Difference
from dermnote_train.evaluation.results import Interval
from dermnote_train.study.cells.heads import Input

Direction = Literal["image to note", "note to image"]
Notes = Literal["blinded", "own"]


TESTED_WITH: Mapping[Input, str] = {
    "image": "picture",
    "both": "picture + blinded note",
    "prompts": "picture, by class prompts",
    "note": "blinded note",
}
"""How tables word an input, in their order."""


@dataclass(frozen=True)
class Place:
    """Where a figure holds: grid, route (what was trained on) and pool (what was tested on)."""

    grid: str
    route: str
    pool: str


@dataclass(frozen=True)
class Classified:
    """Classification by one arm from one input: means over seeds, balanced accuracy with its interval.

    `n`: images tested, all seeds together. `confusion[true][predicted]`: counts of all seeds.
    """

    place: Place
    arm: str
    input: Input
    seeds: int
    n: int
    balanced_accuracy: Interval
    f1_macro: float
    f1_micro: float
    f1_weighted: float
    kappa_linear: float
    auroc_macro: float
    calibration_error: float
    chance: float
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Retrieved:
    """Retrieval by one arm. notes "own" of an arm that was trained with named notes name the class: `reads_class`.

    Class-level: mAP and P@k; instance-level: R@k and the median rank, the mean of the seeds' medians. `chance_map`: of
    notes in random order; `classless_map`: of the same rankings, were the classes asked for random.
    """

    place: Place
    arm: str
    direction: Direction
    notes: Notes
    reads_class: bool
    seeds: int
    mean_average_precision: Interval
    precision_at: Mapping[int, float]
    chance_map: float
    classless_map: float
    recall_at: Mapping[int, float]
    chance_recall_at: Mapping[int, float]
    median_rank: float
    pool_size: int


@dataclass(frozen=True)
class Compared:
    """`arm` from `input` against `against`: a paired difference; `adjusted`: its p-value by Holm within its family."""

    place: Place
    measure: Literal["balanced accuracy", "mAP"]
    arm: str
    input: str
    against: str
    family: str
    difference: Difference
    adjusted: float = 1.0


@dataclass(frozen=True)
class InSubgroup:
    """Balanced accuracy of one arm on pictures alone, within one subgroup; the mean over seeds."""

    place: Place
    arm: str
    field: str
    value: str
    n: int
    balanced_accuracy: float
    chance: float


@dataclass(frozen=True)
class Tried:
    """A change of the frozen grid on home validation data: an arm's balanced accuracy with it, and the paired
    difference from the same arm without. Epoch and candidate were chosen on the same pictures."""

    trial: str
    route: str
    arm: str
    input: Input
    seeds: int
    balanced_accuracy: float
    difference: Difference


@dataclass(frozen=True)
class StudyFigures:
    """All of them. `opened`: how many (arm, input, route, grid) x test pools were looked at; `tried`: what was tried
    without looking at any."""

    classified: tuple[Classified, ...]
    retrieved: tuple[Retrieved, ...]
    compared: tuple[Compared, ...]
    in_subgroups: tuple[InSubgroup, ...]
    opened: int
    tried: tuple[Tried, ...] = ()
