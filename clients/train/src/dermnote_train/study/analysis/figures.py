"""Computes a study's results (results.py) from its cells' outputs. Pure functions."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.metrics import f1_score

from dermnote_contracts.cpu import usable_cores
from dermnote_train.data.records import Record
from dermnote_train.evaluation.bootstrap import GroupBootstrap, holm
from dermnote_train.evaluation.metrics import auroc_macro, calibration_error, confusion_matrix, kappa_linear
from dermnote_train.evaluation.subgroups import subgroups
from dermnote_train.study.analysis.ablations import ablation_results
from dermnote_train.study.analysis.paired_outputs import Bootstrap, Pool, SeedOutputs, TrainingPool, common_seeds
from dermnote_train.study.analysis.results import (
    ClassificationResult,
    Comparison,
    Setting,
    StudyResults,
    SubgroupResult,
)
from dermnote_train.study.analysis.retrieval import Rankings, rank, retrieval_comparisons, retrieval_result
from dermnote_train.study.arms import ARMS
from dermnote_train.study.cells.heads import Input
from dermnote_train.study.cells.outputs import HOME, TRAINING, VALIDATION, CellOutputs, PoolOutputs

ArmOutputs = Mapping[Setting, Mapping[str, SeedOutputs]]
"""Setting -> arm -> outputs."""
TABLE_OF: Mapping[str, str] = {"G-blinded": "table", "G-findings-blinded": "table-findings", "mixed": "table-findings"}
"""Arm trained with notes -> the arm with the same facts as a table. Their difference shows what the wording adds."""
FAMILY_LABELS: Mapping[Input, str] = {
    "image": "pictures",
    "note": "blinded note",
    "both": "picture and blinded note",
    "prompts": "class prompts",
}
"""As stored in differences.csv since version 0.1."""


def compute_results(
    cells: Sequence[CellOutputs],
    *,
    pools: Mapping[str, Sequence[Record]],
    resamples: int,
    seed: int = 0,
    ablations: Sequence[CellOutputs] = (),
) -> StudyResults:
    """All results of the given cells. pools: domain -> its records; a cell's "home" pool is from its training domain.

    Arms are compared only over seeds that both have.
    """
    bootstrap: Bootstrap = partial(GroupBootstrap, resamples=resamples, seed=seed)
    outputs = _by_setting(cells, pools)
    rankings = _rankings(outputs)
    classification = tuple(
        _classification(setting, arm, seeds, by, bootstrap=bootstrap)
        for setting, arms in outputs.items()
        for arm, seeds in arms.items()
        for by in seeds.inputs
    )
    comparisons = [
        *_classification_comparisons(outputs, bootstrap=bootstrap),
        *retrieval_comparisons(rankings, bootstrap=bootstrap),
    ]
    return StudyResults(
        classification=classification,
        retrieval=tuple(retrieval_result(one, bootstrap=bootstrap) for one in rankings),
        comparisons=_holm_adjusted(comparisons),
        subgroups=tuple(_subgroups(outputs)),
        opened=len(classification),
        ablations=tuple(ablation_results(ablations, cells, pools=pools, bootstrap=bootstrap)),
    )


def _rankings(outputs: ArmOutputs) -> list[Rankings]:
    """Rankings of all arms, in threads: most of the time is spent in sorting, which releases the interpreter lock."""
    tasks = [(setting, arm, seeds) for setting, arms in outputs.items() for arm, seeds in arms.items()]
    with ThreadPoolExecutor(usable_cores()) as threads:
        return [one for rankings in threads.map(lambda task: list(rank(*task)), tasks) for one in rankings]


def _by_setting(cells: Iterable[CellOutputs], pools: Mapping[str, Sequence[Record]]) -> ArmOutputs:
    outputs: dict[Setting, dict[str, dict[int, PoolOutputs]]] = defaultdict(lambda: defaultdict(dict))
    training: dict[tuple[Setting, str], dict[int, PoolOutputs]] = defaultdict(dict)
    classes: dict[Setting, tuple[str, ...]] = {}
    for cell in cells:
        for name, pool_outputs in cell.pools.items():
            if name in (VALIDATION, TRAINING):
                continue
            setting = Setting(cell.facts.grid, cell.facts.route, name)
            if TRAINING in cell.pools:
                training[setting, cell.facts.arm][cell.facts.seed] = cell.pools[TRAINING]
            outputs[setting][cell.facts.arm][cell.facts.seed] = pool_outputs
            classes[setting] = cell.facts.classes
    by_setting = {}
    for setting, arms in outputs.items():
        pool = Pool.of(pools[setting.route if setting.pool == HOME else setting.pool], classes[setting])
        home = Pool.of(pools[setting.route], classes[setting])
        by_setting[setting] = {
            arm: SeedOutputs(
                pool, arms[arm], TrainingPool(home, training[setting, arm]) if (setting, arm) in training else None
            )
            for arm in sorted(arms, key=_order)
        }
    return by_setting


def _order(arm: str) -> int:
    return list(ARMS).index(arm) if arm in ARMS else len(ARMS)


def _classification(
    setting: Setting, arm: str, seeds: SeedOutputs, by: Input, *, bootstrap: Bootstrap
) -> ClassificationResult:
    pool, outputs = seeds.pool, seeds.outputs.values()
    labels = [pool.labels[pool.rows(one.image_ids)] for one in outputs]
    probabilities = [softmax(one.logits[by].astype(np.float64), axis=1) for one in outputs]
    predicted = [one.argmax(axis=1) for one in probabilities]
    classes = len(pool.classes)
    confusion = confusion_matrix(np.concatenate(labels), np.concatenate(predicted), classes=classes)

    def mean(metric: Any, values: Sequence[Any], **settings: Any) -> float:
        return float(np.mean([metric(own, value, **settings) for own, value in zip(labels, values, strict=True)]))

    return ClassificationResult(
        setting=setting,
        arm=arm,
        input=by,
        seeds=len(labels),
        n=sum(map(len, labels)),
        balanced_accuracy=bootstrap(pool.groups, pool.labels).interval(seeds.correct(by)),
        f1_macro=mean(f1_score, predicted, average="macro", zero_division=0),
        f1_micro=mean(f1_score, predicted, average="micro", zero_division=0),
        f1_weighted=mean(f1_score, predicted, average="weighted", zero_division=0),
        kappa_linear=mean(kappa_linear, predicted),
        auroc_macro=mean(auroc_macro, probabilities),
        calibration_error=mean(calibration_error, probabilities),
        chance=1 / len(np.unique(pool.labels)),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def _classification_comparisons(outputs: ArmOutputs, *, bootstrap: Bootstrap) -> Iterator[Comparison]:
    """Every arm and input against images alone; for arms of TABLE_OF, also image and note against image and table."""
    for setting, arms in outputs.items():
        for arm, seeds in arms.items():
            for by in seeds.inputs:
                pairs: list[tuple[str, Input, str]] = []
                if arm != "image":
                    pairs.append(("image", "image", f"{FAMILY_LABELS[by]} against pictures alone"))
                if by == "both" and arm in TABLE_OF:
                    pairs.append((TABLE_OF[arm], by, "note against the same facts as a table"))
                for against, other_input, family in pairs:
                    if against not in arms:
                        continue
                    ours, theirs = common_seeds(seeds, arms[against])
                    if ours.outputs:
                        resampling = bootstrap(ours.pool.groups, ours.pool.labels)
                        difference = resampling.difference(ours.correct(by), theirs.correct(other_input))
                        yield Comparison(setting, "balanced accuracy", arm, by, against, family, difference)


def _holm_adjusted(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """The comparisons with p-values corrected by Holm's method, over all arms of each family in each setting."""
    families: defaultdict[tuple[Setting, str], list[int]] = defaultdict(list)
    for row, one in enumerate(comparisons):
        families[one.setting, one.family].append(row)
    adjusted = list(comparisons)
    for rows in families.values():
        p_values = holm([comparisons[row].difference.p_value for row in rows])
        for row, p_value in zip(rows, p_values, strict=True):
            adjusted[row] = replace(comparisons[row], adjusted=p_value)
    return tuple(adjusted)


def _subgroups(outputs: ArmOutputs) -> Iterator[SubgroupResult]:
    for setting, arms in outputs.items():
        for arm, seeds in arms.items():
            correct = seeds.correct("image")
            for (field, value), rows in subgroups(seeds.pool.records).items():
                labels = seeds.pool.labels[rows]
                classes = len(np.unique(labels))
                if classes > 1:
                    accuracy = GroupBootstrap([str(row) for row in rows], labels).point(correct[:, rows])
                    yield SubgroupResult(setting, arm, field, value, len(rows), accuracy, 1 / classes)
