"""Classification and retrieval metrics: arrays in, numbers out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import cohen_kappa_score

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
SCORE_DECIMALS = 6  # cosines are rounded to this, so that equal texts tie despite floating-point errors


def confusion_matrix(labels: Ints, predicted: Ints, *, classes: int) -> Ints:
    """[true, predicted] counts, [classes, classes]."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def balanced_accuracy(labels: Ints, predicted: Ints) -> float:
    """Mean recall over the classes present in `labels`."""
    return float(np.mean([np.mean(predicted[labels == present] == present) for present in np.unique(labels)]))


def f1_macro(labels: Ints, predicted: Ints) -> float:
    """Mean F1 over the classes present in `labels`."""
    classes = int(max(labels.max(), predicted.max())) + 1
    actual, guessed = (np.bincount(part, minlength=classes) for part in (labels, predicted))
    correct = np.bincount(labels[labels == predicted], minlength=classes)
    present = actual > 0
    return float(np.mean(2 * correct[present] / (actual + guessed)[present]))


def kappa_linear(labels: Ints, predicted: Ints) -> float:
    """Cohen's kappa with linear weights; NaN if only one class occurs, since agreement is then meaningless."""
    if len(np.union1d(labels, predicted)) < 2:
        return float("nan")
    return float(cohen_kappa_score(labels, predicted, weights="linear"))


def auroc_macro(labels: Ints, probabilities: Floats) -> float:
    """Mean one-vs-rest area under the ROC curve over the classes that some but not all records have.

    probabilities: [n, classes]. NaN if there is no such class.
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

    probabilities: [n, classes]. The mean gap between a bin's accuracy and its mean confidence, weighted by bin size.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


@dataclass(frozen=True)
class ClassHits:
    """Class-level retrieval per query (NaN if the pool has nothing relevant): P@k, average precision, chance levels.

    `chance_*`: expected for a pool in random order. `classless_average_precision`: expected for the same ranking if the
    query's class were replaced by that of a random query; a ranking that ignores the query's class reaches this value.
    It exceeds chance if items of one class are ranked next to each other, as similar notes are.
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
    """Rank each query's pool by score; items with the query's label are relevant.

    scores, excluded: [queries, pool]; excluded items are not ranked. If n < k items are left, P@k is P@n.
    Ties are ordered at random (seeded), so that the order of the rows has no influence.
    """
    labels = _ranked_labels(scores, pool_labels, excluded=excluded, seed=seed)
    hits, sizes = np.cumsum(labels == query_labels[:, None], axis=1), (~excluded).sum(axis=1)
    total = hits[:, -1]
    known = np.where(total > 0, 1.0, np.nan)
    classes, own, counts = np.unique(query_labels, return_inverse=True, return_counts=True)
    average = np.stack([_average_precision(labels == one) for one in classes])
    return ClassHits(
        precision_at={k: _precision(hits, sizes, k=k) * known for k in ks},
        average_precision=average[own, np.arange(len(own))],
        chance_precision=total / np.maximum(sizes, 1) * known,
        chance_average_precision=np.array([chance_ap(int(r), int(n)) for r, n in zip(total, sizes, strict=True)]),
        classless_average_precision=_weighted(average, counts) * known,
    )


def _ranked_labels(scores: Floats, labels: Ints, *, excluded: Bools, seed: int) -> Ints:
    """Each query's pool as labels, best first; excluded items come last with a label that no query has."""
    # Less than half a unit of the last decimal kept, so that the random numbers only break ties.
    shuffle = np.random.default_rng(seed).random(scores.shape) * (0.4 * 10.0**-SCORE_DECIMALS)
    order = np.argsort(-np.where(excluded, -np.inf, scores.round(SCORE_DECIMALS) + shuffle), axis=1)
    ranked: Ints = np.where(np.take_along_axis(excluded, order, axis=1), labels.min() - 1, labels[order])
    return ranked


def _average_precision(hits: Bools) -> Floats:
    """[queries]; NaN if nothing is relevant."""
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    with np.errstate(invalid="ignore"):
        average: Floats = (hits * precision).sum(axis=1) / hits.sum(axis=1)
    return average


def _weighted(values: Floats, weights: Ints) -> Floats:
    """The weighted mean over the first axis of the values that are not NaN."""
    known = np.where(np.isnan(values), 0.0, weights[:, None])
    with np.errstate(invalid="ignore"):
        mean: Floats = (np.nan_to_num(values) * known).sum(axis=0) / known.sum(axis=0)
    return mean


def _precision(hits: Ints, sizes: Ints, *, k: int) -> Floats:
    depth = np.clip(np.minimum(k, sizes), 1, None)
    precision: Floats = np.take_along_axis(hits, depth[:, None] - 1, axis=1)[:, 0] / depth
    return precision


def chance_ap(relevant: int, pool: int) -> float:
    """Expected average precision of a random ranking of `pool` items, `relevant` of which are relevant; NaN if none."""
    if relevant == 0:
        return float("nan")
    harmonic = float(np.sum(1 / np.arange(1, pool + 1)))
    others = (relevant - 1) / (pool - 1) if pool > 1 else 0.0
    return (harmonic + others * (pool - harmonic)) / pool


@dataclass(frozen=True)
class InstanceHits:
    """Instance-level retrieval per query: recall at k and rank (from 1) of its partner, the other half of its pair.

    If other items tie with the partner, recall and rank are expected values under random tie-breaking.
    """

    recall_at: dict[int, Floats]
    rank: Floats


def instance_level(scores: Floats, *, ks: Sequence[int]) -> InstanceHits:
    """Recall and rank of each query's partner. scores: [n, n]; item i is the partner of query i."""
    rounded = scores.round(SCORE_DECIMALS)
    own = np.diagonal(rounded)[:, None]
    better, tied = (rounded > own).sum(axis=1), (rounded == own).sum(axis=1)
    return InstanceHits(
        recall_at={k: np.clip((k - better) / tied, 0.0, 1.0) for k in ks},
        rank=better + (tied + 1) / 2,
    )
