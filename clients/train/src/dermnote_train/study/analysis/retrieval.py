"""Retrieval between pictures and notes, from the outputs of cells. Values in, values out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dermnote_train.evaluation.metrics import (
    ClassHits,
    Floats,
    InstanceHits,
    class_level,
    instance_level,
)
from dermnote_train.study.analysis.paired_outputs import Draws, Seeds, shared
from dermnote_train.study.analysis.results import Compared, Direction, Notes, Place, Retrieved
from dermnote_train.study.arms import ARMS, CONTROL_OF, NAMED
from dermnote_train.study.cells.outputs import Floats32

KS = (1, 5, 10)
ATTRIBUTES: Mapping[Notes, str] = {"blinded": "note", "own": "own_text"}
DIRECTIONS: tuple[Direction, ...] = ("image to note", "note to image")


@dataclass(frozen=True)
class _Hits:
    """One seed's."""

    by_class: ClassHits
    own: InstanceHits


@dataclass(frozen=True)
class Rankings:
    """One arm's rankings at one place, in one direction, of one kind of note, by seed."""

    place: Place
    arm: str
    direction: Direction
    notes: Notes
    seeds: Seeds
    hits: Mapping[int, _Hits]

    def average_precision(self, seeds: Seeds) -> Floats:
        """[seeds, n] of those of its seeds that `seeds` has."""
        return seeds.spread({number: self.hits[number].by_class.average_precision for number in seeds.outputs})

    def classless(self, seeds: Seeds) -> Floats:
        """The same, were the classes asked for random."""
        return seeds.spread(
            {number: self.hits[number].by_class.classless_average_precision for number in seeds.outputs}
        )


def rankings_of(place: Place, arm: str, seeds: Seeds) -> Iterator[Rankings]:
    """Every direction and kind of note that the arm has embeddings for."""
    for notes, attribute in ATTRIBUTES.items():
        if all(getattr(one, attribute) is not None for one in seeds.outputs.values()):
            for direction in DIRECTIONS:
                hits = {number: _hits(seeds, number, attribute, direction) for number in seeds.outputs}
                yield Rankings(place, arm, direction, notes, seeds, hits)


def retrieved(rankings: Rankings, *, draws: Draws) -> Retrieved:
    """The figures of one arm's rankings."""
    hits, seeds = rankings.hits.values(), rankings.seeds
    sizes = [len(one.image_ids) for one in seeds.outputs.values()]
    return Retrieved(
        place=rankings.place,
        arm=rankings.arm,
        direction=rankings.direction,
        notes=rankings.notes,
        reads_class=rankings.notes == "own" and any(name in NAMED for name in ARMS[rankings.arm].notes),
        seeds=len(hits),
        mean_average_precision=draws.of(seeds.pool.groups).interval(rankings.average_precision(seeds)),
        precision_at={k: _mean(np.nanmean(one.by_class.precision_at[k]) for one in hits) for k in KS},
        chance_map=_mean(np.nanmean(one.by_class.chance_average_precision) for one in hits),
        classless_map=_mean(np.nanmean(one.by_class.classless_average_precision) for one in hits),
        recall_at={k: _mean(one.own.recall_at[k].mean() for one in hits) for k in KS},
        chance_recall_at={k: _mean(min(1.0, k / size) for size in sizes) for k in KS},
        median_rank=_mean(float(np.median(one.own.rank)) for one in hits),
        pool_size=round(_mean(sizes)),
    )


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def retrieval_comparisons(rankings: Sequence[Rankings], *, draws: Draws) -> Iterator[Compared]:
    """Picture to blinded note: every arm against its control of random notes, and against classes at random."""
    asked = [one for one in rankings if (one.direction, one.notes) == ("image to note", "blinded")]
    known = {(one.place, one.arm): one for one in asked}
    for one in asked:
        yield _against_random_classes(one, draws=draws)
        control = CONTROL_OF[ARMS[one.arm].read]
        if one.arm != control and (one.place, control) in known:
            yield from _against(one, known[one.place, control], draws=draws)


def _against(ours: Rankings, control: Rankings, *, draws: Draws) -> Iterator[Compared]:
    """Over the seeds that both have, if there are any."""
    mine, theirs = shared(ours.seeds, control.seeds)
    if mine.outputs:
        yield Compared(
            place=ours.place,
            measure="mAP",
            arm=ours.arm,
            input="image to blinded note",
            against=control.arm,
            family="mAP on blinded notes against random notes",
            difference=draws.of(mine.pool.groups).difference(
                ours.average_precision(mine), control.average_precision(theirs)
            ),
        )


def _against_random_classes(one: Rankings, *, draws: Draws) -> Compared:
    return Compared(
        place=one.place,
        measure="mAP",
        arm=one.arm,
        input="image to blinded note",
        against="classes at random",
        family="mAP on blinded notes against the same rankings for classes at random",
        difference=draws.of(one.seeds.pool.groups).difference(
            one.average_precision(one.seeds), one.classless(one.seeds)
        ),
    )


def _hits(seeds: Seeds, number: int, attribute: str, direction: Direction) -> _Hits:
    """One seed's ranking. attribute: which text embeddings, "note" or "own_text"."""
    one, pool = seeds.outputs[number], seeds.pool
    asked, searched = ("image", attribute) if direction == "image to note" else (attribute, "image")
    queries, held = _normalised(getattr(one, asked)), _normalised(getattr(one, searched))
    rows = pool.rows(one.image_ids)
    labels, groups = pool.labels[rows], np.asarray(pool.groups)[rows]
    scores = (queries @ held.T).astype(np.float64)
    own = instance_level(scores, ks=KS)
    held_labels, excluded = labels, groups[:, None] == groups[None, :]
    if seeds.beside is not None:
        more = seeds.beside.outputs[number]
        scores = (queries @ np.concatenate([held, _normalised(getattr(more, searched))]).T).astype(np.float64)
        held_labels = np.concatenate([labels, seeds.beside.pool.labels[seeds.beside.pool.rows(more.image_ids)]])
        excluded = np.zeros(scores.shape, dtype=bool)
    by_class = class_level(scores, query_labels=labels, pool_labels=held_labels, excluded=excluded, ks=KS)
    return _Hits(by_class, own)


def _normalised(rows: Floats32) -> Floats32:
    found: Floats32 = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return found
