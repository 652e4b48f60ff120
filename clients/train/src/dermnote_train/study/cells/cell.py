"""The cells of a study: what each is made from, in either grid, and where it lies."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dermnote_train.data.labels import DIAGNOSIS_OF
from dermnote_train.data.records import LesionDataset, Record, Split
from dermnote_train.study.arms import ARMS, NOTE_SETS, Texts
from dermnote_train.study.cells.outputs import HOME, TRAINING, VALIDATION, CellFacts
from dermnote_train.study.domains import StudyData
from dermnote_train.study.facts import listed
from dermnote_train.study.note_sets import Noted
from dermnote_train.study.plan import FrozenGrid, Mode, Route, StudyPlan, TunedGrid, Wording
from dermnote_train.study.prompts import class_prompts

AllNoted = Mapping[str, Mapping[str, Noted]]
"""Data set -> note set -> notes."""


@dataclass(frozen=True)
class Cell:
    """One arm on one route with one seed.

    dataset: of the training domain; pools: name ("val", "home", a domain's) -> held-out records; sets: note set ->
    texts; pictures: image_id -> sha256 of the file.
    """

    route: str
    arm: str
    seed: int
    dataset: LesionDataset
    split: Split
    pools: Mapping[str, Sequence[Record]]
    sets: Mapping[str, Texts]
    classes: tuple[str, ...]
    pictures: Mapping[str, str]

    def seen(self, part: str, records: Sequence[Record], *, read: Sequence[str] = ()) -> Iterator[str]:
        """What outputs depend on of a part's pictures, one line each; read: the note sets that are read for them."""
        yield part
        for record in records:
            texts = [self.sets[name][record.image_id] for name in read]
            yield f"{record.image_id} {record.group} {record.label} {self.pictures[record.image_id]} {texts}"


def cell_path(grid: str, route: str, arm: str, seed: int) -> str:
    """Where a cell's file lies, below the study's folder of cells."""
    return f"{grid}/{route}/{arm}/seed{seed}.safetensors"


def cell_paths(cells: Iterable[CellFacts]) -> list[Path]:
    """Their files, below the study's folder of cells."""
    return [Path(cell_path(one.grid, one.route, one.arm, one.seed)) for one in cells]


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
            sets = _sets(data, route, noted, wording=grid.wording if isinstance(grid, FrozenGrid) else "notes")
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
                    pictures=data.pictures,
                )


def _sets(data: StudyData, route: Route, noted: AllNoted, *, wording: Wording) -> dict[str, Texts]:
    """The texts of all domains of a route; image ids are unique over them (domains.py)."""
    names = dict.fromkeys(data.dataset_of[domain] for domain in (route.train, *route.away))
    sets: dict[str, dict[str, str]] = {}
    for dataset in names:
        for name, one in noted[dataset].items():
            sets.setdefault(name, {}).update(_worded(one, data.datasets[dataset], name, wording=wording))
    return dict(sets)


def _worded(noted: Noted, dataset: LesionDataset, name: str, *, wording: Wording) -> Texts:
    """The notes of a set, or lists of the facts that they may state."""
    if wording == "notes":
        return noted.texts
    asked = NOTE_SETS[name]
    return {record.image_id: listed(record, stating=asked.stating) for record in dataset.records}


def all_texts(data: StudyData, noted: AllNoted, *, wording: Wording) -> set[str]:
    """Every text that a text branch is to read, class names and class prompts among them."""
    texts = {
        text
        for dataset, sets in noted.items()
        for name, one in sets.items()
        for text in _worded(one, data.datasets[dataset], name, wording=wording).values()
    }
    prompts = {text for texts in class_prompts(data.classes) for text in texts}
    return texts | prompts | {DIAGNOSIS_OF.get(name, name) for name in data.classes}
