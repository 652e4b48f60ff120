"""Runs a study: data, notes, features, then cell by cell; what is done already is not done again."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from dermnote_train import towers
from dermnote_train.features import text_features
from dermnote_train.progress import Report, Step
from dermnote_train.remote.notegen import NoteService
from dermnote_train.study.arms import NOTE_SETS
from dermnote_train.study.cells import AllNoted, all_texts, cells_of, needed_sets
from dermnote_train.study.domains import StudyData, read_domains
from dermnote_train.study.frozen import Features, FrozenCell
from dermnote_train.study.making import make_cells
from dermnote_train.study.noting import note_sets
from dermnote_train.study.plan import FrozenGrid, StudyPlan
from dermnote_train.study.predictions import VALIDATION, CellFacts, read_facts, write_cell
from dermnote_train.study.tuned import Paused, TunedCell, make_tuned_cell
from dermnote_train.study.views import tower_id, view_features
from dermnote_train.towers import Towers

CELLS, RUNS = "cells", "runs"


@dataclass(frozen=True)
class StudyState:
    """How far a study is. `noted`: data set -> note set -> notes; `done`: facts of the cells that there are; `left`:
    cells still to be made; `tried`: the facts of the cells of the trials, which hold validation outputs only."""

    plan: StudyPlan
    data: StudyData
    noted: AllNoted
    done: tuple[CellFacts, ...]
    left: int
    tried: tuple[CellFacts, ...] = ()


def run_study(
    plan: StudyPlan, *, service: NoteService, out: Path, progress: Report, enough: Callable[[], bool]
) -> StudyState:
    """Make the cells that are missing below `out`, in the plan's order, until `enough()` says so.

    Raises UserError or DermnoteError at the first thing that fails; what was done by then is kept.
    """
    needed = needed_sets(plan)
    data = read_domains(plan, out=out, findings=any(NOTE_SETS[name].findings for name in needed), progress=progress)
    noted = {
        name: note_sets(
            service, dataset, names=needed, seed=plan.notes_seed, out=out / "notes" / name, progress=progress
        )
        for name, dataset in data.datasets.items()
    }
    done: list[CellFacts] = []
    left = 0
    source = _Source(data, noted, out, progress, enough)
    if plan.frozen is not None:
        cells = list(frozen_cells(plan, data, noted, grid=plan.frozen))
        done, left = _frozen(cells, source, grid=plan.frozen, stage="frozen cells")
    if plan.tuned is not None:
        wanted = [TunedCell(**vars(cell), grid=plan.tuned) for cell in cells_of(plan, data, noted, grid=plan.tuned)]
        made = list(_tuned(wanted, out=out, progress=progress, enough=enough))
        done += [facts for facts in made if facts is not None]
        left += made.count(None)
    tried: list[CellFacts] = []
    for name, grid in plan.tried().items():
        cells = [_tried(cell) for cell in frozen_cells(plan, data, noted, grid=grid, trial=name)]
        found, missing = _frozen(cells, source, grid=grid, stage=f"trial {name}")
        tried += found
        left += missing
    return StudyState(plan, data, noted, tuple(done), left, tuple(tried))


def frozen_cells(
    plan: StudyPlan, data: StudyData, noted: AllNoted, *, grid: FrozenGrid, trial: str | None = None
) -> Iterator[FrozenCell]:
    """The cells of the frozen grid, or of a change of it, with their texts worded as the grid says."""
    for cell in cells_of(plan, data, noted, grid=grid):
        yield FrozenCell(**vars(cell), grid=grid, trial=trial)


def _tried(cell: FrozenCell) -> FrozenCell:
    """Without what only figures of test pictures would need."""
    return replace(cell, pools={VALIDATION: cell.pools[VALIDATION]})


def _tuned(
    cells: Sequence[TunedCell], *, out: Path, progress: Report, enough: Callable[[], bool]
) -> Iterator[CellFacts | None]:
    """The facts of each cell in turn, made now where it is missing; None for what there was no time for."""
    for number, cell in enumerate(cells, start=1):
        yield _tuned_one(cell, out=out, progress=progress, enough=enough)
        progress(Step("tuned cells", number, len(cells), f"{cell.route}, {cell.arm}, seed {cell.seed}"))


def _tuned_one(cell: TunedCell, *, out: Path, progress: Report, enough: Callable[[], bool]) -> CellFacts | None:
    path, run_dir = out / CELLS / cell.path, out / RUNS / cell.route / cell.arm / f"seed{cell.seed}"
    facts = read_facts(path)
    if facts is not None and facts.digest == cell.digest():
        return facts
    if enough():
        return None
    try:
        made = make_tuned_cell(cell, run_dir=run_dir, progress=progress, enough=enough)
    except Paused:
        return None
    write_cell(path, made)
    return made.facts


@dataclass(frozen=True)
class _Source:
    """What frozen cells are made from, and where and until when."""

    data: StudyData
    noted: AllNoted
    out: Path
    progress: Report
    enough: Callable[[], bool]


def _frozen(
    cells: Sequence[FrozenCell], source: _Source, *, grid: FrozenGrid, stage: str
) -> tuple[list[CellFacts], int]:
    """What there is already, what was made now, and how many are left. A cell of another digest is made anew.

    Features are looked up only if there is a cell to be made from them.
    """
    tower = towers.lite(image_size=grid.image_size)
    key = hashlib.sha256(f"{tower_id(tower)} {tower.text_id}".encode()).hexdigest()
    folder = source.out / CELLS
    found = [(cell, read_facts(folder / cell.path)) for cell in cells]
    done = [facts for cell, facts in found if facts is not None and facts.digest == cell.digest(key)]
    kept = {(facts.route, facts.arm, facts.seed) for facts in done}
    missing = [cell for cell in cells if (cell.route, cell.arm, cell.seed) not in kept]
    source.progress(Step(stage, len(done), len(cells)))
    if missing and not source.enough():
        features = _features(grid, source, tower=tower, key=key)
        for facts in make_cells(missing, features=features, folder=folder, enough=source.enough):
            done.append(facts)
            source.progress(Step(stage, len(done), len(cells), f"{facts.route}, {facts.arm}, seed {facts.seed}"))
    return done, len(cells) - len(done)


def _features(grid: FrozenGrid, source: _Source, *, tower: Towers, key: str) -> Features:
    views: dict[str, Tensor] = {}
    for dataset in source.data.datasets.values():
        rows = view_features(
            dataset.records,
            towers=tower,
            views=grid.views,
            kind=grid.augmentation,
            cache_dir=source.out / "views",
            progress=source.progress,
        )
        views |= {record.image_id: row for record, row in zip(dataset.records, rows, strict=True)}
    texts = sorted(all_texts(source.data, source.noted, wording=grid.wording))
    told = text_features(texts, towers=tower, cache_dir=source.out / "texts", progress=source.progress)
    return Features(views, dict(zip(texts, told, strict=True)), key)
