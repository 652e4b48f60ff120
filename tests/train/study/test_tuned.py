"""Cells of the tuned grid: what a finished run is good for, and when it is not. Training: tests/e2e/test_study.py."""

from dataclasses import replace
from pathlib import Path

import pytest

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.data.records import LesionDataset, Record, Split
from dermnote_train.errors import UserError
from dermnote_train.models.checkpoint import CHECKPOINT_NAME
from dermnote_train.study.arms import NOTE_SETS
from dermnote_train.study.cells import tuned
from dermnote_train.study.cells.tuned import TRAINED_NAME, TrainedRun, TunedCell
from dermnote_train.study.plan import Domain, Route, StudyPlan, TunedGrid
from dermnote_train.study.runner import refuse_other_study

CLASSES = ("NEV", "MEL")


def records(part: str) -> tuple[Record, ...]:
    return tuple(
        Record(f"{part}-{row}", Path(f"{row}.jpg"), f"{part}{row}", CLASSES[row % 2], LesionMetadata(age=20 + row))
        for row in range(4)
    )


SPLIT = Split(train=records("train"), val=records("val"), test=records("test"), seed=0)
EVERY = (*SPLIT.train, *SPLIT.val, *SPLIT.test)
SETS = {name: {record.image_id: f"{name} of {record.image_id}" for record in EVERY} for name in NOTE_SETS}
CELL = TunedCell(
    route="toy",
    arm="G",
    seed=0,
    dataset=LesionDataset("toy", EVERY, classes=CLASSES, licence="-", synthetic=True),
    split=SPLIT,
    pools={"val": SPLIT.val, "home": SPLIT.test},
    sets=SETS,
    classes=CLASSES,
    pictures={record.image_id: f"sha of {record.image_id}" for record in EVERY},
    grid=TunedGrid(),
)


def with_text(name: str, image_id: str) -> TunedCell:
    return replace(CELL, sets=SETS | {name: SETS[name] | {image_id: "another"}})


@pytest.mark.parametrize(
    "other",
    [
        with_text("G-blinded", "test-0"),
        replace(CELL, pools={"home": SPLIT.test}),
        replace(CELL, pictures={**CELL.pictures, "test-0": "another"}),
    ],
)
def test_what_is_only_asked_about_does_not_train_it_again(other: TunedCell) -> None:
    assert other.digest() != CELL.digest()
    assert other.training_digest() == CELL.training_digest()


@pytest.mark.parametrize(
    "other",
    [
        with_text("G", "train-0"),
        replace(CELL, seed=1),
        replace(CELL, arm="M"),
        replace(CELL, pictures={**CELL.pictures, "train-0": "another"}),
        replace(CELL, split=replace(SPLIT, train=(replace(SPLIT.train[0], label="MEL"), *SPLIT.train[1:]))),
        replace(CELL, split=replace(SPLIT, val=(replace(SPLIT.val[0], label="MEL"), *SPLIT.val[1:]))),
        replace(CELL, grid=TunedGrid(config=CELL.grid.config.model_copy(update={"epochs": 99}))),
    ],
)
def test_what_it_learns_from_trains_it_again(other: TunedCell) -> None:
    assert other.training_digest() != CELL.training_digest()
    assert other.digest() != CELL.digest()


def test_a_finished_run_counts_while_its_weights_are_there(tmp_path: Path) -> None:
    found = TrainedRun(digest=CELL.training_digest(), epoch=3, loss=0.5, seconds=1.0)
    assert tuned._finished(tmp_path, CELL) is None
    (tmp_path / TRAINED_NAME).write_text(found.model_dump_json())
    assert tuned._finished(tmp_path, CELL) is None, "no weights"
    (tmp_path / CHECKPOINT_NAME).write_bytes(b"weights")
    assert tuned._finished(tmp_path, CELL) == found
    assert tuned._finished(tmp_path, replace(CELL, seed=1)) is None
    (tmp_path / TRAINED_NAME).write_text(found.model_dump_json()[:20])
    assert tuned._finished(tmp_path, CELL) is None, "torn"


def test_a_folder_holds_one_study(tmp_path: Path) -> None:
    """Findings, runs and cells have no mode or limit in their names."""
    plan = StudyPlan(domains={"a": Domain(folder=Path("a"))}, routes=(Route(train="a"),))
    refuse_other_study(tmp_path / "study", plan)
    refuse_other_study(tmp_path / "study", plan)
    for change in ({"mode": "paper"}, {"limit": 50}):
        with pytest.raises(UserError, match="use another --out"):
            refuse_other_study(tmp_path / "study", plan.model_copy(update=change))
