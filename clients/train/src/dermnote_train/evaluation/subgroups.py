"""Which records belong to which subgroup: sex, age band, skin type, site. Values in, values out."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.data.records import Record
from dermnote_train.evaluation.metrics import Ints

FEWEST = 20
"""Records of a subgroup that is shown; of fewer a figure says nothing."""
AGES = (0, 30, 50, 70, 121)


def _age_band(metadata: LesionMetadata) -> str | None:
    if metadata.age is None:
        return None
    low, beyond = next((low, beyond) for low, beyond in pairwise(AGES) if low <= metadata.age < beyond)
    if low == AGES[0]:
        return f"under {beyond}"
    return f"{low} and over" if beyond == AGES[-1] else f"{low} to {beyond - 1}"


FIELDS: Mapping[str, Callable[[LesionMetadata], str | None]] = {
    "sex": lambda metadata: metadata.sex,
    "age": _age_band,
    "fitzpatrick_skin_type": lambda metadata: metadata.fitzpatrick_skin_type,
    "site": lambda metadata: metadata.site,
}


def subgroups(records: Sequence[Record]) -> dict[tuple[str, str], Ints]:
    """(field, value) -> the rows of the records that have it, for all of FEWEST records and more.

    Values are in their order within a field; a field that nobody has filled has none.
    """
    found: dict[tuple[str, str], list[int]] = {}
    for field, value_of in FIELDS.items():
        values = [value_of(record.metadata) for record in records]
        for value in sorted({value for value in values if value}, key=_order):
            found[field, value] = [row for row, held in enumerate(values) if held == value]
    return {key: np.array(rows) for key, rows in found.items() if len(rows) >= FEWEST}


def _order(value: str) -> tuple[bool, str]:
    return not value.startswith("under"), value
