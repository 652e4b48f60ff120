"""Runs a study: data, notes, features, then cell by cell; what is done already is not done again."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dermnote_train import towers
from dermnote_train.data.labels import DIAGNOSIS_OF
from dermnote_train.features import text_features
from dermnote_train.progress import Report, Step
from dermnote_train.records import Record, Split
from dermnote_train.remote.notegen import NoteService
from dermnote_train.study.arms import ARMS, NOTE_SETS, Texts
from dermnote_train.study.cells import Cell, cell_path
from dermnote_train.study.domains import StudyData, read_domains
from dermnote_train.study.frozen import Features, FrozenCell
from dermnote_train.study.making import make_cells
from dermnote_train.study.noting import Noted, note_sets
from dermnote_train.study.plan import FrozenGrid, Mode, Route, StudyPlan, TunedGrid
from dermnote_train.study.predictions import HOME, TRAINING, VALIDATION, CellFacts, read_facts, write_cell
from dermnote_train.study.tuned import Paused, TunedCell, make_tuned_cell
from dermnote_train.study.views import tower_id, view_features

AllNoted = Mapping[str, Mapping[str, Noted]]
"""Data set -> note set -> notes."""
CELLS, RUNS = "cells", "runs"


@dataclass(frozen=True)
class StudyState:
    """How far a study is. `noted`: data set -> note set -> notes; `done`: facts of the cells that there are; `left`:
    cells still to be made."""

    plan: StudyPlan
    data: StudyData
    noted: AllNoted
    done: tuple[CellFacts, ...]
    left: int


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
    if plan.frozen is not None:
        features = _features(plan, data, noted, out=out, progress=progress)
        cells = [FrozenCell(**vars(cell), grid=plan.frozen) for cell in cells_of(plan, data, noted, grid=plan.frozen)]
        done, left = _frozen(cells, features, folder=out / CELLS, progress=progress, enough=enough)
    if plan.tuned is not None:
        wanted = [TunedCell(**vars(cell), grid=plan.tuned) for cell in cells_of(plan, data, noted, grid=plan.tuned)]
        made = list(_tuned(wanted, out=out, progress=progress, enough=enough))
        done += [facts for facts in made if facts is not None]
        left += made.count(None)
    return StudyState(plan, data, noted, tuple(done), left)


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


def _frozen(
    cells: Sequence[FrozenCell], features: Features, *, folder: Path, progress: Report, enough: Callable[[], bool]
) -> tuple[list[CellFacts], int]:
    """What there is already, what was made now, and how many are left. A cell of another digest is made anew."""
    found = [(cell, read_facts(folder / cell.path)) for cell in cells]
    done = [facts for cell, facts in found if facts is not None and facts.digest == cell.digest(features)]
    kept = {(facts.route, facts.arm, facts.seed) for facts in done}
    missing = [cell for cell in cells if (cell.route, cell.arm, cell.seed) not in kept]
    progress(Step("frozen cells", len(done), len(cells)))
    for facts in make_cells(missing, features=features, folder=folder, enough=enough):
        done.append(facts)
        progress(Step("frozen cells", len(done), len(cells), f"{facts.route}, {facts.arm}, seed {facts.seed}"))
    return done, len(cells) - len(done)


def cell_paths(state: StudyState) -> list[Path]:
    """The files of the cells that are done, below the study's folder of cells."""
    return [Path(cell_path(one.grid, one.route, one.arm, one.seed)) for one in state.done]


def needed_sets(plan: StudyPlan) -> tuple[str, ...]:
    """The note sets that the plan's arms can't do without."""
    wanted = {name for arm in plan.arms() for name in ARMS[arm].needs}
    return tuple(name for name in NOTE_SETS if name in wanted)


def pools(data: StudyData, route: Route, split: Split, *, mode: Mode) -> dict[str, tuple[Record, ...]]:
    """What a cell of a route is asked about: "val" and "home" of its own split, and the whole of every other domain.

    In mode "paper" its training part too, since the authors search it.
    """
    searched = {TRAINING: split.train} if mode == "paper" else {}
    away = {name: data.domains[name].records for name in route.away}
    return {VALIDATION: split.val, HOME: split.test} | searched | away


def cells_of(plan: StudyPlan, data: StudyData, noted: AllNoted, *, grid: FrozenGrid | TunedGrid) -> Iterator[Cell]:
    """Every cell of one grid: seed by seed, so that a part of a study is a whole study of fewer seeds."""
    for seed in range(grid.seeds):
        for route in plan.routes_of(grid):
            split = data.split(route, seed=seed, mode=plan.mode)
            held_out = pools(data, route, split, mode=plan.mode)
            sets = _sets(data, route, noted)
            for arm in grid.arms:
                yield Cell(route.train, arm, seed, data.domains[route.train], split, held_out, sets, data.classes)


def _sets(data: StudyData, route: Route, noted: AllNoted) -> dict[str, Texts]:
    """The texts of all domains of a route; image ids are unique over them (domains.py)."""
    names = dict.fromkeys(data.dataset_of[domain] for domain in (route.train, *route.away))
    sets: dict[str, dict[str, str]] = {}
    for dataset in names:
        for name, one in noted[dataset].items():
            sets.setdefault(name, {}).update(one.texts)
    return dict(sets)


def _features(plan: StudyPlan, data: StudyData, noted: AllNoted, *, out: Path, progress: Report) -> Features:
    assert plan.frozen is not None  # noqa: S101 (asked for by the caller)
    tower = towers.lite(image_size=plan.frozen.image_size)
    views: dict[str, Tensor] = {}
    for dataset in data.datasets.values():
        rows = view_features(
            dataset.records, towers=tower, views=plan.frozen.views, cache_dir=out / "views", progress=progress
        )
        views |= {record.image_id: row for record, row in zip(dataset.records, rows, strict=True)}
    texts = sorted(_all_texts(data, noted))
    told = text_features(texts, towers=tower, cache_dir=out / "texts", progress=progress)
    key = hashlib.sha256(f"{tower_id(tower)} {tower.text_id}".encode()).hexdigest()
    return Features(views, dict(zip(texts, told, strict=True)), key)


def _all_texts(data: StudyData, noted: AllNoted) -> set[str]:
    texts = {text for sets in noted.values() for one in sets.values() for text in one.texts.values()}
    return texts | {DIAGNOSIS_OF.get(name, name) for name in data.classes}
