"""Subgroups of records by sex, age band, skin type and site. Pure functions."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.data.records import Record
from dermnote_train.evaluation.metrics import Ints

MIN_RECORDS = 20
"""Smaller subgroups are not reported: their metrics are mostly noise."""
AGE_LIMITS = (0, 30, 50, 70, 121)


def _age_band(metadata: LesionMetadata) -> str | None:
    if metadata.age is None:
        return None
    low, end = next((low, end) for low, end in pairwise(AGE_LIMITS) if low <= metadata.age < end)
    if low == AGE_LIMITS[0]:
        return f"under {end}"
    return f"{low} and over" if end == AGE_LIMITS[-1] else f"{low} to {end - 1}"


FIELDS: Mapping[str, Callable[[LesionMetadata], str | None]] = {
    "sex": lambda metadata: metadata.sex,
    "age": _age_band,
    "fitzpatrick_skin_type": lambda metadata: metadata.fitzpatrick_skin_type,
    "site": lambda metadata: metadata.site,
}


def subgroups(records: Sequence[Record]) -> dict[tuple[str, str], Ints]:
    """(field, value) -> rows of its records, for subgroups of at least MIN_RECORDS records, sorted within a field."""
    rows_of: dict[tuple[str, str], list[int]] = {}
    for field, value_of in FIELDS.items():
        values = [value_of(record.metadata) for record in records]
        for value in sorted({value for value in values if value}, key=_order):
            rows_of[field, value] = [row for row, own in enumerate(values) if own == value]
    return {key: np.array(rows) for key, rows in rows_of.items() if len(rows) >= MIN_RECORDS}


def _order(value: str) -> tuple[bool, str]:
    return not value.startswith("under"), value
