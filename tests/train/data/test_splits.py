"""Splits: whole groups, every record once, classes in proportion, deterministic by seed, or a one-line error."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.data.records import LesionDataset, Record, Split
from dermnote_train.data.splits import read_split, split_dataset, write_split
from dermnote_train.errors import UserError

SEEDS = st.integers(0, 2**32)
FEW = settings(deadline=None, max_examples=40)


def _dataset(places: Sequence[tuple[str, str]]) -> LesionDataset:
    """One record for each (class, group)."""
    records = tuple(
        Record(f"i{number}", Path(f"i{number}.jpg"), group, label, LesionMetadata())
        for number, (label, group) in enumerate(places)
    )
    return LesionDataset("toy", records, tuple(sorted({label for label, _ in places})), False, "none")


def _of_sizes(sizes: Mapping[str, Sequence[int]]) -> LesionDataset:
    """Groups of one class each, with these numbers of records."""
    return _dataset(
        [
            (label, f"{label}{n}")
            for label, groups in sizes.items()
            for n, size in enumerate(groups)
            for _ in range(size)
        ]
    )


def _sizes(groups: st.SearchStrategy[int]) -> st.SearchStrategy[dict[str, list[int]]]:
    """The sizes of the groups of two to four classes."""
    of_class = groups.flatmap(lambda count: st.lists(st.integers(1, 5), min_size=count, max_size=count))
    return st.lists(of_class, min_size=2, max_size=4).map(lambda found: dict(zip("ABCD", found, strict=False)))


def _parts(split: Split) -> tuple[tuple[Record, ...], ...]:
    return split.train, split.val, split.test


def _check_partition(split: Split, dataset: LesionDataset) -> None:
    parts = _parts(split)
    assert Counter(record for part in parts for record in part) == Counter(dataset.records)
    groups = [{record.group for record in part} for part in parts]
    assert sum(map(len, groups)) == len(set.union(*groups))
    for part in parts:
        assert {record.label for record in part} == set(dataset.classes)
        assert list(part) == [record for record in dataset.records if record in part]


def _error(dataset: LesionDataset) -> str:
    with pytest.raises(UserError) as raised:
        split_dataset(dataset)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@FEW
@given(_sizes(st.integers(5, 9)), SEEDS)
def test_five_groups_per_class_are_split_in_proportion(sizes: dict[str, list[int]], seed: int) -> None:
    dataset = _of_sizes(sizes)
    split = split_dataset(dataset, seed=seed)
    _check_partition(split, dataset)
    assert split.seed == seed
    for label, groups in sizes.items():
        train, val, test = (sum(record.label == label for record in part) for part in _parts(split))
        # Whole groups allow no better match than the size of a group.
        assert abs(test - sum(groups) / 5) <= max(groups)
        assert abs(val - (train + val) / 4) <= max(groups)


@FEW
@given(
    st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 11)), min_size=30, max_size=60),
    SEEDS,
)
def test_patients_with_several_diagnoses_are_not_split(places: list[tuple[str, int]], seed: int) -> None:
    dataset = _dataset([(label, f"patient{number}") for label, number in places])
    try:
        split = split_dataset(dataset, seed=seed)
    except UserError:
        reject()
    _check_partition(split, dataset)


@FEW
@given(_sizes(st.just(3)), SEEDS)
def test_three_groups_per_class_put_one_into_every_part(sizes: dict[str, list[int]], seed: int) -> None:
    dataset = _of_sizes(sizes)
    split = split_dataset(dataset, seed=seed)
    _check_partition(split, dataset)
    for part in _parts(split):
        assert Counter(label for label, _ in {(r.label, r.group) for r in part}) == dict.fromkeys(dataset.classes, 1)


@FEW
@given(st.integers(3, 4), SEEDS)
def test_a_rare_class_is_in_every_part(rare: int, seed: int) -> None:
    dataset = _of_sizes({"A": [1] * 40, "B": [1] * 25, "C": [1] * rare})
    split = split_dataset(dataset, seed=seed)
    _check_partition(split, dataset)
    assert 10 <= len(split.test) <= 16


def test_single_images_are_split_60_20_20() -> None:
    split = split_dataset(_of_sizes({"A": [1] * 100, "B": [1] * 50}))
    assert [Counter(record.label for record in part) for part in _parts(split)] == [
        {"A": 60, "B": 30},
        {"A": 20, "B": 10},
        {"A": 20, "B": 10},
    ]


def test_the_seed_determines_the_split() -> None:
    dataset = _of_sizes({"A": [1, 2, 1] * 5, "B": [2, 1] * 5})
    first, again, other = (split_dataset(dataset, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert _parts(first) != _parts(other)


def test_every_seed_gives_a_different_test_part() -> None:
    dataset = _of_sizes({"A": [1] * 20, "B": [1] * 20})
    assert len({split_dataset(dataset, seed=seed).test for seed in range(12)}) == 12


@pytest.mark.parametrize("seed", [2**32 - 1, 2**32, 2**70])
def test_no_seed_is_too_large(seed: int) -> None:
    dataset = _of_sizes({"A": [1] * 5, "B": [1] * 5})
    _check_partition(split_dataset(dataset, seed=seed), dataset)


def test_an_attempt_that_leaves_a_single_patient_gives_the_same_error() -> None:
    # With seed 2, the first test part leaves a single patient, which cannot be split again.
    groups = {"A": {"p3": 2, "p4": 9, "p5": 1}, "B": {"p1": 1, "p2": 9, "p4": 9}}
    dataset = _dataset(
        [(label, p) for label, sizes in groups.items() for p, size in sizes.items() for _ in range(size)]
    )
    with pytest.raises(UserError, match=r"too few groups .* to put every class into"):
        split_dataset(dataset, seed=2)


def test_the_largest_group_can_be_in_any_part() -> None:
    dataset = _of_sizes({"A": [9] + [1] * 20, "B": [1] * 20})
    places = set()
    for seed in range(12):
        split = split_dataset(dataset, seed=seed)
        places |= {name for name in ("train", "val", "test") if any(r.group == "A0" for r in getattr(split, name))}
    assert places == {"train", "val", "test"}


def test_one_class_cannot_be_split() -> None:
    assert (
        _error(_of_sizes({"A": [1] * 9}))
        == "toy: A is its only class; add images of another class, or use --classes all"
    )


def test_too_few_groups_are_reported_with_their_numbers() -> None:
    assert _error(_of_sizes({"A": [9, 9], "B": [1] * 9, "C": [30]})) == (
        "toy: too small to split: every class needs 3 groups (patients or lesions), but A has 2, C has 1; "
        "add images or raise the limit"
    )


def test_groups_that_cannot_be_split_are_an_error() -> None:
    # Every class has three patients, but in any three disjoint sets of patients a class is missing from one.
    patients = {"A": "012", "B": "013", "C": "023"}
    dataset = _dataset([(label, patient) for label, groups in patients.items() for patient in groups * 3])
    assert _error(dataset) == (
        "toy: there are too few groups (patients or lesions) to put every class into the training, validation and test "
        "part; add images of the rarest class or use fewer classes"
    )


# Split files


@pytest.fixture
def dataset() -> LesionDataset:
    return _of_sizes({"A": [2, 1, 1, 3, 1, 1], "B": [1] * 7})


def test_a_split_is_read_back_unchanged(tmp_path: Path, dataset: LesionDataset) -> None:
    split = split_dataset(dataset, seed=7)
    write_split(tmp_path / "run" / "split.csv", split)
    assert read_split(tmp_path / "run" / "split.csv", dataset) == split
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["split.csv"]


def test_the_split_file_contains_the_part_of_every_image(tmp_path: Path, dataset: LesionDataset) -> None:
    path, split = tmp_path / "split.csv", split_dataset(dataset, seed=7)
    write_split(path, split)
    header, *lines = path.read_text("utf-8").splitlines()
    assert header == "image_id,part,group,label,seed"
    assert sorted(lines) == sorted(
        f"{record.image_id},{name},{record.group},{record.label},7"
        for name in ("train", "val", "test")
        for record in getattr(split, name)
    )


def test_a_split_of_other_images_is_rejected(tmp_path: Path, dataset: LesionDataset) -> None:
    path = tmp_path / "split.csv"
    write_split(path, split_dataset(dataset))
    fewer = replace(dataset, records=dataset.records[2:])
    with pytest.raises(UserError) as raised:
        read_split(path, fewer)
    assert str(raised.value) == f"{path}: 2 of its images are not in toy; give the data set it was created from"


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"image_id,part,group,label,seed\n",
        b"image_id,group,label,seed\ni0,A0,A,0\n",
        b"image_id,part,group,label,seed\ni0,train,A0,A,none\n",
        b"image_id,part,group,label,seed\ni0,holdout,A0,A,0\n",
        b"image_id,part,group,label,seed\ni0\n",
        b"\xff\xfe\x00",
    ],
    ids=["no file", "empty", "no rows", "no part", "no seed", "unknown part", "short row", "no text"],
)
def test_an_invalid_split_file_is_rejected(tmp_path: Path, dataset: LesionDataset, content: bytes | None) -> None:
    path = tmp_path / "split.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_split(path, dataset)
    assert str(raised.value) == f"{path}: not a readable split; create one with: dermnote datasets split FOLDER"
