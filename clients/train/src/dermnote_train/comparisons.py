"""Is one arm better than another? Paired over the same images and seeds, and corrected for the number of questions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dermnote_train.evaluation import Interval
from dermnote_train.metrics import Floats, Ints

Statistic = Callable[[Ints, Ints], float]
"""(labels [n], predictions [n]) -> a figure."""


@dataclass(frozen=True)
class Difference:
    """How much better the first arm is: the mean over seeds with its 95 % interval, and a two-sided p-value.

    `p_value`: twice the share of resamples on the other side of no difference, never 0.
    """

    interval: Interval
    p_value: float


def paired_difference(
    statistic: Statistic,
    labels: Ints,
    first: Ints,
    second: Ints,
    *,
    groups: Sequence[str],
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """The difference `statistic(first) - statistic(second)`, over seeds and groups at once.

    first, second: predictions [seeds, n], row s of both from the same split, seed and images. Each resample draws whole
    groups and seeds with replacement, the same for both arms, so that what is common to them cancels out.
    """
    if first.shape != second.shape or first.shape[1:] != labels.shape:
        raise ValueError(f"predictions {first.shape} and {second.shape} do not pair up for {labels.shape} labels")
    _, group_of_row = np.unique(np.asarray(groups), return_inverse=True)
    rows_of = [np.flatnonzero(group_of_row == group) for group in range(int(group_of_row.max()) + 1)]
    rng = np.random.default_rng(seed)

    def difference(rows: Ints, seeds: Sequence[int]) -> float:
        own = labels[rows]
        return float(np.mean([statistic(own, first[s][rows]) - statistic(own, second[s][rows]) for s in seeds]))

    drawn = []
    for _ in range(resamples):
        rows = np.concatenate([rows_of[group] for group in rng.integers(0, len(rows_of), len(rows_of))])
        drawn.append(difference(rows, rng.integers(0, len(first), len(first)).tolist()))
    figures = np.array(drawn)
    value = difference(np.arange(len(labels)), range(len(first)))
    low, high = np.percentile(figures, [2.5, 97.5])
    return Difference(Interval(value, float(low), float(high)), _p_value(figures))


def _p_value(figures: Floats) -> float:
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
