"""The fidelity benchmark: what it asks for."""

from dermnote_contracts.metadata import LesionMetadata
from lab.fidelity import requests

ROWS = [
    LesionMetadata(diagnosis="melanoma"),
    LesionMetadata(diagnosis="nevus", age=40, sex="female"),
    LesionMetadata(site="back"),
]


def test_each_row_is_one_request_with_a_seed_of_its_own() -> None:
    asked = requests(ROWS, "G", seed=3)

    assert [one.metadata for one in asked] == ROWS
    assert [one.options.seed for one in asked] == [300_000, 300_001, 300_002]
    assert {one.options.on_unfaithful for one in asked} == {"retry"}


def test_p3_leaves_out_rows_that_hold_a_diagnosis_alone() -> None:
    asked = requests(ROWS, "P3", seed=0)

    assert [one.metadata for one in asked] == ROWS[1:]
    assert {one.options.on_unfaithful for one in asked} == {"fallback"}
