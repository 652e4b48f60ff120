"""The outputs of one arm in one setting over its seeds, aligned to the same images. Pure functions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dermnote_train.data.records import Record
from dermnote_train.evaluation.bootstrap import GroupBootstrap
from dermnote_train.evaluation.metrics import Floats, Ints
from dermnote_train.study.cells.heads import INPUTS, Input
from dermnote_train.study.cells.outputs import PoolOutputs

Bootstrap = Callable[..., GroupBootstrap]
"""GroupBootstrap with the study's seed and number of resamples: (groups, strata) -> GroupBootstrap."""


@dataclass(frozen=True)
class Pool:
    """The images of a setting, in an order common to all seeds. labels: [n], indices into `classes`; groups: [n]."""

    records: tuple[Record, ...]
    labels: Ints
    groups: tuple[str, ...]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, records: Sequence[Record], classes: tuple[str, ...]) -> "Pool":
        """The pool of these records, in their order."""
        labels = np.array([classes.index(record.label) for record in records])
        return cls(tuple(records), labels, tuple(record.group for record in records), classes)

    def rows(self, image_ids: Sequence[str]) -> Ints:
        """For each image, its row in `records`."""
        row_of = {record.image_id: row for row, record in enumerate(self.records)}
        return np.array([row_of[image_id] for image_id in image_ids])


@dataclass(frozen=True)
class TrainingPool:
    """Outputs on the training part, by seed. In mode "paper", retrieval searches this part too and excludes no item."""

    pool: Pool
    outputs: Mapping[int, PoolOutputs]


@dataclass(frozen=True)
class SeedOutputs:
    """One arm in one setting: by seed, the outputs on the pool of the setting."""

    pool: Pool
    outputs: Mapping[int, PoolOutputs]
    training: TrainingPool | None = None

    @property
    def inputs(self) -> list[Input]:
        """The inputs that every seed was tested with."""
        return [by for by in INPUTS if all(by in one.logits for one in self.outputs.values())]

    def correct(self, by: Input) -> Floats:
        """[seeds, n]: 1 where the image was classified correctly, 0 where not, NaN where it was not tested."""
        return self.align({seed: self._is_correct(one, by) for seed, one in self.outputs.items()})

    def _is_correct(self, one: PoolOutputs, by: Input) -> Floats:
        predicted = one.logits[by].argmax(axis=1)
        correct: Floats = (predicted == self.pool.labels[self.pool.rows(one.image_ids)]).astype(np.float64)
        return correct

    def align(self, values: Mapping[int, Floats]) -> Floats:
        """`values` (seed -> one value per tested image) as [seeds, n]; NaN for images that a seed did not test."""
        aligned = np.full((len(values), len(self.pool.records)), np.nan)
        for row, (seed, own) in enumerate(sorted(values.items())):
            aligned[row, self.pool.rows(self.outputs[seed].image_ids)] = own
        return aligned


def common_seeds(first: SeedOutputs, second: SeedOutputs) -> tuple[SeedOutputs, SeedOutputs]:
    """Both arms reduced to the seeds that both have."""
    both = sorted(set(first.outputs) & set(second.outputs))
    ours, theirs = (replace(one, outputs={seed: one.outputs[seed] for seed in both}) for one in (first, second))
    return ours, theirs
