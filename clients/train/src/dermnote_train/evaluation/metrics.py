"""Figures of classification and retrieval: arrays in, numbers out. Class-level and instance-level are never mixed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
SCORE_DECIMALS = 6  # cosines nearer than this are ties: equal texts must not be ranked by rounding


def confusion_matrix(labels: Ints, predicted: Ints, *, classes: int) -> Ints:
    """[true, predicted] counts, [classes, classes]."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def balanced_accuracy(labels: Ints, predicted: Ints) -> float:
    """Mean recall over the classes present in `labels`."""
    return float(np.mean([np.mean(predicted[labels == present] == present) for present in np.unique(labels)]))


def f1_macro(labels: Ints, predicted: Ints) -> float:
    """Mean F1 over the classes present in `labels`."""
    true, guessed = (
        np.bincount(part, minlength=int(max(labels.max(), predicted.max())) + 1) for part in (labels, predicted)
    )
    right = np.bincount(labels[labels == predicted], minlength=len(true))
    present = true > 0
    return float(np.mean(2 * right[present] / (true + guessed)[present]))


def auroc_macro(labels: Ints, probabilities: Floats) -> float:
    """Mean area under the ROC curve, one class against the rest, over the classes that some records have and some not.

    probabilities: [n, classes]. NaN where there is no such class.
    """
    ranks = rankdata(probabilities, axis=0)
    areas = []
    for name in np.unique(labels):
        own = labels == name
        positives, negatives = int(own.sum()), int((~own).sum())
        if negatives:
            wins = ranks[own, name].sum() - positives * (positives + 1) / 2
            areas.append(wins / (positives * negatives))
    return float(np.mean(areas)) if areas else float("nan")


def calibration_error(labels: Ints, probabilities: Floats, *, bins: int = 15) -> float:
    """Expected calibration error of the predicted class (Guo et al. 2017): `bins` of equal width by confidence.

    probabilities: [n, classes]. The mean distance between a bin's accuracy and its mean confidence, weighted by size.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def bootstrap(
    statistic: Callable[[Ints], float], groups: Sequence[str], *, resamples: int, seed: int
) -> tuple[float, float]:
    """The 95 % percentile interval of `statistic` when whole groups are drawn with replacement.

    statistic: row numbers (with repeats) -> a figure; NaN figures are left out. groups: the group of each row.
    """
    _, group_of_row = np.unique(np.asarray(groups), return_inverse=True)
    rows_of = [np.flatnonzero(group_of_row == group) for group in range(int(group_of_row.max()) + 1)]
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(0, len(rows_of), len(rows_of)) for _ in range(resamples))
    figures = np.array([statistic(np.concatenate([rows_of[group] for group in groups])) for groups in drawn])
    figures = figures[~np.isnan(figures)]
    if not len(figures):
        return float("nan"), float("nan")
    low, high = np.percentile(figures, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class ClassHits:
    """Per query (NaN where the pool held nothing relevant): P@k by k, average precision, and chance for both.

    `chance_*`: of a pool in random order. `classless_average_precision`: of the very same ranking, were the class that
    is asked for drawn at random from all queries': what rankings that know no class come to. That is more than chance
    wherever items of a class lie together in the ranking, as alike notes do.
    """

    precision_at: dict[int, Floats]
    average_precision: Floats
    chance_precision: Floats
    chance_average_precision: Floats
    classless_average_precision: Floats


def class_level(
    scores: Floats,
    *,
    query_labels: Ints,
    pool_labels: Ints,
    excluded: Bools,
    ks: Sequence[int],
    seed: int = 0,
) -> ClassHits:
    """Rank each query's pool by score; relevant = same label.

    scores, excluded: [queries, pool]; what is excluded isn't ranked at all. Where fewer than k are left, P@k is over
    those. Ties are ordered at random (seeded), so that the order of the rows has no say.
    """
    labels = _ranked_labels(scores, pool_labels, excluded=excluded, seed=seed)
    found, sizes = np.cumsum(labels == query_labels[:, None], axis=1), (~excluded).sum(axis=1)
    total = found[:, -1]
    nothing = np.where(total > 0, 1.0, np.nan)
    classes, own, counts = np.unique(query_labels, return_inverse=True, return_counts=True)
    average = np.stack([_average_precision(labels == one) for one in classes])
    return ClassHits(
        precision_at={k: _precision(found, sizes, k=k) * nothing for k in ks},
        average_precision=average[own, np.arange(len(own))],
        chance_precision=total / np.maximum(sizes, 1) * nothing,
        chance_average_precision=np.array([chance_ap(int(r), int(n)) for r, n in zip(total, sizes, strict=True)]),
        classless_average_precision=_weighted(average, counts) * nothing,
    )


def _ranked_labels(scores: Floats, labels: Ints, *, excluded: Bools, seed: int) -> Ints:
    """Each query's pool as labels, best first; what is excluded is last and has a label that nobody has."""
    # Less than half of the last decimal, so that it only decides between ties.
    shuffle = np.random.default_rng(seed).random(scores.shape) * (0.4 * 10.0**-SCORE_DECIMALS)
    order = np.argsort(-np.where(excluded, -np.inf, scores.round(SCORE_DECIMALS) + shuffle), axis=1)
    ranked: Ints = np.where(np.take_along_axis(excluded, order, axis=1), labels.min() - 1, labels[order])
    return ranked


def _average_precision(hits: Bools) -> Floats:
    """[queries], NaN where nothing is relevant."""
    places = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    with np.errstate(invalid="ignore"):
        average: Floats = (hits * places).sum(axis=1) / hits.sum(axis=1)
    return average


def _weighted(values: Floats, weights: Ints) -> Floats:
    """The mean over the first axis of what is a number."""
    known = np.where(np.isnan(values), 0.0, weights[:, None])
    with np.errstate(invalid="ignore"):
        mean: Floats = (np.nan_to_num(values) * known).sum(axis=0) / known.sum(axis=0)
    return mean


def _precision(found: Ints, sizes: Ints, *, k: int) -> Floats:
    depth = np.clip(np.minimum(k, sizes), 1, None)
    right: Floats = np.take_along_axis(found, depth[:, None] - 1, axis=1)[:, 0] / depth
    return right


def chance_ap(relevant: int, pool: int) -> float:
    """The expected average precision of a random ranking of `pool` items, `relevant` of them relevant; NaN for none."""
    if relevant == 0:
        return float("nan")
    harmonic = float(np.sum(1 / np.arange(1, pool + 1)))
    others = (relevant - 1) / (pool - 1) if pool > 1 else 0.0
    return (harmonic + others * (pool - harmonic)) / pool


@dataclass(frozen=True)
class InstanceHits:
    """Per query: the chance that its own partner is among the first k, by k, and its rank counted from 1.

    With t items tied with the partner (itself too), recall is shared over them and the rank is the middle one.
    """

    recall_at: dict[int, Floats]
    rank: Floats


def instance_level(scores: Floats, *, ks: Sequence[int]) -> InstanceHits:
    """scores: [n, n], the own partner of query i being item i."""
    rounded = scores.round(SCORE_DECIMALS)
    own = np.diagonal(rounded)[:, None]
    better, tied = (rounded > own).sum(axis=1), (rounded == own).sum(axis=1)
    return InstanceHits(
        recall_at={k: np.clip((k - better) / tied, 0.0, 1.0) for k in ks},
        rank=better + (tied + 1) / 2,
    )
