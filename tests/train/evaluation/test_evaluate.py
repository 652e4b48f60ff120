"""Evaluation: the metrics of a trained and of an untrained model, and strict retrieval pools."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.config import TrainConfig
from dermnote_train.data.records import Record, Split
from dermnote_train.errors import UserError
from dermnote_train.evaluation.evaluate import evaluate
from dermnote_train.evaluation.results import Interval
from dermnote_train.models.checkpoint import build_model
from dermnote_train.models.model import LesionModel
from dermnote_train.training.train import train

ToyRecords = Callable[..., tuple[Record, ...]]


@pytest.fixture
def trained(
    toy_config: TrainConfig, toy_split: Split, toy_notes: dict[str, str], toy_classes: tuple[str, ...], tmp_path: Path
) -> LesionModel:
    config = toy_config.model_copy(update={"epochs": 6})
    return train(config, split=toy_split, classes=toy_classes, notes=toy_notes, run_dir=tmp_path / "run").model


@pytest.fixture
def fresh(toy_classes: tuple[str, ...]) -> LesionModel:
    torch.manual_seed(0)
    return build_model(TrainConfig(image_size=32), classes=toy_classes, with_notes=True)


def test_a_trained_model_beats_chance(trained: LesionModel, toy_split: Split, toy_notes: dict[str, str]) -> None:
    evaluation = evaluate(trained, records=toy_split.test, notes=toy_notes, resamples=100)
    accuracy = evaluation.classification.balanced_accuracy
    assert accuracy.value > 0.8 > evaluation.classification.chance == pytest.approx(1 / 3)
    assert accuracy.low <= accuracy.value <= accuracy.high
    assert np.sum(evaluation.classification.confusion) == evaluation.n == evaluation.groups == 9
    for direction in (evaluation.image_to_note, evaluation.note_to_image):
        assert direction is not None
        by_class, by_instance = direction.class_level, direction.instance_level
        assert by_class.mean_average_precision.value > by_class.chance_map
        assert by_class.chance_precision == pytest.approx(2 / 8)
        assert by_class.queries == by_instance.pool == by_instance.distinct_notes == 9
        assert by_instance.recall_at[10].value == 1
        assert set(by_class.precision_at) == {1, 5, 10}


def test_probabilities_of_a_trained_model_discriminate_and_are_calibrated(
    trained: LesionModel, fresh: LesionModel, toy_split: Split
) -> None:
    learned = evaluate(trained, records=toy_split.test, resamples=50).classification
    guessing = evaluate(fresh, records=toy_split.test, resamples=50).classification
    assert learned.auroc_macro.value > 0.9 > guessing.auroc_macro.value
    for scores in (learned, guessing):
        assert 0 <= scores.calibration_error.low <= scores.calibration_error.value <= 1


def test_subgroups_have_their_own_metrics(fresh: LesionModel, toy_records: ToyRecords) -> None:
    records = [
        replace(record, metadata=LesionMetadata(sex="male" if place % 2 else "female", age=40))
        for place, record in enumerate(toy_records(14))
    ]
    evaluation = evaluate(fresh, records=records, resamples=50)
    assert [(one.field, one.value, one.n, one.classes) for one in evaluation.subgroups] == [
        ("sex", "female", 21, 3),
        ("sex", "male", 21, 3),
        ("age", "30 to 49", 42, 3),
    ]
    (everybody,) = (one for one in evaluation.subgroups if one.field == "age")
    assert everybody.balanced_accuracy.value == evaluation.classification.balanced_accuracy.value
    assert everybody.chance == pytest.approx(1 / 3)


def test_the_own_group_is_excluded(fresh: LesionModel, toy_records: ToyRecords) -> None:
    # Two patients, one class: only the other patient's notes can be retrieved.
    records = [
        replace(record, group=f"patient-{row % 2}") for row, record in enumerate(toy_records(4, classes=("red",)))
    ]
    notes = {record.image_id: f"note {record.image_id}" for record in records}
    evaluation = evaluate(fresh, records=records, notes=notes, resamples=20)
    assert evaluation.image_to_note is not None
    assert evaluation.image_to_note.class_level.precision_at[1].value == 1
    lonely = [replace(record, group="one patient") for record in records]
    alone = evaluate(fresh, records=lonely, notes=notes, resamples=20)
    assert alone.image_to_note is not None
    assert alone.image_to_note.class_level.queries == 0
    assert math.isnan(alone.image_to_note.class_level.mean_average_precision.value)
    assert alone.image_to_note.instance_level.pool == 4


def test_equal_notes_give_instance_recall_at_chance(fresh: LesionModel, toy_split: Split) -> None:
    notes = {record.image_id: "the same note for everyone" for record in toy_split.test}
    evaluation = evaluate(fresh, records=toy_split.test, notes=notes, resamples=20)
    assert evaluation.image_to_note is not None
    instance = evaluation.image_to_note.instance_level
    assert instance.distinct_notes == 1
    assert instance.recall_at[1].value == pytest.approx(instance.chance_recall_at[1]) == pytest.approx(1 / 9)
    assert instance.median_rank == 5


def test_records_without_a_note_are_classified_but_not_retrieved(
    fresh: LesionModel, toy_split: Split, toy_notes: dict[str, str]
) -> None:
    some = {record.image_id: toy_notes[record.image_id] for record in toy_split.test[:5]}
    evaluation = evaluate(fresh, records=toy_split.test, notes=some, resamples=20)
    assert evaluation.n == 9
    assert evaluation.image_to_note is not None
    assert evaluation.image_to_note.instance_level.pool == 5


def test_notes_do_not_affect_the_classification(
    trained: LesionModel, toy_split: Split, toy_notes: dict[str, str]
) -> None:
    with_notes = evaluate(trained, records=toy_split.test, notes=toy_notes, resamples=20)
    without = evaluate(trained, records=toy_split.test, notes=None, resamples=20)
    assert with_notes.classification == without.classification
    assert without.image_to_note is None
    assert without.note_to_image is None


def test_a_model_trained_without_notes_has_no_retrieval(
    toy_classes: tuple[str, ...], toy_split: Split, toy_notes: dict[str, str]
) -> None:
    model = build_model(TrainConfig(image_size=32), classes=toy_classes, with_notes=False)
    assert evaluate(model, records=toy_split.test, notes=toy_notes, resamples=20).image_to_note is None


def test_the_json_form_is_json(fresh: LesionModel, toy_records: ToyRecords) -> None:
    records = toy_records(3, classes=("red",))
    notes = {record.image_id: "a note" for record in records}
    lonely = [replace(record, group="g") for record in records]
    plain = evaluate(fresh, records=lonely, notes=notes, resamples=20).as_json()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["image_to_note"]["class_level"]["mean_average_precision"]["value"] is None
    assert set(plain["image_to_note"]["instance_level"]["recall_at"]) == {"1", "5", "10"}


def test_a_data_set_of_one_class_raises_no_warning(fresh: LesionModel, toy_records: ToyRecords) -> None:
    evaluation = evaluate(fresh, records=toy_records(3, classes=("red",)), resamples=20)
    assert evaluation.classification.chance == 1
    assert isinstance(evaluation.classification.balanced_accuracy, Interval)


def test_missing_records_and_unknown_labels_are_rejected(fresh: LesionModel, toy_records: ToyRecords) -> None:
    with pytest.raises(UserError, match="no records"):
        evaluate(fresh, records=[])
    odd = [replace(record, label="purple") for record in toy_records(1, classes=("red",))]
    with pytest.raises(UserError, match=r"not trained on purple.*red, green, blue"):
        evaluate(fresh, records=odd)
