"""Evaluates a trained model on held-out records. The result types are in results.py."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from sklearn.metrics import f1_score
from torch import Tensor
from torch.nn.functional import normalize, softmax

from dermnote_train.data.records import Record
from dermnote_train.errors import UserError
from dermnote_train.evaluation.bootstrap import GroupBootstrap
from dermnote_train.evaluation.metrics import (
    Floats,
    Ints,
    auroc_macro,
    balanced_accuracy,
    calibration_error,
    class_level,
    confusion_matrix,
    f1_macro,
    instance_level,
    kappa_linear,
)
from dermnote_train.evaluation.results import (
    Classification,
    ClassRetrieval,
    Evaluation,
    InstanceRetrieval,
    Interval,
    Retrieval,
    Subgroup,
)
from dermnote_train.evaluation.subgroups import subgroups
from dermnote_train.models import images
from dermnote_train.models.inference import predict_images, predict_texts
from dermnote_train.models.model import LesionModel
from dermnote_train.notes.blinding import check_blinded
from dermnote_train.progress import Report, silent

KS = (1, 5, 10)
MIN_RETRIEVAL_POOL = 2


def evaluate(
    model: LesionModel,
    *,
    records: Sequence[Record],
    notes: Mapping[str, str] | None = None,
    blinded: Mapping[str, str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: Report = silent,
) -> Evaluation:
    """Classify `records` from their images and, with notes, rank notes by image and images by note.

    records: split.test, or those of another data set. notes: image_id -> note; records without a note are left
    out of retrieval, and a model trained without notes has no retrieval. blinded: image_id -> note written without the
    diagnosis, for every record; classified alone and with the image. `resamples`: for the bootstrap intervals.
    Raises UserError if there are no records, a label is not one of the model's classes, an image is unreadable, or
    blinded notes are missing, name a diagnosis, or are given for a model that was trained without notes.
    """
    _check_labels(records, classes=model.classes)
    blinded_texts = None if blinded is None else _blinded_texts(records, blinded, model=model)
    pixels = images.decode(records, preprocessing=model.towers.preprocessing, progress=progress)
    started = time.perf_counter()
    image = predict_images(model, pixels, progress=progress)
    rate = len(records) / (time.perf_counter() - started)

    labels = np.array([model.classes.index(record.label) for record in records])
    bootstrap = GroupBootstrap([record.group for record in records], resamples=resamples, seed=seed)

    def classify(logits: Tensor) -> Classification:
        return _classification(labels, softmax(logits.double(), dim=1).numpy(), bootstrap=bootstrap)

    note = None if blinded_texts is None else predict_texts(model, blinded_texts, progress=progress)
    directions: dict[str, Retrieval | None] = dict.fromkeys(("image_to_note", "note_to_image"))
    rows = np.array([row for row, record in enumerate(records) if notes and notes.get(record.image_id, "").strip()])
    if notes and model.with_notes and len(rows) >= MIN_RETRIEVAL_POOL:
        texts = [notes[records[row].image_id] for row in rows]
        text = predict_texts(model, texts, progress=progress)
        cosines = (normalize(image.embedding[rows], dim=1) @ normalize(text.embedding, dim=1).T).double().numpy()
        for name, scores in zip(directions, (cosines, cosines.T), strict=True):
            directions[name] = _retrieval(
                scores, labels=labels[rows], bootstrap=bootstrap.subset(rows), distinct_notes=len(set(texts))
            )
    return Evaluation(
        n=len(records),
        groups=len(set(bootstrap.groups)),
        classes=model.classes,
        classification=classify(image.logits),
        subgroups=_subgroups(records, labels, image.logits.argmax(dim=1).numpy(), bootstrap=bootstrap),
        images_per_s=rate,
        blinded_note=None if note is None else classify(note.logits),
        image_and_blinded_note=None if note is None else classify((image.logits + note.logits) / 2),
        **directions,
    )


def _check_labels(records: Sequence[Record], *, classes: Sequence[str]) -> None:
    if not records:
        raise UserError("there are no records to evaluate on: the test part is empty; use more images")
    unknown = sorted({record.label for record in records} - set(classes))
    if unknown:
        raise UserError(
            f"the model was not trained on {', '.join(unknown)}; leave these records out "
            f"(the model's classes: {', '.join(classes)})"
        )


def _blinded_texts(records: Sequence[Record], blinded: Mapping[str, str], *, model: LesionModel) -> list[str]:
    if not model.with_notes:
        raise UserError("the model was trained without notes and cannot classify them; train one with notes")
    missing = [record.image_id for record in records if not blinded.get(record.image_id, "").strip()]
    if missing:
        raise UserError(
            f"{len(missing)} images have no blinded note (first: {missing[0]}); write them with: "
            "dermnote notes FOLDER --blinded"
        )
    check_blinded({record.image_id: blinded[record.image_id] for record in records}, source="the blinded notes")
    return [blinded[record.image_id] for record in records]


def _classification(labels: Ints, probabilities: Floats, *, bootstrap: GroupBootstrap) -> Classification:
    predicted = probabilities.argmax(axis=1)
    counts = confusion_matrix(labels, predicted, classes=probabilities.shape[1])

    def f1(average: Literal["micro", "weighted"]) -> float:
        return float(f1_score(labels, predicted, average=average, zero_division=0))

    def interval(metric: Callable[[Ints, Any], float], values: Ints | Floats) -> Interval:
        return bootstrap.statistic(lambda rows: metric(labels[rows], values[rows]))

    return Classification(
        balanced_accuracy=interval(balanced_accuracy, predicted),
        f1_macro=interval(f1_macro, predicted),
        f1_micro=f1("micro"),
        f1_weighted=f1("weighted"),
        kappa_linear=kappa_linear(labels, predicted),
        auroc_macro=interval(auroc_macro, probabilities),
        calibration_error=interval(calibration_error, probabilities),
        chance=1 / len(np.unique(labels)),
        confusion=tuple(tuple(int(count) for count in row) for row in counts),
    )


def _subgroups(
    records: Sequence[Record], labels: Ints, predicted: Ints, *, bootstrap: GroupBootstrap
) -> tuple[Subgroup, ...]:
    results = []
    for (field, value), rows in subgroups(records).items():
        own, classes = bootstrap.subset(rows), len(np.unique(labels[rows]))
        if classes < 2:
            continue  # accuracy within a single class is meaningless

        def accuracy(sample: Ints, rows: Ints = rows) -> float:
            return balanced_accuracy(labels[rows[sample]], predicted[rows[sample]])

        interval = own.statistic(accuracy)
        results.append(Subgroup(field, value, len(rows), len(set(own.groups)), classes, interval, 1 / classes))
    return tuple(results)


def _retrieval(cosines: Floats, *, labels: Ints, bootstrap: GroupBootstrap, distinct_notes: int) -> Retrieval:
    """cosines: [n, n]; item i is the partner of query i."""
    groups = np.asarray(bootstrap.groups)
    by_class = class_level(
        cosines,
        query_labels=labels,
        pool_labels=labels,
        excluded=groups[:, None] == groups[None, :],
        ks=KS,
        seed=bootstrap.seed,
    )
    by_instance = instance_level(cosines, ks=KS)
    size = len(labels)
    return Retrieval(
        class_level=ClassRetrieval(
            precision_at={k: bootstrap.mean(by_class.precision_at[k]) for k in KS},
            mean_average_precision=bootstrap.mean(by_class.average_precision),
            chance_precision=_mean(by_class.chance_precision),
            chance_map=_mean(by_class.chance_average_precision),
            queries=int((~np.isnan(by_class.average_precision)).sum()),
        ),
        instance_level=InstanceRetrieval(
            recall_at={k: bootstrap.mean(by_instance.recall_at[k]) for k in KS},
            chance_recall_at={k: min(k / size, 1.0) for k in KS},
            median_rank=float(np.median(by_instance.rank)),
            pool=size,
            distinct_notes=distinct_notes,
        ),
    )


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
