"""The published data sets, read from the folder in DERMNOTE_DATA."""

import csv
import os
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from dermnote_train.data.adapters import load_dataset, read_folder
from dermnote_train.data.splits import split_dataset
from dermnote_train.data.tables import find_table

pytestmark = pytest.mark.data

NAMES = ("ham10000", "pad_ufes_20")
CLASSES = {
    "ham10000": {"NEV", "MEL", "BEK", "BCC", "DF", "VASC"},
    "pad_ufes_20": {"NEV", "MEL", "BEK", "BCC", "ACK", "SCC"},
}
GROUPS = {"ham10000": "lesion_id", "pad_ufes_20": "patient_id"}


@pytest.fixture(params=NAMES)
def folder(request: pytest.FixtureRequest) -> Path:
    name: str = request.param
    data = os.environ.get("DERMNOTE_DATA")
    if not data:
        pytest.skip("DERMNOTE_DATA is not set; set it to a folder with ham10000/ and pad_ufes_20/")
    if not (Path(data) / name).is_dir():
        pytest.skip(f"DERMNOTE_DATA has no folder {name}/")
    return Path(data) / name


def _table(folder: Path) -> list[dict[str, str]]:
    with find_table(folder).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_every_published_row_is_read_without_a_fault(folder: Path) -> None:
    reading = read_folder(folder)
    assert reading.name == folder.name
    assert reading.faults == ()
    assert len(reading.records) == len(_table(folder)) > 0
    assert not reading.synthetic
    assert CLASSES[folder.name] <= {record.label for record in reading.records}


def test_groups_are_the_published_ones(folder: Path) -> None:
    reading = read_folder(folder)
    assert reading.group_column == GROUPS[folder.name]
    published = [row[GROUPS[folder.name]] for row in _table(folder)]
    assert [record.group for record in reading.records] == [f"{folder.name}:{group}" for group in published]


def test_the_number_of_facts_equals_the_tables(folder: Path) -> None:
    records = read_folder(folder, leaky_fields=True).records
    rows = _table(folder)
    sex = "gender" if folder.name == "pad_ufes_20" else "sex"
    assert sum(record.metadata.age is not None for record in records) == sum(row["age"] != "" for row in rows)
    known = Counter(row[sex].lower() for row in rows)
    assert Counter(record.metadata.sex for record in records if record.metadata.sex) == {
        name: known[name] for name in ("male", "female")
    }
    if folder.name == "pad_ufes_20":
        itches = Counter(record.metadata.symptoms.itch for record in records)
        assert (itches["yes"], itches["no"]) == tuple(
            sum(r["itch"] == answer for r in rows) for answer in ("True", "False")
        )


def test_a_published_data_set_is_split_by_group_in_proportion(folder: Path) -> None:
    dataset = load_dataset(folder)
    split = split_dataset(dataset, seed=1)
    places = defaultdict(set)
    for name in ("train", "val", "test"):
        for record in getattr(split, name):
            places[record.group].add(name)
    assert max(map(len, places.values())) == 1
    assert len(split.train) + len(split.val) + len(split.test) == len(dataset.records)
    total, tested = (Counter(record.label for record in part) for part in (dataset.records, split.test))
    assert all(tested[label] / total[label] == pytest.approx(0.2, abs=0.05) for label in dataset.classes)
