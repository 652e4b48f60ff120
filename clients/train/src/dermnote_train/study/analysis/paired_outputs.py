"""One arm's outputs at one place over its seeds, on pictures in one order. Values in, values out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from dermnote_train.data.records import Record
from dermnote_train.evaluation.bootstrap import Resampling
from dermnote_train.evaluation.metrics import Floats, Ints
from dermnote_train.study.cells.heads import Input
from dermnote_train.study.cells.outputs import PoolOutputs


class Draws(NamedTuple):
    """How every interval is drawn."""

    resamples: int
    seed: int

    def of(self, groups: Sequence[str], strata: Ints | None = None) -> Resampling:
        """For images of these groups and classes."""
        return Resampling(groups, strata, self.resamples, self.seed)


@dataclass(frozen=True)
class Pool:
    """The images of a place in one order, the same for all seeds. labels [n] by `classes`; groups [n]."""

    records: tuple[Record, ...]
    labels: Ints
    groups: tuple[str, ...]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, records: Sequence[Record], classes: tuple[str, ...]) -> "Pool":
        labels = np.array([classes.index(record.label) for record in records])
        return cls(tuple(records), labels, tuple(record.group for record in records), classes)

    def rows(self, image_ids: Sequence[str]) -> Ints:
        """Where images are in this order."""
        place = {record.image_id: row for row, record in enumerate(self.records)}
        return np.array([place[image_id] for image_id in image_ids])


@dataclass(frozen=True)
class Beside:
    """Mode "paper": the training part is searched beside the pool, by seed, and nothing is left out of either."""

    pool: Pool
    outputs: Mapping[int, PoolOutputs]

    @classmethod
    def of(cls, outputs: Mapping[int, PoolOutputs] | None, pool: Pool) -> "Beside | None":
        return None if outputs is None else cls(pool, outputs)


@dataclass(frozen=True)
class Seeds:
    """One arm at one place: its pool's outputs by seed."""

    pool: Pool
    outputs: Mapping[int, PoolOutputs]
    beside: Beside | None = None

    def right(self, by: Input) -> Floats:
        """[seeds, n]: 1 where the picture was classified rightly, 0 where not, NaN where it was not tested."""
        return self.spread({seed: self._is_right(one, by) for seed, one in self.outputs.items()})

    def _is_right(self, one: PoolOutputs, by: Input) -> Floats:
        predicted = one.logits[by].argmax(axis=1)
        right: Floats = (predicted == self.pool.labels[self.pool.rows(one.image_ids)]).astype(np.float64)
        return right

    def spread(self, values: Mapping[int, Floats]) -> Floats:
        """[seeds, n] from one value an image that a seed tested; NaN where it tested none."""
        spread = np.full((len(values), len(self.pool.records)), np.nan)
        for place, (seed, found) in enumerate(sorted(values.items())):
            spread[place, self.pool.rows(self.outputs[seed].image_ids)] = found
        return spread


def shared(first: Seeds, second: Seeds) -> tuple[Seeds, Seeds]:
    """Both with the seeds that both have."""
    both = sorted(set(first.outputs) & set(second.outputs))
    ours, theirs = (replace(one, outputs={number: one.outputs[number] for number in both}) for one in (first, second))
    return ours, theirs
