"""The results of a study: each arm alone, and paired comparisons. Computed by figures.py."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dermnote_train.evaluation.bootstrap import Difference
from dermnote_train.evaluation.results import Interval
from dermnote_train.study.cells.heads import Input

Direction = Literal["image to note", "note to image"]
Notes = Literal["blinded", "own"]

INPUT_LABELS: Mapping[Input, str] = {
    "image": "image",
    "both": "image + blinded note",
    "prompts": "image, by class prompts",
    "note": "blinded note",
}
"""Input -> its name in tables, in the order of the tables."""


@dataclass(frozen=True)
class Setting:
    """The setting of a result: grid, route (the training domain) and pool (the test data)."""

    grid: str
    route: str
    pool: str


@dataclass(frozen=True)
class ClassificationResult:
    """Classification by one arm from one input: means over seeds, balanced accuracy with its interval.

    `n`: images tested, summed over seeds. `confusion[true][predicted]`: counts summed over seeds.
    """

    setting: Setting
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
class RetrievalResult:
    """Retrieval by one arm, averaged over seeds. Class-level: mAP and P@k; instance-level: R@k and the median rank.

    `notes`: the notes searched, "blinded" or the arm's "own" training notes; `reads_class`: whether these are its own
    and name a diagnosis. `chance_map`: mAP of a random order; `classless_map`: mAP of the same rankings if each query
    had the class of a random query.
    """

    setting: Setting
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
class Comparison:
    """A paired difference: `arm` tested with `input`, minus `against`.

    `family`: the question, whose comparisons are corrected together; `adjusted`: the p-value after Holm's correction.
    """

    setting: Setting
    measure: Literal["balanced accuracy", "mAP"]
    arm: str
    input: str
    against: str
    family: str
    difference: Difference
    adjusted: float = 1.0


@dataclass(frozen=True)
class SubgroupResult:
    """Balanced accuracy of one arm on images alone within one subgroup, averaged over seeds."""

    setting: Setting
    arm: str
    field: str
    value: str
    n: int
    balanced_accuracy: float
    chance: float


@dataclass(frozen=True)
class AblationResult:
    """An arm's balanced accuracy in an ablation, on home validation data, and the paired difference from the unchanged
    grid. Epoch and candidate were selected on this validation data too."""

    ablation: str
    route: str
    arm: str
    input: Input
    seeds: int
    balanced_accuracy: float
    difference: Difference


@dataclass(frozen=True)
class StudyResults:
    """All results. `opened`: number of evaluated combinations of grid, route, arm, input and pool, no ablations."""

    classification: tuple[ClassificationResult, ...]
    retrieval: tuple[RetrievalResult, ...]
    comparisons: tuple[Comparison, ...]
    subgroups: tuple[SubgroupResult, ...]
    opened: int
    ablations: tuple[AblationResult, ...] = ()
