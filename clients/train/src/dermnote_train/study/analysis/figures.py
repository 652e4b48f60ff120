"""A study's figures (results.py) made from its cells' outputs. Values in, values out."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.metrics import cohen_kappa_score, f1_score

from dermnote_train.data.records import Record
from dermnote_train.evaluation.bootstrap import Resampling, holm
from dermnote_train.evaluation.metrics import (
    Ints,
    auroc_macro,
    calibration_error,
    confusion_matrix,
)
from dermnote_train.evaluation.subgroups import subgroups
from dermnote_train.study.analysis.ablations import trial_figures
from dermnote_train.study.analysis.paired_outputs import Beside, Draws, Pool, Seeds, shared
from dermnote_train.study.analysis.results import (
    Classified,
    Compared,
    InSubgroup,
    Place,
    StudyFigures,
)
from dermnote_train.study.analysis.retrieval import Rankings, rankings_of, retrieval_comparisons, retrieved
from dermnote_train.study.arms import ARMS
from dermnote_train.study.cells.heads import INPUTS, Input
from dermnote_train.study.cells.outputs import HOME, TRAINING, VALIDATION, CellOutputs, PoolOutputs

Found = Mapping[Place, Mapping[str, Seeds]]


def study_figures(
    cells: Sequence[CellOutputs],
    *,
    pools: Mapping[str, Sequence[Record]],
    resamples: int,
    seed: int = 0,
    tried: Sequence[CellOutputs] = (),
) -> StudyFigures:
    """All figures of the given cells. pools: domain -> its records; "home" is the route's own; tried: of the trials.

    Arms are compared only over seeds that both have.
    """
    draws = Draws(resamples, seed)
    found = _by_place(cells, pools)
    rankings = _rankings(found)
    classified = [
        _classified(place, arm, seeds, by, draws=draws)
        for place, arms in found.items()
        for arm, seeds in arms.items()
        for by in _inputs(seeds)
    ]
    compared = [*_comparisons(found, draws=draws), *retrieval_comparisons(rankings, draws=draws)]
    return StudyFigures(
        classified=tuple(classified),
        retrieved=tuple(retrieved(one, draws=draws) for one in rankings),
        compared=_adjusted(compared),
        in_subgroups=tuple(_in_subgroups(found)),
        opened=len(classified),
        tried=trial_figures(tried, cells, pools=pools, draws=draws),
    )


def _rankings(found: Found) -> list[Rankings]:
    """Of every arm at every place; side by side, since sorting takes the time and needs no interpreter."""
    asked = [(place, arm, seeds) for place, arms in found.items() for arm, seeds in arms.items()]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        return [one for ranked in threads.map(lambda one: list(rankings_of(*one)), asked) for one in ranked]


def _by_place(cells: Iterable[CellOutputs], pools: Mapping[str, Sequence[Record]]) -> Found:
    outputs: dict[Place, dict[str, dict[int, PoolOutputs]]] = defaultdict(lambda: defaultdict(dict))
    trained_on: dict[tuple[Place, str], dict[int, PoolOutputs]] = defaultdict(dict)
    classes: dict[Place, tuple[str, ...]] = {}
    for cell in cells:
        for name, answers in cell.pools.items():
            if name in (VALIDATION, TRAINING):
                continue
            place = Place(cell.facts.grid, cell.facts.route, name)
            if TRAINING in cell.pools:
                trained_on[place, cell.facts.arm][cell.facts.seed] = cell.pools[TRAINING]
            outputs[place][cell.facts.arm][cell.facts.seed] = answers
            classes[place] = cell.facts.classes
    found = {}
    for place, arms in outputs.items():
        pool = Pool.of(pools[place.route if place.pool == HOME else place.pool], classes[place])
        known = Pool.of(pools[place.route], classes[place])
        found[place] = {
            arm: Seeds(pool, arms[arm], Beside.of(trained_on.get((place, arm)), known))
            for arm in sorted(arms, key=_order)
        }
    return found


def _order(arm: str) -> int:
    return list(ARMS).index(arm) if arm in ARMS else len(ARMS)


def _inputs(seeds: Seeds) -> list[Input]:
    return [by for by in INPUTS if all(by in one.logits for one in seeds.outputs.values())]


def _classified(place: Place, arm: str, seeds: Seeds, by: Input, *, draws: Draws) -> Classified:
    pool = seeds.pool
    rows = {number: pool.rows(one.image_ids) for number, one in seeds.outputs.items()}
    labels = {number: pool.labels[own] for number, own in rows.items()}
    chances = {number: softmax(one.logits[by].astype(np.float64), axis=1) for number, one in seeds.outputs.items()}
    guesses = {number: found.argmax(axis=1) for number, found in chances.items()}
    confusion = sum(
        (confusion_matrix(labels[one], guesses[one], classes=len(pool.classes)) for one in rows),
        start=np.zeros((len(pool.classes),) * 2, dtype=np.int64),
    )

    def f1(average: str) -> float:
        return _mean(f1_score(labels[one], guesses[one], average=average, zero_division=0) for one in rows)

    return Classified(
        place=place,
        arm=arm,
        input=by,
        seeds=len(rows),
        n=sum(map(len, rows.values())),
        balanced_accuracy=draws.of(pool.groups, pool.labels).interval(seeds.right(by)),
        f1_macro=f1("macro"),
        f1_micro=f1("micro"),
        f1_weighted=f1("weighted"),
        kappa_linear=_mean(_kappa(labels[one], guesses[one]) for one in rows),
        auroc_macro=_mean(auroc_macro(labels[one], chances[one]) for one in rows),
        calibration_error=_mean(calibration_error(labels[one], chances[one]) for one in rows),
        chance=1 / len(np.unique(pool.labels)),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def _kappa(labels: Ints, guesses: Ints) -> float:
    """NaN where only one class is in play: agreement then says nothing."""
    if len(np.union1d(labels, guesses)) < 2:
        return float("nan")
    return float(cohen_kappa_score(labels, guesses, weights="linear"))


def _mean(values: Iterable[Any]) -> float:
    return float(np.mean(list(values)))


AS_TABLE: Mapping[str, str] = {"G-blinded": "table", "G-findings-blinded": "table-findings", "mixed": "table-findings"}
"""Arms whose notes hold what a table arm has as numbers: the notes' own worth."""
SAYS: Mapping[Input, str] = {
    "image": "pictures",
    "note": "blinded note",
    "both": "picture and blinded note",
    "prompts": "class prompts",
}


def _comparisons(found: Found, *, draws: Draws) -> Iterator[Compared]:
    for place, arms in found.items():
        image = arms.get("image")
        for arm, seeds in arms.items():
            for by in _inputs(seeds):
                if image is not None and arm != "image" and shared(seeds, image)[0].outputs:
                    family = f"{SAYS[by]} against pictures alone"
                    yield _right(place, (arm, seeds, by), ("image", image, "image"), family, draws)
                table = AS_TABLE.get(arm)
                if by == "both" and table is not None and table in arms and shared(seeds, arms[table])[0].outputs:
                    family = "note against the same facts as a table"
                    yield _right(place, (arm, seeds, by), (table, arms[table], by), family, draws)


Side = tuple[str, Seeds, Input]


def _right(place: Place, first: Side, second: Side, family: str, draws: Draws) -> Compared:
    ours, theirs = shared(first[1], second[1])
    drawing = draws.of(ours.pool.groups, ours.pool.labels)
    return Compared(
        place=place,
        measure="balanced accuracy",
        arm=first[0],
        input=first[2],
        against=second[0],
        family=family,
        difference=drawing.difference(ours.right(first[2]), theirs.right(second[2])),
    )


def _adjusted(compared: Sequence[Compared]) -> tuple[Compared, ...]:
    """With Holm's correction over all arms of each family at each place."""
    families: defaultdict[tuple[Place, str], list[int]] = defaultdict(list)
    for row, one in enumerate(compared):
        families[one.place, one.family].append(row)
    done = list(compared)
    for rows in families.values():
        adjusted = holm([compared[row].difference.p_value for row in rows])
        for row, p_value in zip(rows, adjusted, strict=True):
            done[row] = replace(compared[row], adjusted=p_value)
    return tuple(done)


def _in_subgroups(found: Found) -> Iterator[InSubgroup]:
    for place, arms in found.items():
        for arm, seeds in arms.items():
            right = seeds.right("image")
            for (field, value), rows in subgroups(seeds.pool.records).items():
                labels = seeds.pool.labels[rows]
                present = len(np.unique(labels))
                if present < 2:
                    continue
                own = Resampling([str(row) for row in rows], labels)
                yield InSubgroup(place, arm, field, value, len(rows), own.figure(right[:, rows]), 1 / present)
