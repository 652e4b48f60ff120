"""Which records belong to which subgroup."""

from pathlib import Path

import numpy as np
import pytest

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.data.records import Record
from dermnote_train.evaluation.subgroups import MIN_RECORDS, subgroups


def records(*facts: dict[str, object], each: int = MIN_RECORDS) -> list[Record]:
    return [
        Record(f"{kind}-{number}", Path("x.jpg"), f"g{kind}-{number}", "NEV", LesionMetadata.model_validate(metadata))
        for kind, metadata in enumerate(facts)
        for number in range(each)
    ]


def test_rows_match_the_value_and_values_are_sorted() -> None:
    groups = subgroups(records({"sex": "male", "age": 80}, {"sex": "female", "age": 29, "site": "back"}, {"age": 49}))
    assert list(groups) == [
        ("sex", "female"),
        ("sex", "male"),
        ("age", "under 30"),
        ("age", "30 to 49"),
        ("age", "70 and over"),
        ("site", "back"),
    ]
    assert np.array_equal(groups["sex", "male"], np.arange(MIN_RECORDS))
    assert np.array_equal(groups["age", "30 to 49"], np.arange(2 * MIN_RECORDS, 3 * MIN_RECORDS))


@pytest.mark.parametrize(
    ("age", "band"),
    [
        (0, "under 30"),
        (29.5, "under 30"),
        (30, "30 to 49"),
        (50, "50 to 69"),
        (70, "70 and over"),
        (120, "70 and over"),
    ],
)
def test_every_age_has_a_band(age: float, band: str) -> None:
    assert list(subgroups(records({"age": age}))) == [("age", band)]


def test_small_subgroups_and_unset_fields_are_left_out() -> None:
    assert subgroups(records({"sex": "male"}, each=MIN_RECORDS - 1)) == {}
    assert subgroups(records({})) == {}
