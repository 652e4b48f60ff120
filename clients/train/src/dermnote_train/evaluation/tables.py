"""Table rows for the command line and the report: metrics with interval and chance, formatted. Pure functions."""

import math
from dataclasses import dataclass, replace

from dermnote_train.evaluation.results import Classification, Evaluation, Interval, Retrieval

DIRECTIONS = (("image → note", "image_to_note"), ("note → image", "note_to_image"))


@dataclass(frozen=True)
class MetricRow:
    """One row of a metrics table as text, and its numbers for a chart. `interval`: 95 %, "" if there is none."""

    name: str
    value: str
    interval: str = ""
    chance: str = ""
    estimate: Interval | None = None
    chance_value: float | None = None


def metric_rows(evaluation: Evaluation) -> list[MetricRow]:
    """Classification from each input, then cross-modal retrieval at both levels, as far as they were measured."""
    rows = classification_rows(evaluation.classification)
    inputs = (("blinded note", evaluation.blinded_note), ("image + blinded note", evaluation.image_and_blinded_note))
    for name, scores in inputs:
        if scores is not None:
            rows += _prefixed(f"{name}: ", classification_rows(scores))
    for name, direction in retrieval_directions(evaluation):
        own = direction.instance_level
        rows += _prefixed(f"{name}: class ", class_level_rows(direction))
        rows += _prefixed(f"{name}: own partner ", instance_level_rows(direction))
        median, chance = f"{own.median_rank:g}", f"{(own.pool + 1) / 2:g}"
        rows.append(MetricRow(f"{name}: own partner's median rank (of {own.pool})", median, chance=chance))
    return rows


def _prefixed(prefix: str, rows: list[MetricRow]) -> list[MetricRow]:
    return [replace(row, name=prefix + row.name) for row in rows]


def retrieval_directions(evaluation: Evaluation) -> list[tuple[str, Retrieval]]:
    """The directions that were measured, with their names."""
    return [(name, found) for name, field in DIRECTIONS if (found := getattr(evaluation, field)) is not None]


def classification_rows(scores: Classification) -> list[MetricRow]:
    """Classification from one kind of input."""
    return [
        _row("balanced accuracy", scores.balanced_accuracy, chance=scores.chance),
        _row("F1 macro", scores.f1_macro),
        _row("F1 micro", scores.f1_micro),
        _row("F1 weighted", scores.f1_weighted),
        _row("kappa (linear weights)", scores.kappa_linear, chance=0.0),
        _row("AUROC macro (one-vs-rest)", scores.auroc_macro, chance=0.5),
        _row("calibration error (ECE, 15 bins)", scores.calibration_error),
    ]


def class_level_rows(retrieval: Retrieval) -> list[MetricRow]:
    """P@k and mAP of one direction."""
    level = retrieval.class_level
    precision = [_row(f"P@{k}", value, chance=level.chance_precision) for k, value in level.precision_at.items()]
    return [*precision, _row("mAP", level.mean_average_precision, chance=level.chance_map)]


def instance_level_rows(retrieval: Retrieval) -> list[MetricRow]:
    """R@k of one direction."""
    level = retrieval.instance_level
    return [_row(f"R@{k}", value, chance=level.chance_recall_at[k]) for k, value in level.recall_at.items()]


def _row(name: str, value: Interval | float, *, chance: float | None = None) -> MetricRow:
    estimate = value if isinstance(value, Interval) else Interval(value, math.nan, math.nan)
    chance_text = "" if chance is None else format_number(chance)
    return MetricRow(name, format_number(estimate.value), format_interval(estimate), chance_text, estimate, chance)


def format_interval(interval: Interval) -> str:
    """The interval as "low to high", numbers as in `format_number`; "" if there is no interval."""
    return "" if math.isnan(interval.low) else f"{format_number(interval.low)} to {format_number(interval.high)}"


def format_number(value: float) -> str:
    """Three decimals without a leading zero; a dash for NaN."""
    if math.isnan(value):
        return "–"
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"
