"""Facts whose presence alone reveals the class.

PAD-UFES-20 records sex, skin type and size for every cancer, but only for few benign lesions, so a note without the sex
indicates a benign lesion. A model would learn that shortcut instead of anything medical.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dermnote_contracts.metadata import LesionMetadata, walk
from dermnote_train.data.records import Record

MIN_V = 0.25
"""Least Cramer's V at which the presence of a field reveals the class. It lies between a small association (.1) and a
medium one (.3; Cohen 1988)."""
MAX_P = 0.001
"""Significance level of the chi-squared test; divided by the number of fields before it is applied (Bonferroni)."""


@dataclass(frozen=True)
class Presence:
    """Share of records in which a field is filled, overall and by class, and how strongly that depends on the class.

    `cramers_v`: 0 (independent) to 1; `p_value`: of the chi-squared test of independence; `reveals_class`: the
    dependence is strong enough (MIN_V) and significant (MAX_P).
    """

    path: str
    filled: float
    by_class: Mapping[str, float]
    cramers_v: float
    p_value: float
    reveals_class: bool


def presences(records: Sequence[Record]) -> tuple[Presence, ...]:
    """Every field that only some records have, by its dotted path ("symptoms.itch")."""
    labels = np.array([record.label for record in records])
    classes = sorted(set(labels.tolist()))
    given = [{path for path, _ in walk(record.metadata.given())} for record in records]
    paths = [path for path in sorted(set().union(*given)) if not all(path in one for one in given)]
    return tuple(
        _presence(path, np.array([path in one for one in given]), labels, classes=classes, fields=len(paths))
        for path in paths
    )


def _presence(
    path: str, has: NDArray[np.bool_], labels: NDArray[np.str_], *, classes: Sequence[str], fields: int
) -> Presence:
    from scipy.stats import chi2_contingency  # noqa: PLC0415  takes a second to load

    counts = np.array([[np.sum(has & (labels == name)), np.sum(~has & (labels == name))] for name in classes])
    v, p_value = 0.0, 1.0
    if len(classes) > 1:
        test = chi2_contingency(counts, correction=False)
        v, p_value = float(np.sqrt(test.statistic / len(has))), float(test.pvalue)
    by_class = {name: float(row[0] / row.sum()) for name, row in zip(classes, counts, strict=True)}
    return Presence(
        path, float(has.mean()), by_class, v, p_value, reveals_class=v >= MIN_V and p_value < MAX_P / fields
    )


def without(records: Sequence[Record], paths: Sequence[str]) -> tuple[Record, ...]:
    """The records without these facts in their metadata."""
    return tuple(replace(record, metadata=_without(record.metadata, paths)) for record in records)


def _without(metadata: LesionMetadata, paths: Sequence[str]) -> LesionMetadata:
    update: dict[str, Any] = {}
    for path in paths:
        head, _, name = path.partition(".")
        if name:
            group = update.get(head) or getattr(metadata, head)
            update[head] = group.model_copy(update={name: None})
        else:
            update[head] = None
    return metadata.model_copy(update=update)
