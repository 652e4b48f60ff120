"""Runs a study: data, notes, features, then cell by cell; what is done already is not done again."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
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
from dermnote_train.study.domains import StudyData, read_domains
from dermnote_train.study.figures import HOME, TRAINING, VALIDATION
from dermnote_train.study.frozen import Features, FrozenCell
from dermnote_train.study.making import make_cells
from dermnote_train.study.noting import Noted, note_sets
from dermnote_train.study.plan import Mode, Route, StudyPlan
from dermnote_train.study.predictions import CellFacts, read_facts, write_cell
from dermnote_train.study.tuned import Paused, TunedCell, make_tuned_cell
from dermnote_train.study.views import tower_id, view_features

NEVER: Callable[[], bool] = lambda: False  # noqa: E731 (a default, not a function of its own)
CELLS, RUNS = "cells", "runs"


@dataclass(frozen=True)
class StudyState:
    """How far a study is. `noted`: data set -> note set -> notes; `done`: facts of the cells that there are; `left`:
    cells still to be made."""

    plan: StudyPlan
    data: StudyData
    noted: Mapping[str, Mapping[str, Noted]]
    done: tuple[CellFacts, ...]
    left: int


def run_study(
    plan: StudyPlan, *, service: NoteService, out: Path, progress: Report, enough: Callable[[], bool] = NEVER
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
        cells = list(frozen_cells(plan, data, noted))
        done, left = _frozen(cells, features, folder=out / CELLS, progress=progress, enough=enough)
    if plan.tuned is not None:
        made = list(_tuned(list(tuned_cells(plan, data, noted)), out=out, progress=progress, enough=enough))
        done += [facts for facts in made if facts is not None]
        left += made.count(None)
    return StudyState(plan, data, noted, tuple(done), left)


def _tuned(
    cells: Sequence[TunedCell], *, out: Path, progress: Report, enough: Callable[[], bool]
) -> Iterator[CellFacts | None]:
    """The facts of each cell in turn, made now where it is missing; None for what there was no time for."""
    for number, cell in enumerate(cells, start=1):
        path = out / CELLS / cell.path
        facts = read_facts(path)
        if facts is None or facts.digest != cell.digest():
            facts = None
            with suppress(Paused):
                if enough():
                    raise Paused
                made = make_tuned_cell(
                    cell,
                    run_dir=out / RUNS / cell.route / cell.arm / f"seed{cell.seed}",
                    progress=progress,
                    enough=enough,
                )
                write_cell(path, made)
                facts = made.facts
        yield facts
        progress(Step("tuned cells", number, len(cells), f"{cell.route}, {cell.arm}, seed {cell.seed}"))


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
    return [Path(one.grid) / one.route / one.arm / f"seed{one.seed}.safetensors" for one in state.done]


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


def frozen_cells(plan: StudyPlan, data: StudyData, noted: Mapping[str, Mapping[str, Noted]]) -> Iterator[FrozenCell]:
    """Every cell of the frozen grid: seed by seed, so that a part of a study is a whole study of fewer seeds."""
    assert plan.frozen is not None  # noqa: S101 (asked for by the caller)
    for seed in range(plan.frozen.seeds):
        for route in plan.routes_of("frozen"):
            split = data.split(route, seed=seed, mode=plan.mode)
            held_out = pools(data, route, split, mode=plan.mode)
            sets = _sets(data, route, noted)
            for arm in plan.frozen.arms:
                yield FrozenCell(route.name, arm, seed, split, held_out, sets, data.classes, plan.frozen)


def tuned_cells(plan: StudyPlan, data: StudyData, noted: Mapping[str, Mapping[str, Noted]]) -> Iterator[TunedCell]:
    """Every cell of the tuned grid, seed by seed."""
    assert plan.tuned is not None  # noqa: S101 (asked for by the caller)
    for seed in range(plan.tuned.seeds):
        for route in plan.routes_of("tuned"):
            split = data.split(route, seed=seed, mode=plan.mode)
            held_out = pools(data, route, split, mode=plan.mode)
            sets = _sets(data, route, noted)
            for arm in plan.tuned.arms:
                yield TunedCell(
                    route.name, arm, seed, data.domains[route.train], split, held_out, sets, data.classes, plan.tuned
                )


def _sets(data: StudyData, route: Route, noted: Mapping[str, Mapping[str, Noted]]) -> dict[str, Texts]:
    """The texts of all domains of a route. Image ids of two data sets may be the same: then the ids would clash."""
    names = dict.fromkeys(data.dataset_of[domain] for domain in (route.train, *route.away))
    sets: dict[str, dict[str, str]] = {}
    for dataset in names:
        for name, one in noted[dataset].items():
            sets.setdefault(name, {}).update(one.texts)
    return dict(sets)


def _features(
    plan: StudyPlan, data: StudyData, noted: Mapping[str, Mapping[str, Noted]], *, out: Path, progress: Report
) -> Features:
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


def _all_texts(data: StudyData, noted: Mapping[str, Mapping[str, Noted]]) -> set[str]:
    texts = {text for sets in noted.values() for one in sets.values() for text in one.texts.values()}
    return texts | {DIAGNOSIS_OF.get(name, name) for name in data.classes}


__all__: Sequence[str] = ("StudyState", "frozen_cells", "needed_sets", "pools", "run_study")
