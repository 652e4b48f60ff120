"""The fidelity benchmark: its requests."""

from dermnote_contracts.metadata import LesionMetadata
from lab.fidelity import requests

ROWS = [
    LesionMetadata(diagnosis="melanoma"),
    LesionMetadata(diagnosis="nevus", age=40, sex="female"),
    LesionMetadata(site="back"),
]


def test_each_row_is_one_request_with_its_own_seed() -> None:
    selected = requests(ROWS, "G", seed=3)

    assert [one.metadata for one in selected] == ROWS
    assert [one.options.seed for one in selected] == [300_000, 300_001, 300_002]
    assert {one.options.on_unfaithful for one in selected} == {"retry"}


def test_p3_skips_rows_with_only_a_diagnosis() -> None:
    selected = requests(ROWS, "P3", seed=0)

    assert [one.metadata for one in selected] == ROWS[1:]
    assert {one.options.on_unfaithful for one in selected} == {"fallback"}
