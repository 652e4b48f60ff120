"""Cells of the tuned grid: when a finished run is reused. Training: tests/e2e/test_study.py."""

from dataclasses import replace
from pathlib import Path

import pytest

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.data.records import LesionDataset, Record, Split
from dermnote_train.errors import UserError
from dermnote_train.models.checkpoint import CHECKPOINT_NAME
from dermnote_train.study.arms import NOTE_SETS
from dermnote_train.study.cells import tuned
from dermnote_train.study.cells.tuned import RUN_RECORD_NAME, RunRecord, TunedCell
from dermnote_train.study.plan import Domain, Route, StudyPlan, TunedGrid
from dermnote_train.study.runner import check_same_study

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
    image_hashes={record.image_id: f"sha of {record.image_id}" for record in EVERY},
    grid=TunedGrid(),
)


def with_text(name: str, image_id: str) -> TunedCell:
    return replace(CELL, sets=SETS | {name: SETS[name] | {image_id: "another"}})


@pytest.mark.parametrize(
    "other",
    [
        with_text("G-blinded", "test-0"),
        replace(CELL, pools={"home": SPLIT.test}),
        replace(CELL, image_hashes={**CELL.image_hashes, "test-0": "another"}),
    ],
)
def test_changed_test_inputs_do_not_retrain(other: TunedCell) -> None:
    assert other.digest() != CELL.digest()
    assert other.training_digest() == CELL.training_digest()


@pytest.mark.parametrize(
    "other",
    [
        with_text("G", "train-0"),
        replace(CELL, seed=1),
        replace(CELL, arm="M"),
        replace(CELL, image_hashes={**CELL.image_hashes, "train-0": "another"}),
        replace(CELL, split=replace(SPLIT, train=(replace(SPLIT.train[0], label="MEL"), *SPLIT.train[1:]))),
        replace(CELL, split=replace(SPLIT, val=(replace(SPLIT.val[0], label="MEL"), *SPLIT.val[1:]))),
        replace(CELL, grid=TunedGrid(config=CELL.grid.config.model_copy(update={"epochs": 99}))),
    ],
)
def test_changed_training_inputs_retrain(other: TunedCell) -> None:
    assert other.training_digest() != CELL.training_digest()
    assert other.digest() != CELL.digest()


def test_a_finished_run_is_reused_while_its_weights_exist(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = RunRecord(digest=CELL.training_digest(), epoch=3, loss=0.5, seconds=1.0)
    assert tuned._read_finished_run(tmp_path, CELL) is None
    (tmp_path / RUN_RECORD_NAME).write_text(record.model_dump_json())
    assert tuned._read_finished_run(tmp_path, CELL) is None, "no weights"
    (tmp_path / CHECKPOINT_NAME).write_bytes(b"weights")
    assert tuned._read_finished_run(tmp_path, CELL) == record
    assert tuned._read_finished_run(tmp_path, replace(CELL, seed=1)) is None
    (tmp_path / RUN_RECORD_NAME).write_text(record.model_dump_json()[:20])
    assert tuned._read_finished_run(tmp_path, CELL) is None, "damaged"
    assert f"{tmp_path / RUN_RECORD_NAME} is damaged (" in caplog.text


def test_a_folder_holds_one_study(tmp_path: Path) -> None:
    """File names of findings, runs and cells include neither mode nor limit."""
    plan = StudyPlan(domains={"a": Domain(folder=Path("a"))}, routes=(Route(train="a"),))
    check_same_study(tmp_path / "study", plan)
    check_same_study(tmp_path / "study", plan)
    for change in ({"mode": "paper"}, {"limit": 50}):
        with pytest.raises(UserError, match="use another --out"):
            check_same_study(tmp_path / "study", plan.model_copy(update=change))
