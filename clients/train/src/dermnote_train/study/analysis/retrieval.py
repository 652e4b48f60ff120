"""Retrieval between images and notes, from the outputs of cells. Pure functions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dermnote_train.evaluation.evaluate import KS
from dermnote_train.evaluation.metrics import ClassHits, Floats, InstanceHits, class_level, instance_level
from dermnote_train.study.analysis.paired_outputs import Bootstrap, SeedOutputs, common_seeds
from dermnote_train.study.analysis.results import Comparison, Direction, Notes, RetrievalResult, Setting
from dermnote_train.study.arms import ARMS, CONTROL_OF, NAMING_SETS
from dermnote_train.study.cells.outputs import Floats32

EMBEDDING_OF: Mapping[Notes, str] = {"blinded": "note", "own": "own_text"}
DIRECTIONS: tuple[Direction, ...] = ("image to note", "note to image")


@dataclass(frozen=True)
class Rankings:
    """One arm's rankings in one setting and direction, with one kind of note. by_class, by_instance: seed -> hits."""

    setting: Setting
    arm: str
    direction: Direction
    notes: Notes
    seeds: SeedOutputs
    by_class: Mapping[int, ClassHits]
    by_instance: Mapping[int, InstanceHits]

    def average_precision(self, seeds: SeedOutputs) -> Floats:
        """Average precision [seeds, n] of each query, for the seeds of `seeds`."""
        return seeds.align({seed: self.by_class[seed].average_precision for seed in seeds.outputs})

    def classless_average_precision(self, seeds: SeedOutputs) -> Floats:
        """Average precision [seeds, n] of each query if the query classes were random, for the seeds of `seeds`."""
        return seeds.align({seed: self.by_class[seed].classless_average_precision for seed in seeds.outputs})


def rank(setting: Setting, arm: str, seeds: SeedOutputs) -> Iterator[Rankings]:
    """Rankings in each direction, with each kind of note for which the arm has embeddings."""
    for notes, embedding in EMBEDDING_OF.items():
        if all(getattr(one, embedding) is not None for one in seeds.outputs.values()):
            for direction in DIRECTIONS:
                hits = {seed: _hits(seeds, seed, embedding, direction) for seed in seeds.outputs}
                by_class, by_instance = ({seed: one[level] for seed, one in hits.items()} for level in (0, 1))
                yield Rankings(setting, arm, direction, notes, seeds, by_class, by_instance)  # type: ignore[arg-type]


def retrieval_result(rankings: Rankings, *, bootstrap: Bootstrap) -> RetrievalResult:
    """The metrics of one arm's rankings."""
    seeds, by_class, by_instance = rankings.seeds, rankings.by_class.values(), rankings.by_instance.values()
    sizes = [len(one.image_ids) for one in seeds.outputs.values()]
    return RetrievalResult(
        setting=rankings.setting,
        arm=rankings.arm,
        direction=rankings.direction,
        notes=rankings.notes,
        reads_class=rankings.notes == "own" and any(name in NAMING_SETS for name in ARMS[rankings.arm].notes),
        seeds=len(by_class),
        mean_average_precision=bootstrap(seeds.pool.groups).interval(rankings.average_precision(seeds)),
        precision_at={k: _mean(np.nanmean(hits.precision_at[k]) for hits in by_class) for k in KS},
        chance_map=_mean(np.nanmean(hits.chance_average_precision) for hits in by_class),
        classless_map=_mean(np.nanmean(hits.classless_average_precision) for hits in by_class),
        recall_at={k: _mean(hits.recall_at[k].mean() for hits in by_instance) for k in KS},
        chance_recall_at={k: _mean(min(1.0, k / size) for size in sizes) for k in KS},
        median_rank=_mean(float(np.median(hits.rank)) for hits in by_instance),
        pool_size=round(_mean(sizes)),
    )


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def retrieval_comparisons(rankings: Sequence[Rankings], *, bootstrap: Bootstrap) -> Iterator[Comparison]:
    """Image to blinded note: every arm against random query classes, and against the control with random notes."""
    compared = [one for one in rankings if (one.direction, one.notes) == ("image to note", "blinded")]
    ranking_of = {(one.setting, one.arm): one for one in compared}
    for one in compared:
        own = one.average_precision(one.seeds), one.classless_average_precision(one.seeds)
        yield _comparison(one, one.seeds, own, against="classes at random", bootstrap=bootstrap)
        control = ranking_of.get((one.setting, CONTROL_OF[ARMS[one.arm].test_notes]))
        if control is not None and control.arm != one.arm:
            ours, theirs = common_seeds(one.seeds, control.seeds)
            if ours.outputs:
                values = one.average_precision(ours), control.average_precision(theirs)
                yield _comparison(one, ours, values, against=control.arm, bootstrap=bootstrap)


def _comparison(
    rankings: Rankings, seeds: SeedOutputs, values: tuple[Floats, Floats], *, against: str, bootstrap: Bootstrap
) -> Comparison:
    reference = "the same rankings for classes at random" if against == "classes at random" else "random notes"
    return Comparison(
        setting=rankings.setting,
        measure="mAP",
        arm=rankings.arm,
        input="image to blinded note",
        against=against,
        family=f"mAP on blinded notes against {reference}",
        difference=bootstrap(seeds.pool.groups).difference(*values),
    )


def _hits(seeds: SeedOutputs, seed: int, embedding: str, direction: Direction) -> tuple[ClassHits, InstanceHits]:
    """One seed's hits at class and instance level. embedding: the notes' field in PoolOutputs, "note" or "own_text"."""
    one, pool = seeds.outputs[seed], seeds.pool
    query_kind, item_kind = ("image", embedding) if direction == "image to note" else (embedding, "image")
    queries, items = _normalise(getattr(one, query_kind)), _normalise(getattr(one, item_kind))
    rows = pool.rows(one.image_ids)
    labels, groups = pool.labels[rows], np.asarray(pool.groups)[rows]
    scores = (queries @ items.T).astype(np.float64)
    by_instance = instance_level(scores, ks=KS)
    item_labels, excluded = labels, groups[:, None] == groups[None, :]
    if seeds.training is not None:
        training = seeds.training.outputs[seed]
        items = np.concatenate([items, _normalise(getattr(training, item_kind))])
        scores = (queries @ items.T).astype(np.float64)
        training_rows = seeds.training.pool.rows(training.image_ids)
        item_labels = np.concatenate([labels, seeds.training.pool.labels[training_rows]])
        excluded = np.zeros(scores.shape, dtype=bool)
    by_class = class_level(scores, query_labels=labels, pool_labels=item_labels, excluded=excluded, ks=KS)
    return by_class, by_instance


def _normalise(rows: Floats32) -> Floats32:
    normalised: Floats32 = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return normalised
