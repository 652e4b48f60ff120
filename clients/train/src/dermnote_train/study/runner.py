"""Runs a study: data, notes, features, then cell by cell; what is done already is not done again."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from dermnote_train.errors import UserError
from dermnote_train.files import atomic_write
from dermnote_train.models import towers
from dermnote_train.models.features import text_features
from dermnote_train.models.towers import Towers
from dermnote_train.progress import Report, Step
from dermnote_train.remote.notegen import NoteService
from dermnote_train.study.arms import NOTE_SETS
from dermnote_train.study.cells.cell import AllNoted, Cell, all_texts, cell_path, cells_of, needed_sets
from dermnote_train.study.cells.frozen import Features, FrozenCell
from dermnote_train.study.cells.outputs import VALIDATION, CellFacts, read_facts, write_cell
from dermnote_train.study.cells.parallel import make_cells
from dermnote_train.study.cells.tuned import Paused, TunedCell, make_tuned_cell
from dermnote_train.study.cells.views import tower_id, view_features
from dermnote_train.study.domains import StudyData, read_domains
from dermnote_train.study.note_sets import note_sets
from dermnote_train.study.plan import FrozenGrid, StudyPlan, TunedGrid

Part = Literal["frozen", "trials", "tuned"]
PARTS: tuple[Part, ...] = ("frozen", "trials", "tuned")
"""In the order in which they are made."""
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
    plan: StudyPlan,
    *,
    service: NoteService,
    out: Path,
    progress: Report,
    enough: Callable[[], bool],
    make: Collection[Part] = PARTS,
) -> StudyState:
    """Make the cells that are missing below `out`, in the plan's order, until `enough()` says so.

    make: the parts whose cells are made; of the others what there is belongs to the state all the same. Raises
    UserError or DermnoteError at the first thing that fails; what was done by then is kept.
    """
    refuse_other_study(out, plan)
    needed = needed_sets(plan)
    data = read_domains(plan, out=out, findings=any(NOTE_SETS[name].findings for name in needed), progress=progress)
    noted = {
        name: note_sets(
            service, dataset, names=needed, seed=plan.notes_seed, out=out / "notes" / name, progress=progress
        )
        for name, dataset in data.datasets.items()
    }
    making = _Making(plan, data, noted, out, progress, enough, make)
    frozen, trials, tuned = _frozen_grid(making), _trials(making), _tuned_grid(making)
    left = sum(len(made.missing) for part, made in zip(PARTS, (frozen, trials, tuned), strict=True) if part in make)
    return StudyState(plan, data, noted, frozen.done + tuned.done, left, trials.done)


def refuse_other_study(out: Path, plan: StudyPlan) -> None:
    """Raise UserError if `out` holds a study of other pictures or splits: its files would be taken for this one's."""
    path, own = out / "study.json", {"mode": plan.mode, "limit": plan.limit}
    try:
        there = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(own) + "\n", "utf-8")
        return
    if there != own:
        raise UserError(f"{out} holds a study with {there}, and this one is with {own}; use another --out")


@dataclass(frozen=True)
class _Making:
    """What cells are made from, where, until when, and of which parts."""

    plan: StudyPlan
    data: StudyData
    noted: AllNoted
    out: Path
    progress: Report
    enough: Callable[[], bool]
    parts: Collection[Part]

    def cells(self, grid: FrozenGrid | TunedGrid) -> Iterator[Cell]:
        """Every cell of a grid."""
        return cells_of(self.plan, self.data, self.noted, grid=grid)

    def over(self, part: Part) -> bool:
        """Whether no more cells of a part are to be begun."""
        return part not in self.parts or self.enough()


@dataclass(frozen=True)
class _Made:
    """Of one part: facts of what is done, and the paths of what is not."""

    done: tuple[CellFacts, ...] = ()
    missing: tuple[str, ...] = ()

    def __add__(self, other: "_Made") -> "_Made":
        return _Made(self.done + other.done, self.missing + other.missing)


def _frozen_grid(making: _Making) -> _Made:
    grid = making.plan.frozen
    if grid is None:
        return _Made()
    cells = [FrozenCell(**vars(cell), grid=grid) for cell in making.cells(grid)]
    return _frozen(cells, making, grid=grid, part="frozen", stage="frozen cells")


def _trials(making: _Making) -> _Made:
    """Their cells hold what validation pictures alone need."""
    made = _Made()
    routes = making.plan.trials.routes if making.plan.trials else ()
    for name, grid in making.plan.tried().items():
        cells = [
            FrozenCell(**vars(replace(cell, pools={VALIDATION: cell.pools[VALIDATION]})), grid=grid, trial=name)
            for cell in making.cells(grid)
            if not routes or cell.route in routes
        ]
        made += _frozen(cells, making, grid=grid, part="trials", stage=f"trial {name}")
    return made


def _tuned_grid(making: _Making) -> _Made:
    """Cell by cell, each made now where it is missing."""
    grid = making.plan.tuned
    cells = [] if grid is None else [TunedCell(**vars(cell), grid=grid) for cell in making.cells(grid)]
    made = _Made()
    for number, cell in enumerate(cells, start=1):
        facts = _tuned_one(cell, making)
        made += _Made(missing=(cell.path,)) if facts is None else _Made((facts,))
        making.progress(Step("tuned cells", number, len(cells), f"{cell.route}, {cell.arm}, seed {cell.seed}"))
    return made


def _tuned_one(cell: TunedCell, making: _Making) -> CellFacts | None:
    path = making.out / CELLS / cell.path
    run_dir = making.out / RUNS / cell.route / cell.arm / f"seed{cell.seed}"
    facts = read_facts(path)
    if facts is not None and facts.digest == cell.digest():
        return facts
    if making.over("tuned"):
        return None
    try:
        made = make_tuned_cell(cell, run_dir=run_dir, progress=making.progress, enough=making.enough)
    except Paused:
        return None
    write_cell(path, made)
    return made.facts


def _frozen(cells: Sequence[FrozenCell], making: _Making, *, grid: FrozenGrid, part: Part, stage: str) -> _Made:
    """What there is already and what was made now. A cell of another digest is made anew.

    Features are looked up only if there is a cell to be made from them.
    """
    tower = towers.lite(image_size=grid.image_size)
    key = hashlib.sha256(f"{tower_id(tower)} {tower.text_id}".encode()).hexdigest()
    folder = making.out / CELLS
    found = {cell.path: (cell, read_facts(folder / cell.path)) for cell in cells}
    done = {
        path: facts for path, (cell, facts) in found.items() if facts is not None and facts.digest == cell.digest(key)
    }
    missing = [cell for path, (cell, _) in found.items() if path not in done]
    making.progress(Step(stage, len(done), len(cells)))
    if missing and not making.over(part):
        features = _features(missing, making, grid=grid, tower=tower, key=key)
        for facts in make_cells(missing, features=features, folder=folder, enough=making.enough):
            done[cell_path(facts.grid, facts.route, facts.arm, facts.seed)] = facts
            making.progress(Step(stage, len(done), len(cells), f"{facts.route}, {facts.arm}, seed {facts.seed}"))
    return _Made(tuple(done.values()), tuple(path for path in found if path not in done))


def _features(cells: Sequence[FrozenCell], making: _Making, *, grid: FrozenGrid, tower: Towers, key: str) -> Features:
    """Of all pictures of the data sets that the cells look into, and of all texts."""
    views: dict[str, Tensor] = {}
    domains = {name for cell in cells for name in (cell.route, *cell.pools)} & set(making.data.domains)
    for name in {making.data.dataset_of[domain]: None for domain in sorted(domains)}:
        dataset = making.data.datasets[name]
        rows = view_features(
            dataset.records,
            towers=tower,
            views=grid.views,
            kind=grid.augmentation,
            cache_dir=making.out / "views",
            progress=making.progress,
        )
        views |= {record.image_id: row for record, row in zip(dataset.records, rows, strict=True)}
    texts = sorted(all_texts(making.data, making.noted, wording=grid.wording))
    told = text_features(texts, towers=tower, cache_dir=making.out / "texts", progress=making.progress)
    return Features(views, dict(zip(texts, told, strict=True)), key)
