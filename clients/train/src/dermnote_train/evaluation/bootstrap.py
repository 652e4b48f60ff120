"""Bootstrap over groups: intervals of any metric, paired differences between arms, and Holm's correction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dermnote_train.evaluation.metrics import Floats, Ints
from dermnote_train.evaluation.results import Interval

NAN = float("nan")


@dataclass(frozen=True)
class Difference:
    """Difference between two arms (first - second): mean over seeds with 95 % interval, and a two-sided p-value.

    `p_value`: twice the smaller of two shares, that of the resamples at or below zero and that at or above zero;
    at most 1, never 0.
    """

    interval: Interval
    p_value: float


@dataclass(frozen=True)
class GroupBootstrap:
    """Resampling of whole groups (patients or lesions) with replacement, always the same for the same seed.

    groups [n]: the group of each image; strata [n]: its class, or None for a single stratum.

    `statistic` and `mean` resample one list of rows. `interval`, `point` and `difference` take one value per seed and
    image [seeds, n], NaN where a seed did not test an image; their intervals also resample the seeds. The metric is the
    mean within each stratum, then over strata, then over seeds. If the values are 1 for a correct and 0 for a wrong
    prediction, and the strata are the classes, it is balanced accuracy; for average precisions without strata, mAP.
    """

    groups: Sequence[str]
    strata: Ints | None = None
    resamples: int = 2000
    seed: int = 0

    def subset(self, rows: Ints) -> "GroupBootstrap":
        """The bootstrap of some rows."""
        strata = None if self.strata is None else self.strata[rows]
        return GroupBootstrap([self.groups[row] for row in rows], strata, self.resamples, self.seed)

    def statistic(self, statistic: Callable[[Ints], float]) -> Interval:
        """A statistic (row numbers, possibly repeated -> value) with its 95 % interval; NaN resamples are ignored."""
        _, group_of_row = np.unique(np.asarray(self.groups), return_inverse=True)
        rows_of = [np.flatnonzero(group_of_row == group) for group in range(int(group_of_row.max()) + 1)]
        rng = np.random.default_rng(self.seed)
        samples = (rng.integers(0, len(rows_of), len(rows_of)) for _ in range(self.resamples))
        values = np.array([statistic(np.concatenate([rows_of[group] for group in sample])) for sample in samples])
        values = values[~np.isnan(values)]
        low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (NAN, NAN)
        return Interval(statistic(np.arange(len(self.groups))), float(low), float(high))

    def mean(self, values: Floats) -> Interval:
        """The mean of the values [n] that are not NaN; NaN if there are none."""
        known = np.flatnonzero(~np.isnan(values))
        if not len(known):
            return Interval(NAN, NAN, NAN)
        return self.subset(known).statistic(lambda rows: float(values[known][rows].mean()))

    def interval(self, values: Floats) -> Interval:
        """The metric of values [seeds, n] with its 95 % interval."""
        resampled = self._resample_seeds(self._metric(values, self._weights()))
        low, high = np.nanpercentile(resampled, [2.5, 97.5])
        return Interval(self.point(values), float(low), float(high))

    def point(self, values: Floats) -> float:
        """The metric of values [seeds, n] without resampling."""
        return float(self._metric(values, np.ones((1, len(self.groups)))).mean())

    def difference(self, first: Floats, second: Floats) -> Difference:
        """point(first) - point(second), paired: row s of both has the same split, seed and images.

        Both arms share the resamples, so common variation cancels out. Raises ValueError if the arms are not paired.
        """
        if first.shape != second.shape or first.shape[1:] != (len(self.groups),):
            raise ValueError(f"values {first.shape} and {second.shape} are not paired for {len(self.groups)} images")
        if not np.array_equal(np.isnan(first), np.isnan(second)):
            raise ValueError("values are not paired: the arms were tested on different images")
        weights = self._weights()
        resampled = self._resample_seeds(self._metric(first, weights) - self._metric(second, weights))
        low, high = np.nanpercentile(resampled, [2.5, 97.5])
        value = self.point(first) - self.point(second)
        return Difference(Interval(value, float(low), float(high)), _p_value(resampled))

    def _weights(self) -> Floats:
        return _resample_weights(tuple(self.groups), self.resamples, self.seed)

    def _metric(self, values: Floats, weights: Floats) -> Floats:
        """[resamples, seeds]: each seed's metric with each row of weights; NaN if no image of the seed was sampled."""
        strata = np.zeros(len(self.groups), dtype=np.int64) if self.strata is None else self.strata
        tested = ~np.isnan(values)
        means = []
        for stratum in np.unique(strata):
            own = tested * (strata == stratum)
            with np.errstate(invalid="ignore"):
                means.append((weights @ (np.nan_to_num(values) * own).T) / (weights @ own.T.astype(np.float64)))
        return _mean_of_known(np.stack(means), axis=0)

    def _resample_seeds(self, metric: Floats) -> Floats:
        """[resamples]: the mean over seeds, sampled with replacement."""
        rng = np.random.default_rng([self.seed, 1])
        sampled = rng.integers(0, metric.shape[1], metric.shape)
        return _mean_of_known(np.take_along_axis(metric, sampled, axis=1), axis=1)


def _mean_of_known(values: Floats, *, axis: int) -> Floats:
    """The mean of the values that are not NaN along an axis; NaN where nothing is known."""
    known = ~np.isnan(values)
    counts = known.sum(axis=axis)
    sums = np.where(known, values, 0.0).sum(axis=axis)
    means: Floats = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return means


@lru_cache(maxsize=4)
def _resample_weights(groups: tuple[str, ...], resamples: int, seed: int) -> Floats:
    """Count of each image in each resample, [resamples, n]. Many metrics of a study share these weights."""
    _, group_of = np.unique(np.asarray(groups), return_inverse=True)
    count = int(group_of.max()) + 1
    counts = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    weights: Floats = counts[:, group_of].astype(np.float64)
    return weights


def _p_value(differences: Floats) -> float:
    differences = differences[~np.isnan(differences)]
    below, above = int((differences <= 0).sum()), int((differences >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(differences) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for the family-wise error rate (Holm 1979), in the given order."""
    order = np.argsort(p_values, kind="stable")
    steps = [(len(p_values) - place) * p_values[index] for place, index in enumerate(order)]
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if steps else []
    values: list[float] = adjusted.tolist()
    return values
