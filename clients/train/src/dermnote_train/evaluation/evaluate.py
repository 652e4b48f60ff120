"""What a trained model is worth on records that it never saw. The types of the answer are in `evaluation`."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.metrics import cohen_kappa_score, f1_score
from torch import Tensor
from torch.nn.functional import normalize, softmax

from dermnote_train.data.records import Record
from dermnote_train.errors import UserError
from dermnote_train.evaluation.metrics import (
    Floats,
    Ints,
    auroc_macro,
    balanced_accuracy,
    bootstrap,
    calibration_error,
    class_level,
    confusion_matrix,
    f1_macro,
    instance_level,
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
from dermnote_train.models.inference import classify, read
from dermnote_train.models.model import LesionModel
from dermnote_train.notes.blinding import check_blinded
from dermnote_train.progress import Report, silent

KS = (1, 5, 10)
FEWEST_FOR_RETRIEVAL = 2


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
    """Classify `records` from their pictures and, with notes, search notes by picture and pictures by note.

    records: held-out ones (split.test, or another data set's). notes: image_id -> note; records without a note take no
    part in retrieval, and a model trained without notes has no retrieval. blinded: image_id -> note made without the
    diagnosis, for every record: classified by itself and with the picture. `resamples`: for the bootstrap intervals.
    Raises UserError for no records, a label that the model was not trained on, an image that can't be read, and for
    blinded notes that are not there, name a diagnosis, or meet a model that was trained without notes.
    """
    _refuse_unknown(records, classes=model.classes)
    texts = None if blinded is None else _blinded_texts(records, blinded, model=model)
    pixels = images.decode(records, preprocessing=model.towers.preprocessing, progress=progress)
    started = time.perf_counter()
    seen = classify(model, pixels, progress=progress)
    rate = len(records) / (time.perf_counter() - started)

    draws = _Resampling(resamples=resamples, seed=seed)
    labels = np.array([model.classes.index(record.label) for record in records])
    groups = [record.group for record in records]

    def by(logits: Tensor) -> Classification:
        return _classification(labels, _probabilities(logits), groups=groups, draws=draws)

    told = None if texts is None else read(model, texts, progress=progress)
    directions: dict[str, Retrieval | None] = dict.fromkeys(("image_to_note", "note_to_image"))
    noted = [row for row, record in enumerate(records) if notes and notes.get(record.image_id, "").strip()]
    if notes and model.with_notes and len(noted) >= FEWEST_FOR_RETRIEVAL:
        said = [notes[records[row].image_id] for row in noted]
        cosines = _cosines(seen.embedding[noted], read(model, said, progress=progress).embedding)
        pool = _Pool(labels=labels[noted], groups=[groups[row] for row in noted], distinct_notes=len(set(said)))
        directions = {
            "image_to_note": _retrieval(cosines, pool=pool, draws=draws),
            "note_to_image": _retrieval(cosines.T, pool=pool, draws=draws),
        }
    return Evaluation(
        n=len(records),
        groups=len(set(groups)),
        classes=model.classes,
        classification=by(seen.logits),
        subgroups=_subgroups(records, labels, seen.logits.argmax(dim=1).numpy(), draws=draws),
        images_per_s=rate,
        blinded_note=None if told is None else by(told.logits),
        image_and_blinded_note=None if told is None else by((seen.logits + told.logits) / 2),
        **directions,
    )


def _probabilities(logits: Tensor) -> Floats:
    probabilities: Floats = softmax(logits.double(), dim=1).numpy()
    return probabilities


def _blinded_texts(records: Sequence[Record], blinded: Mapping[str, str], *, model: LesionModel) -> list[str]:
    if not model.with_notes:
        raise UserError("the model was trained without notes, so it can't read any; train one with notes")
    lacking = [record.image_id for record in records if not blinded.get(record.image_id, "").strip()]
    if lacking:
        raise UserError(
            f"no blinded note for {len(lacking)} images (first {lacking[0]}); make them with: "
            "dermnote notes FOLDER --blinded"
        )
    check_blinded({record.image_id: blinded[record.image_id] for record in records}, source="the blinded notes")
    return [blinded[record.image_id] for record in records]


@dataclass(frozen=True)
class _Pool:
    """What is searched and searched for: item i is query i's own partner."""

    labels: Ints
    groups: Sequence[str]
    distinct_notes: int


@dataclass(frozen=True)
class _Resampling:
    """How intervals are made."""

    resamples: int
    seed: int

    def interval(self, statistic: Callable[[Ints], float], *, groups: Sequence[str]) -> Interval:
        """statistic: row numbers -> a figure."""
        low, high = bootstrap(statistic, groups, resamples=self.resamples, seed=self.seed)
        return Interval(statistic(np.arange(len(groups))), low, high)

    def mean(self, values: Floats, *, groups: Sequence[str]) -> Interval:
        """The mean of the values that aren't NaN; all NaN if there is none."""
        kept = np.flatnonzero(~np.isnan(values))
        if not len(kept):
            return Interval(float("nan"), float("nan"), float("nan"))
        return self.interval(lambda rows: float(values[kept][rows].mean()), groups=list(np.asarray(groups)[kept]))


def _refuse_unknown(records: Sequence[Record], *, classes: Sequence[str]) -> None:
    if not records:
        raise UserError("there are no records to evaluate on: the test part is empty; use more images")
    unknown = sorted({record.label for record in records} - set(classes))
    if unknown:
        raise UserError(
            f"the model was not trained on {', '.join(unknown)}; leave these records out "
            f"(it knows {', '.join(classes)})"
        )


def _classification(
    labels: Ints, probabilities: Floats, *, groups: Sequence[str], draws: _Resampling
) -> Classification:
    predicted = probabilities.argmax(axis=1)
    counts = confusion_matrix(labels, predicted, classes=probabilities.shape[1])

    def f1(average: Literal["micro", "weighted"]) -> float:
        return float(f1_score(labels, predicted, average=average, zero_division=0))

    def interval(statistic: Callable[[Ints, Floats], float]) -> Interval:
        return draws.interval(lambda rows: statistic(labels[rows], probabilities[rows]), groups=groups)

    return Classification(
        balanced_accuracy=draws.interval(lambda rows: balanced_accuracy(labels[rows], predicted[rows]), groups=groups),
        f1_macro=draws.interval(lambda rows: f1_macro(labels[rows], predicted[rows]), groups=groups),
        f1_micro=f1("micro"),
        f1_weighted=f1("weighted"),
        kappa_linear=_kappa(labels, predicted),
        auroc_macro=interval(auroc_macro),
        calibration_error=interval(calibration_error),
        chance=1 / len(np.unique(labels)),
        confusion=tuple(tuple(int(count) for count in row) for row in counts),
    )


def _subgroups(records: Sequence[Record], labels: Ints, predicted: Ints, *, draws: _Resampling) -> tuple[Subgroup, ...]:
    found = []
    for (field, value), rows in subgroups(records).items():
        own, guessed, groups = labels[rows], predicted[rows], [records[row].group for row in rows]
        present = len(np.unique(own))
        if present < 2:
            continue  # of one class alone there is nothing to tell apart

        def accuracy(drawn: Ints, own: Ints = own, guessed: Ints = guessed) -> float:
            return balanced_accuracy(own[drawn], guessed[drawn])

        figure = draws.interval(accuracy, groups=groups)
        found.append(Subgroup(field, value, len(rows), len(set(groups)), present, figure, 1 / present))
    return tuple(found)


def _kappa(labels: Ints, predicted: Ints) -> float:
    """Cohen's kappa with linear weights; NaN where only one class is in play, since agreement then says nothing."""
    if len(np.union1d(labels, predicted)) < 2:
        return float("nan")
    return float(cohen_kappa_score(labels, predicted, weights="linear"))


def _cosines(image: Tensor, text: Tensor) -> Floats:
    cosines: Floats = (normalize(image, dim=1) @ normalize(text, dim=1).T).double().numpy()
    return cosines


def _retrieval(cosines: Floats, *, pool: _Pool, draws: _Resampling) -> Retrieval:
    groups = np.asarray(pool.groups)
    by_class = class_level(
        cosines,
        query_labels=pool.labels,
        pool_labels=pool.labels,
        excluded=groups[:, None] == groups[None, :],
        ks=KS,
        seed=draws.seed,
    )
    by_instance = instance_level(cosines, ks=KS)
    size = len(pool.labels)
    return Retrieval(
        class_level=ClassRetrieval(
            precision_at={k: draws.mean(by_class.precision_at[k], groups=pool.groups) for k in KS},
            mean_average_precision=draws.mean(by_class.average_precision, groups=pool.groups),
            chance_precision=_mean(by_class.chance_precision),
            chance_map=_mean(by_class.chance_average_precision),
            queries=int((~np.isnan(by_class.average_precision)).sum()),
        ),
        instance_level=InstanceRetrieval(
            recall_at={k: draws.mean(by_instance.recall_at[k], groups=pool.groups) for k in KS},
            chance_recall_at={k: min(k / size, 1.0) for k in KS},
            median_rank=float(np.median(by_instance.rank)),
            pool=size,
            distinct_notes=pool.distinct_notes,
        ),
    )


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
