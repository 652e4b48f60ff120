"""The figures that the command line and the report show, named, rounded and set beside chance. Values in, text out."""

import math
from dataclasses import dataclass, replace

from dermnote_train.evaluation.results import Classification, Evaluation, Interval, Retrieval


@dataclass(frozen=True)
class Figure:
    """One row of a table of figures. `interval`: 95 %, "" where none was made."""

    name: str
    value: str
    interval: str
    chance: str


def headline(found: Evaluation) -> list[Figure]:
    """Classification, then cross-modal retrieval at both levels where there is any."""
    rows = classification(found.classification)
    inputs = (("blinded note", found.blinded_note), ("picture + blinded note", found.image_and_blinded_note))
    for name, scores in inputs:
        if scores is not None:
            rows += [replace(row, name=f"{name}: {row.name}") for row in classification(scores)]
    return rows + retrieval(found)


def classification(scores: Classification) -> list[Figure]:
    """Classification from one kind of input."""
    return [
        _interval("balanced accuracy", scores.balanced_accuracy, chance=scores.chance),
        _interval("F1 macro", scores.f1_macro),
        Figure("F1 micro", number(scores.f1_micro), "", ""),
        Figure("F1 weighted", number(scores.f1_weighted), "", ""),
        Figure("kappa (linear weights)", number(scores.kappa_linear), "", number(0.0)),
        _interval("AUROC macro (one against the rest)", scores.auroc_macro, chance=0.5),
        _interval("calibration error (ECE, 15 bins)", scores.calibration_error),
    ]


@dataclass(frozen=True)
class SubgroupRow:
    """A subgroup beside its size; `figure` is its balanced accuracy."""

    field: str
    value: str
    images: int
    groups: int
    classes: int
    figure: Figure


def subgroup_rows(found: Evaluation) -> list[SubgroupRow]:
    """Balanced accuracy by sex, age, skin type and site, where there are enough records."""
    return [
        SubgroupRow(
            one.field.replace("_", " "),
            one.value,
            one.n,
            one.groups,
            one.classes,
            _interval("balanced accuracy", one.balanced_accuracy, chance=one.chance),
        )
        for one in found.subgroups
    ]


def retrieval(found: Evaluation) -> list[Figure]:
    """Cross-modal retrieval, class level and instance level."""
    rows = []
    for name, direction in (("picture → note", found.image_to_note), ("note → picture", found.note_to_image)):
        if direction is not None:
            rows += _direction(name, direction)
    return rows


def _direction(name: str, found: Retrieval) -> list[Figure]:
    by_class, own = found.class_level, found.instance_level
    return [
        *(
            _interval(f"{name}: class P@{k}", value, chance=by_class.chance_precision)
            for k, value in by_class.precision_at.items()
        ),
        _interval(f"{name}: class mAP", by_class.mean_average_precision, chance=by_class.chance_map),
        *(
            _interval(f"{name}: own partner R@{k}", value, chance=own.chance_recall_at[k])
            for k, value in own.recall_at.items()
        ),
        Figure(
            f"{name}: own partner's median rank (of {own.pool})", f"{own.median_rank:g}", "", f"{(own.pool + 1) / 2:g}"
        ),
    ]


def _interval(name: str, value: Interval, *, chance: float | None = None) -> Figure:
    interval = "" if math.isnan(value.low) else f"{number(value.low)} to {number(value.high)}"
    return Figure(name, number(value.value), interval, "" if chance is None else number(chance))


def number(value: float) -> str:
    """Three decimals, without the zero before the point; a dash for NaN."""
    if math.isnan(value):
        return "–"
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"
