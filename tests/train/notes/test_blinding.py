"""Blinded notes: those that name a diagnosis are rejected; others are classified alone and with the image."""

from collections.abc import Callable

import pytest
import torch

from dermnote_contracts.vocabulary import diagnoses
from dermnote_train.config import TrainConfig
from dermnote_train.data.records import Record
from dermnote_train.errors import UserError
from dermnote_train.evaluation.evaluate import evaluate
from dermnote_train.evaluation.tables import metric_rows
from dermnote_train.models.checkpoint import build_model
from dermnote_train.models.model import LesionModel
from dermnote_train.notes.blinding import BLINDED, named_diagnosis

ToyRecords = Callable[..., tuple[Record, ...]]


@pytest.fixture
def fresh(toy_classes: tuple[str, ...]) -> LesionModel:
    torch.manual_seed(0)
    return build_model(TrainConfig(image_size=32), classes=toy_classes, with_notes=True)


@pytest.mark.parametrize("name", sorted(diagnoses()))
def test_every_diagnosis_is_detected_in_a_text(name: str) -> None:
    for spelled in (name, name.upper(), *diagnoses()[name].synonyms):
        assert named_diagnosis(f"A lesion of the back, consistent with {spelled}, was seen.")


@pytest.mark.parametrize(
    "text",
    [
        "A woman aged 64 years presents with a skin lesion of the arm. It itches and has grown.",
        "The lesion is asymmetric with an indistinct border; red and dark brown colours are seen.",
        "",
    ],
)
def test_a_text_without_a_diagnosis_names_none(text: str) -> None:
    assert named_diagnosis(text) is None


def test_a_blinded_note_has_every_topic_but_the_diagnosis() -> None:
    assert set(BLINDED) == {"demographics", "site", "history", "symptoms", "findings"}


def test_notes_and_images_are_classified_separately_and_together(fresh: LesionModel, toy_records: ToyRecords) -> None:
    records = toy_records(4)
    texts = {record.image_id: f"A lesion of the {'back' if record.label == 'red' else 'arm'}." for record in records}

    evaluation = evaluate(fresh, records=records, blinded=texts, resamples=20)
    without = evaluate(fresh, records=records, resamples=20)

    assert evaluation.classification == without.classification
    assert (without.blinded_note, without.image_and_blinded_note) == (None, None)
    assert evaluation.blinded_note is not None
    assert evaluation.image_and_blinded_note is not None
    confusion = evaluation.blinded_note.confusion
    assert sum(map(sum, confusion)) == len(records)
    # Two different texts can only be given two classes.
    assert sum(any(row[column] for row in confusion) for column in range(3)) <= 2
    names = [row.name for row in metric_rows(evaluation)]
    assert "blinded note: balanced accuracy" in names
    assert "image + blinded note: AUROC macro (one-vs-rest)" in names


def test_the_fused_prediction_is_the_mean_of_the_logits(fresh: LesionModel, toy_records: ToyRecords) -> None:
    """A confident text branch outweighs an uncertain image branch."""
    records = toy_records(3)
    with torch.no_grad():
        fresh.head.image.weight.zero_()
        fresh.head.image.bias.zero_()
        fresh.head.text.weight.mul_(100)
    texts = {record.image_id: f"A lesion, {record.label}." for record in records}
    evaluation = evaluate(fresh, records=records, blinded=texts, resamples=20)
    assert evaluation.blinded_note is not None
    assert evaluation.image_and_blinded_note is not None
    assert evaluation.image_and_blinded_note.confusion == evaluation.blinded_note.confusion


def test_unblinded_or_missing_notes_are_rejected(
    fresh: LesionModel, toy_records: ToyRecords, toy_classes: tuple[str, ...]
) -> None:
    records = toy_records(2)
    texts = {record.image_id: "A lesion of the back." for record in records}
    first = records[0].image_id
    with pytest.raises(UserError, match=f"1 notes name a diagnosis \\(first {first}: melanoma\\)"):
        evaluate(fresh, records=records, blinded=texts | {first: "A melanoma of the back."})
    with pytest.raises(UserError, match=f"1 images have no blinded note \\(first: {first}\\)"):
        evaluate(fresh, records=records, blinded=texts | {first: " "})
    images_only = build_model(TrainConfig(image_size=32), classes=toy_classes, with_notes=False)
    with pytest.raises(UserError, match="trained without notes"):
        evaluate(images_only, records=records, blinded=texts)
