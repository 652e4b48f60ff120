"""What was tried: changes of the frozen grid beside the grid as it is, on home validation data. Values in and out."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from dermnote_train.data.records import Record
from dermnote_train.study.analysis.paired_outputs import Draws, Pool, Seeds, shared
from dermnote_train.study.analysis.results import Tried
from dermnote_train.study.cells.frozen import FROZEN, TRIALS
from dermnote_train.study.cells.heads import INPUTS
from dermnote_train.study.cells.outputs import VALIDATION, CellOutputs, PoolOutputs


class _Arm(NamedTuple):
    """grid: as the facts of its cells have it."""

    grid: str
    route: str
    name: str


OfArm = Mapping[_Arm, Mapping[int, PoolOutputs]]
"""Arm -> seed -> outputs on validation data."""


def trial_figures(
    tried: Sequence[CellOutputs],
    cells: Sequence[CellOutputs],
    *,
    pools: Mapping[str, Sequence[Record]],
    draws: Draws,
) -> tuple[Tried, ...]:
    """Every trial's arms by each input, compared over the seeds that the frozen grid among `cells` has too."""
    unchanged = _by_arm([cell for cell in cells if cell.facts.grid == FROZEN])
    classes = {cell.facts.route: cell.facts.classes for cell in tried}
    known = {route: Pool.of(pools[route], own) for route, own in classes.items()}
    return tuple(
        one
        for arm, outputs in _by_arm(tried).items()
        for one in _figures(
            arm,
            Seeds(known[arm.route], outputs),
            Seeds(known[arm.route], unchanged.get(arm._replace(grid=FROZEN), {})),
            draws,
        )
    )


def _by_arm(cells: Sequence[CellOutputs]) -> OfArm:
    found: defaultdict[_Arm, dict[int, PoolOutputs]] = defaultdict(dict)
    for cell in (one for one in cells if VALIDATION in one.pools):
        found[_Arm(cell.facts.grid, cell.facts.route, cell.facts.arm)][cell.facts.seed] = cell.pools[VALIDATION]
    return found


def _figures(arm: _Arm, changed: Seeds, unchanged: Seeds, draws: Draws) -> Iterator[Tried]:
    ours, theirs = shared(changed, unchanged)
    drawing = draws.of(ours.pool.groups, ours.pool.labels)
    for by in INPUTS:
        if ours.outputs and all(by in one.logits for one in ours.outputs.values()):
            right = ours.right(by)
            yield Tried(
                trial=arm.grid.removeprefix(f"{TRIALS}/"),
                route=arm.route,
                arm=arm.name,
                input=by,
                seeds=len(ours.outputs),
                balanced_accuracy=drawing.figure(right),
                difference=drawing.difference(right, theirs.right(by)),
            )
