"""Runs a study: data, notes, features, then cell by cell; unchanged results of earlier runs are reused."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor

from dermnote_train.errors import UserError
from dermnote_train.files import write_text
from dermnote_train.models import towers
from dermnote_train.models.features import text_features
from dermnote_train.models.towers import Towers, weights_hash
from dermnote_train.progress import Report, Step
from dermnote_train.remote.notegen import NoteService
from dermnote_train.study.arms import NOTE_SETS
from dermnote_train.study.cells.cell import Cell, StudyNotes, all_texts, grid_cells, required_sets
from dermnote_train.study.cells.frozen import Features, FrozenCell, compute_cells
from dermnote_train.study.cells.outputs import VALIDATION, CellFacts, reusable_facts, write_cell
from dermnote_train.study.cells.tuned import TrainingInterrupted, TunedCell, compute_tuned_cell
from dermnote_train.study.cells.views import view_features
from dermnote_train.study.domains import StudyData, read_domains
from dermnote_train.study.note_sets import write_note_sets
from dermnote_train.study.plan import FrozenGrid, StudyPlan, TunedGrid

Part = Literal["frozen", "trials", "tuned"]
PARTS: tuple[Part, ...] = ("frozen", "trials", "tuned")
"""In the order in which they run."""
CELLS, RUNS = "cells", "runs"


@dataclass(frozen=True)
class StudyState:
    """The state of a study. `notes`: data set -> note set -> notes; `cells`: metadata of the finished cells;
    `remaining`: number of cells to compute; `ablations`: finished cells of ablations, with validation outputs only."""

    plan: StudyPlan
    data: StudyData
    notes: StudyNotes
    cells: tuple[CellFacts, ...]
    remaining: int
    ablations: tuple[CellFacts, ...] = ()


def run_study(
    plan: StudyPlan,
    *,
    service: NoteService,
    out: Path,
    progress: Report,
    should_stop: Callable[[], bool],
    parts: Collection[Part] = PARTS,
) -> StudyState:
    """Compute the missing cells below `out`, in the order of PARTS, until `should_stop()` is true.

    parts: the parts to compute; the state also contains the finished cells of the other parts. Raises UserError or
    DermnoteError at the first failure; finished cells are kept.
    """
    check_same_study(out, plan)
    required = required_sets(plan)
    data = read_domains(plan, out=out, findings=any(NOTE_SETS[name].findings for name in required), progress=progress)
    notes = {
        name: write_note_sets(
            service, dataset, names=required, seed=plan.notes_seed, out=out / "notes" / name, progress=progress
        )
        for name, dataset in data.datasets.items()
    }
    run = _Run(plan, data, notes, out, progress, should_stop, parts)
    results = {"frozen": run.frozen_grid(), "trials": run.ablations(), "tuned": run.tuned_grid()}
    remaining = sum(results[part].missing for part in parts)
    return StudyState(
        plan, data, notes, results["frozen"].cells + results["tuned"].cells, remaining, results["trials"].cells
    )


def check_same_study(out: Path, plan: StudyPlan) -> None:
    """Raise UserError if `out` holds a study with another mode or limit, whose files must not be reused."""
    path, settings = out / "study.json", {"mode": plan.mode, "limit": plan.limit}
    try:
        existing = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        write_text(path, json.dumps(settings) + "\n")
        return
    if existing != settings:
        raise UserError(f"{out} holds a study with {existing}, but this plan has {settings}; use another --out")


class _PartResult(NamedTuple):
    """One part: metadata of its finished cells, and the number of missing ones."""

    cells: tuple[CellFacts, ...] = ()
    missing: int = 0


@dataclass(frozen=True)
class _Run:
    plan: StudyPlan
    data: StudyData
    notes: StudyNotes
    out: Path
    progress: Report
    should_stop: Callable[[], bool]
    parts: Collection[Part]

    def frozen_grid(self) -> _PartResult:
        grid = self.plan.frozen
        if grid is None:
            return _PartResult()
        cells = [FrozenCell(**vars(cell), grid=grid) for cell in self._cells(grid)]
        return self._frozen(cells, grid=grid, part="frozen", stage="frozen cells")

    def ablations(self) -> _PartResult:
        """Compute the cells of all ablations, which have validation outputs only."""
        routes = self.plan.ablations.routes if self.plan.ablations else ()
        results = []
        for name, grid in self.plan.ablation_grids().items():
            cells = [
                FrozenCell(**vars(replace(cell, pools={VALIDATION: cell.pools[VALIDATION]})), grid=grid, ablation=name)
                for cell in self._cells(grid)
                if not routes or cell.route in routes
            ]
            results.append(self._frozen(cells, grid=grid, part="trials", stage=f"ablation {name}"))
        return _PartResult(tuple(facts for one in results for facts in one.cells), sum(one.missing for one in results))

    def tuned_grid(self) -> _PartResult:
        grid = self.plan.tuned
        cells = [] if grid is None else [TunedCell(**vars(cell), grid=grid) for cell in self._cells(grid)]
        finished = []
        for number, cell in enumerate(cells, start=1):
            if (facts := self._tuned(cell)) is not None:
                finished.append(facts)
            self.progress(Step("tuned cells", number, len(cells), _label(cell)))
        return _PartResult(tuple(finished), len(cells) - len(finished))

    def _cells(self, grid: FrozenGrid | TunedGrid) -> Iterator[Cell]:
        return grid_cells(self.plan, self.data, self.notes, grid=grid)

    def _stopped(self, part: Part) -> bool:
        return part not in self.parts or self.should_stop()

    def _tuned(self, cell: TunedCell) -> CellFacts | None:
        path = self.out / CELLS / cell.path
        facts = reusable_facts(path, digest=cell.digest())
        if facts is not None or self._stopped("tuned"):
            return facts
        run_dir = self.out / RUNS / cell.route / cell.arm / f"seed{cell.seed}"
        try:
            outputs = compute_tuned_cell(cell, run_dir=run_dir, progress=self.progress, should_stop=self.should_stop)
        except TrainingInterrupted:
            return None
        write_cell(path, outputs)
        return outputs.facts

    def _frozen(self, cells: Sequence[FrozenCell], *, grid: FrozenGrid, part: Part, stage: str) -> _PartResult:
        """Reuse the unchanged cells and compute the others; features are loaded only if any cell is missing."""
        tower = towers.lite(image_size=grid.image_size)
        key = hashlib.sha256(f"{weights_hash(tower.visual)} {tower.text_id}".encode()).hexdigest()
        folder = self.out / CELLS
        finished = {}
        for cell in cells:
            facts = reusable_facts(folder / cell.path, digest=cell.digest(key))
            if facts is not None:
                finished[cell.path] = facts
        missing = [cell for cell in cells if cell.path not in finished]
        self.progress(Step(stage, len(finished), len(cells)))
        if missing and not self._stopped(part):
            features = self._features(missing, grid=grid, tower=tower, key=key)
            for facts in compute_cells(missing, features=features, folder=folder, should_stop=self.should_stop):
                finished[facts.path] = facts
                self.progress(Step(stage, len(finished), len(cells), _label(facts)))
        return _PartResult(tuple(finished.values()), len(cells) - len(finished))

    def _features(self, cells: Sequence[FrozenCell], *, grid: FrozenGrid, tower: Towers, key: str) -> Features:
        """Features of all images of the data sets that the cells use, and of all texts."""
        views: dict[str, Tensor] = {}
        domains = {name for cell in cells for name in (cell.route, *cell.pools)} & set(self.data.domains)
        for name in {self.data.dataset_of[domain]: None for domain in sorted(domains)}:
            dataset = self.data.datasets[name]
            rows = view_features(
                dataset.records,
                towers=tower,
                views=grid.views,
                kind=grid.augmentation,
                cache_dir=self.out / "views",
                progress=self.progress,
            )
            views |= {record.image_id: row for record, row in zip(dataset.records, rows, strict=True)}
        texts = sorted(all_texts(self.data, self.notes, wording=grid.wording))
        rows = text_features(texts, towers=tower, cache_dir=self.out / "texts", progress=self.progress)
        return Features(views, dict(zip(texts, rows, strict=True)), key)


def _label(cell: Cell | CellFacts) -> str:
    return f"{cell.route}, {cell.arm}, seed {cell.seed}"
