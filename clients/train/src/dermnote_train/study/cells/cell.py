"""The cells of a study in either grid: their inputs and the names of their files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dermnote_train.config import StudyMode
from dermnote_train.data.labels import DIAGNOSIS_OF
from dermnote_train.data.records import LesionDataset, Record, Split
from dermnote_train.study.arms import ARMS, NOTE_SETS, Texts
from dermnote_train.study.cells.heads import Criterion
from dermnote_train.study.cells.outputs import (
    HOME,
    TRAINING,
    VALIDATION,
    CellFacts,
    Choice,
    PoolOutputs,
    cell_path,
    versions,
)
from dermnote_train.study.domains import StudyData
from dermnote_train.study.facts import list_facts
from dermnote_train.study.note_sets import NoteSetTexts
from dermnote_train.study.plan import FrozenGrid, Route, StudyPlan, TunedGrid, Wording
from dermnote_train.study.prompts import class_prompts

StudyNotes = Mapping[str, Mapping[str, NoteSetTexts]]
"""Data set -> note set -> notes."""


@dataclass(frozen=True)
class Cell:
    """One arm on one route with one seed.

    dataset: the training domain; pools: name ("val", "home", a domain, or "train" in mode "paper") -> records to test
    on; sets: note set -> texts; image_hashes: as in StudyData.
    """

    route: str
    arm: str
    seed: int
    dataset: LesionDataset
    split: Split
    pools: Mapping[str, Sequence[Record]]
    sets: Mapping[str, Texts]
    classes: tuple[str, ...]
    image_hashes: Mapping[str, str]

    @property
    def grid_name(self) -> str:
        """The grid, as stored in the cell's file and used in its path."""
        raise NotImplementedError

    @property
    def path(self) -> str:
        """The cell's file, relative to the study's folder of cells."""
        return cell_path(self.grid_name, self.route, self.arm, self.seed)

    def digest_lines(self, part: str, records: Sequence[Record], *, sets: Sequence[str] = ()) -> Iterator[str]:
        """The lines that a digest hashes: `part`, then one per record with its inputs. sets: note sets to include."""
        yield part
        for record in records:
            texts = [self.sets[name][record.image_id] for name in sets]
            yield f"{record.image_id} {record.group} {record.label} {self.image_hashes[record.image_id]} {texts}"

    def facts(
        self, *, digest: str, pools: Mapping[str, PoolOutputs], choices: Mapping[Criterion, Choice], seconds: float
    ) -> CellFacts:
        """The metadata of this cell's file."""
        return CellFacts(
            grid=self.grid_name,
            route=self.route,
            arm=self.arm,
            seed=self.seed,
            digest=digest,
            classes=self.classes,
            pools={name: pool.image_ids for name, pool in pools.items()},
            choices=choices,
            trained_on=len(self.split.train),
            seconds=seconds,
            versions=versions(),
        )


def required_sets(plan: StudyPlan) -> tuple[str, ...]:
    """The note sets that the plan's arms require."""
    required = {name for arm in plan.arms() for name in ARMS[arm].required_sets}
    return tuple(name for name in NOTE_SETS if name in required)


def grid_cells(plan: StudyPlan, data: StudyData, notes: StudyNotes, *, grid: FrozenGrid | TunedGrid) -> Iterator[Cell]:
    """Every cell of one grid, seed by seed, so that an unfinished study is a complete study of fewer seeds."""
    for seed in range(grid.seeds):
        for route in plan.routes_of(grid):
            split = data.split(route, seed=seed, mode=plan.mode)
            held_out = _pools(data, route, split, mode=plan.mode)
            sets = _route_texts(data, route, notes, wording=grid.wording if isinstance(grid, FrozenGrid) else "notes")
            for arm in grid.arms:
                yield Cell(
                    route=route.train,
                    arm=arm,
                    seed=seed,
                    dataset=data.domains[route.train],
                    split=split,
                    pools=held_out,
                    sets=sets,
                    classes=data.classes,
                    image_hashes=data.image_hashes,
                )


def _pools(data: StudyData, route: Route, split: Split, *, mode: StudyMode) -> dict[str, tuple[Record, ...]]:
    """The records that a cell is tested on: "val" and "home" of its own split, and all of each `away` domain.

    In mode "paper", also the training part, since the authors' code searches it.
    """
    training = {TRAINING: split.train} if mode == "paper" else {}
    away = {name: data.domains[name].records for name in route.away}
    return {VALIDATION: split.val, HOME: split.test} | training | away


def _route_texts(data: StudyData, route: Route, notes: StudyNotes, *, wording: Wording) -> dict[str, Texts]:
    """The texts of all domains of a route by note set; image ids are unique across domains (domains.py)."""
    sets: dict[str, dict[str, str]] = {}
    for dataset in dict.fromkeys(data.dataset_of[domain] for domain in (route.train, *route.away)):
        for name, one in notes[dataset].items():
            sets.setdefault(name, {}).update(_set_texts(one, data.datasets[dataset], name, wording=wording))
    return dict(sets)


def _set_texts(notes: NoteSetTexts, dataset: LesionDataset, name: str, *, wording: Wording) -> Texts:
    """The notes of a set, or lists of the facts that they may state."""
    if wording == "notes":
        return notes.texts
    return {record.image_id: list_facts(record, scope=NOTE_SETS[name].scope) for record in dataset.records}


def all_texts(data: StudyData, notes: StudyNotes, *, wording: Wording) -> set[str]:
    """Every text that any text branch needs, including class names and class prompts."""
    texts = {
        text
        for dataset, sets in notes.items()
        for name, one in sets.items()
        for text in _set_texts(one, data.datasets[dataset], name, wording=wording).values()
    }
    prompts = {text for texts in class_prompts(data.classes) for text in texts}
    return texts | prompts | {DIAGNOSIS_OF.get(name, name) for name in data.classes}
