"""Is one arm better than another? Paired over the same images and seeds, and corrected for the number of questions.

A figure here is a mean of one value an image: within each stratum, then over the strata, then over seeds. Right or
wrong by class is balanced accuracy; average precision without strata is mAP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dermnote_train.evaluation.metrics import Floats, Ints
from dermnote_train.evaluation.results import Interval


@dataclass(frozen=True)
class Difference:
    """How much better the first arm is: the mean over seeds with its 95 % interval, and a two-sided p-value.

    `p_value`: twice the share of resamples on the other side of no difference, never 0.
    """

    interval: Interval
    p_value: float


@dataclass(frozen=True)
class Resampling:
    """Whole groups and seeds drawn with replacement, the same draws for all that is compared.

    groups [n]: the group of each image; strata [n]: its class, or None for one stratum. `resamples` draws by `seed`.
    """

    groups: Sequence[str]
    strata: Ints | None = None
    resamples: int = 2000
    seed: int = 0

    def interval(self, values: Floats) -> Interval:
        """The figure of values [seeds, n] with its 95 % interval; NaN: an image that a seed did not test."""
        drawn = self._over_seeds(self._figures(values, self._weights()), len(values))
        low, high = np.nanpercentile(drawn, [2.5, 97.5])
        return Interval(self.figure(values), float(low), float(high))

    def figure(self, values: Floats) -> float:
        """The figure of values [seeds, n] as they are."""
        every = np.ones((1, len(self.groups)))
        return float(self._figures(values, every).mean())

    def difference(self, first: Floats, second: Floats) -> Difference:
        """figure(first) - figure(second). Row s of both: the same split, seed and images.

        What is common to the arms cancels out, since both are drawn alike. Raises ValueError if they don't pair up.
        """
        if first.shape != second.shape or first.shape[1:] != (len(self.groups),):
            raise ValueError(f"values {first.shape} and {second.shape} do not pair up for {len(self.groups)} images")
        if not np.array_equal(np.isnan(first), np.isnan(second)):
            raise ValueError("the two do not pair up: they were tested on different images")
        weights = self._weights()
        gained = self._figures(first, weights) - self._figures(second, weights)
        drawn = self._over_seeds(gained, len(first))
        low, high = np.nanpercentile(drawn, [2.5, 97.5])
        value = self.figure(first) - self.figure(second)
        return Difference(Interval(value, float(low), float(high)), _p_value(drawn))

    def _weights(self) -> Floats:
        return _drawn(tuple(self.groups), self.resamples, self.seed)

    def _figures(self, values: Floats, weights: Floats) -> Floats:
        """[resamples, seeds]: each seed's figure with each row of weights; NaN where none of its images is drawn."""
        strata = np.zeros(len(self.groups), dtype=np.int64) if self.strata is None else self.strata
        tested = ~np.isnan(values)
        means = []
        for stratum in np.unique(strata):
            own = tested * (strata == stratum)
            with np.errstate(invalid="ignore"):
                means.append((weights @ (np.nan_to_num(values) * own).T) / (weights @ own.T.astype(np.float64)))
        stacked = np.stack(means)
        known = ~np.isnan(stacked)
        counts = known.sum(axis=0)
        sums = np.where(known, stacked, 0.0).sum(axis=0)
        figures: Floats = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
        return figures

    def _over_seeds(self, figures: Floats, seeds: int) -> Floats:
        """[resamples]: the mean over seeds drawn with replacement."""
        rng = np.random.default_rng([self.seed, 1])
        drawn = rng.integers(0, seeds, (len(figures), seeds))
        picked = np.take_along_axis(figures, drawn, axis=1)
        known = ~np.isnan(picked)
        counts = known.sum(axis=1)
        sums = np.where(known, picked, 0.0).sum(axis=1)
        means: Floats = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
        return means


@lru_cache(maxsize=4)
def _drawn(groups: tuple[str, ...], resamples: int, seed: int) -> Floats:
    """How often each image is drawn, [resamples, n]. Many figures of a study share these draws."""
    _, group_of = np.unique(np.asarray(groups), return_inverse=True)
    count = int(group_of.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    weights: Floats = drawn[:, group_of].astype(np.float64)
    return weights


def _p_value(figures: Floats) -> float:
    figures = figures[~np.isnan(figures)]
    below, above = int((figures <= 0).sum()), int((figures >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(figures) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the given order (Holm 1979): the family's error stays under what each is held against."""
    order = np.argsort(p_values, kind="stable")
    steps = [(len(p_values) - place) * p_values[index] for place, index in enumerate(order)]
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if steps else []
    found: list[float] = adjusted.tolist()
    return found
