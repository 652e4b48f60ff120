"""The size, classes and groups of a balanced part of a data set."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.data.records import Record
from dermnote_train.data.splits import balanced_part
from dermnote_train.errors import UserError

PLACES = st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 9)), min_size=1, max_size=40)
SEEDS = st.integers(0, 99)


def _records(places: list[tuple[str, int]]) -> tuple[Record, ...]:
    """One record for each (class, number of its group)."""
    return tuple(
        Record(f"i{number}", Path(f"i{number}.jpg"), f"g{group}", label, LesionMetadata())
        for number, (label, group) in enumerate(places)
    )


def _even(counts: dict[str, int]) -> tuple[Record, ...]:
    """Records with these numbers per class, each in its own group."""
    labels = [label for label, count in counts.items() for _ in range(count)]
    return _records([(label, number) for number, label in enumerate(labels)])


@settings(deadline=None)
@given(PLACES, st.integers(1, 50), SEEDS)
def test_a_part_has_the_given_size_and_order(places: list[tuple[str, int]], limit: int, seed: int) -> None:
    records = _records(places)
    part = balanced_part(records, limit=limit, seed=seed)
    assert len(part) == min(limit, len(records))
    chosen = {record.image_id for record in part}
    assert part == tuple(record for record in records if record.image_id in chosen)


@settings(deadline=None)
@given(PLACES, st.integers(1, 50), SEEDS)
def test_at_most_one_group_is_split(places: list[tuple[str, int]], limit: int, seed: int) -> None:
    records = _records(places)
    sizes = Counter(record.group for record in records)
    chosen = Counter(record.group for record in balanced_part(records, limit=limit, seed=seed))
    assert sum(count < sizes[group] for group, count in chosen.items()) <= 1


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), min_size=3, max_size=3), st.integers(1, 40), SEEDS)
def test_classes_are_balanced_until_one_is_exhausted(sizes: list[int], limit: int, seed: int) -> None:
    of_class = dict(zip("ABC", sizes, strict=True))
    chosen = Counter(record.label for record in balanced_part(_even(of_class), limit=limit, seed=seed))
    most = max(chosen.values())
    assert all(chosen[label] == of_class[label] or chosen[label] >= most - 1 for label in of_class)


def test_the_seed_determines_the_part() -> None:
    records = _even({"A": 20, "B": 20})
    parts = [balanced_part(records, limit=6, seed=seed) for seed in (1, 1, 2)]
    assert parts[0] == parts[1]
    assert parts[0] != parts[2]


def test_the_part_does_not_depend_on_the_order_of_the_records() -> None:
    records = _even({"A": 10, "B": 10})
    forward, backward = (balanced_part(rows, limit=6, seed=3) for rows in (records, records[::-1]))
    assert forward == backward[::-1]


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_that_leaves_no_images_is_rejected(limit: int) -> None:
    with pytest.raises(UserError, match=f"^a limit of {limit} leaves no images; give 1 or more$"):
        balanced_part(_even({"A": 2}), limit=limit, seed=0)
