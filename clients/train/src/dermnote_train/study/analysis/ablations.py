"""Compares ablations of the frozen grid with the unchanged grid, on home validation data. Pure functions."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from dermnote_train.data.records import Record
from dermnote_train.study.analysis.paired_outputs import Bootstrap, Pool, SeedOutputs, common_seeds
from dermnote_train.study.analysis.results import AblationResult
from dermnote_train.study.cells.frozen import ABLATIONS, FROZEN
from dermnote_train.study.cells.outputs import VALIDATION, CellOutputs, PoolOutputs


class _Arm(NamedTuple):
    """One arm on one route. `grid`: the grid's name in the metadata of the cells."""

    grid: str
    route: str
    name: str


def ablation_results(
    ablations: Sequence[CellOutputs],
    cells: Sequence[CellOutputs],
    *,
    pools: Mapping[str, Sequence[Record]],
    bootstrap: Bootstrap,
) -> Iterator[AblationResult]:
    """Each ablation by route, arm and input, compared with the frozen grid over the seeds that both have.

    cells: contain those of the frozen grid; other grids are ignored.
    """
    unchanged = _by_arm([cell for cell in cells if cell.facts.grid == FROZEN])
    classes = {cell.facts.route: cell.facts.classes for cell in ablations}
    for arm, outputs in _by_arm(ablations).items():
        pool = Pool.of(pools[arm.route], classes[arm.route])
        base = SeedOutputs(pool, unchanged.get(arm._replace(grid=FROZEN), {}))
        yield from _compare(arm, SeedOutputs(pool, outputs), base, bootstrap)


def _by_arm(cells: Sequence[CellOutputs]) -> Mapping[_Arm, Mapping[int, PoolOutputs]]:
    """Arm -> seed -> outputs on validation data."""
    outputs: defaultdict[_Arm, dict[int, PoolOutputs]] = defaultdict(dict)
    for cell in (one for one in cells if VALIDATION in one.pools):
        outputs[_Arm(cell.facts.grid, cell.facts.route, cell.facts.arm)][cell.facts.seed] = cell.pools[VALIDATION]
    return outputs


def _compare(arm: _Arm, changed: SeedOutputs, unchanged: SeedOutputs, bootstrap: Bootstrap) -> Iterator[AblationResult]:
    ours, theirs = common_seeds(changed, unchanged)
    if not ours.outputs:
        return
    resampling = bootstrap(ours.pool.groups, ours.pool.labels)
    for by in ours.inputs:
        correct = ours.correct(by)
        yield AblationResult(
            ablation=arm.grid.removeprefix(f"{ABLATIONS}/"),
            route=arm.route,
            arm=arm.name,
            input=by,
            seeds=len(ours.outputs),
            balanced_accuracy=resampling.point(correct),
            difference=resampling.difference(correct, theirs.correct(by)),
        )
