"""Selects a balanced part of a data set, and splits it into training, validation and test parts by group."""

import random
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dermnote_train.data.records import LesionDataset, Record, Split
from dermnote_train.data.tables import read_table
from dermnote_train.errors import UserError
from dermnote_train.files import write_csv

FOLDS = 5  # one is the test part, one the validation part: 60/20/20
ATTEMPTS = 50
MIN_GROUPS = 3
PART_NAMES = ("train", "val", "test")
SPLIT_COLUMNS = ("image_id", "part", "group", "label", "seed")


def balanced_part(records: Sequence[Record], *, limit: int, seed: int) -> tuple[Record, ...]:
    """At most `limit` records in their original order, balanced over the classes, in whole groups (except the last).

    Groups are added one by one, each from the class with the fewest records so far; `seed` determines the order of the
    groups within a class.
    """
    if limit < 1:
        raise UserError(f"a limit of {limit} leaves no images; give 1 or more")
    if limit >= len(records):
        return tuple(records)
    remaining = _groups_by_class(records, seed=seed)
    selected: set[str] = set()
    counts: Counter[str] = Counter(dict.fromkeys(remaining, 0))
    while len(selected) < limit:
        label = min((name for name in remaining if remaining[name]), key=lambda name: (counts[name], name))
        group = remaining[label].pop()[: limit - len(selected)]
        selected |= {record.image_id for record in group}
        counts.update(record.label for record in group)
    return tuple(record for record in records if record.image_id in selected)


def _groups_by_class(records: Sequence[Record], *, seed: int) -> dict[str, list[list[Record]]]:
    """Shuffled groups, by the most frequent class of their records."""
    groups: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.group].append(record)
    members = sorted(groups.items())
    random.Random(seed).shuffle(members)
    by_class: defaultdict[str, list[list[Record]]] = defaultdict(list)
    for _, group in members:
        by_class[Counter(record.label for record in group).most_common(1)[0][0]].append(group)
    return dict(by_class)


def split_dataset(dataset: LesionDataset, *, seed: int = 0) -> Split:
    """Split 60/20/20 by whole groups with every class in every part; deterministic by seed. Raises UserError."""
    _check_groups(dataset)
    for attempt in range(ATTEMPTS):
        state = (seed + 1009 * attempt) % 2**32
        try:
            rest, test = _fold(dataset.records, folds=FOLDS, state=state)
            train, val = _fold(rest, folds=FOLDS - 1, state=state)
        except ValueError:  # too few groups: scikit-learn needs a class with at least two
            continue
        if all({record.label for record in part} == set(dataset.classes) for part in (train, val, test)):
            return Split(train, val, test, seed)
    raise UserError(
        f"{dataset.name}: there are too few groups (patients or lesions) to put every class into the training, "
        "validation and test part; add images of the rarest class or use fewer classes"
    )


def _check_groups(dataset: LesionDataset) -> None:
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for record in dataset.records:
        groups[record.label].add(record.group)
    if len(dataset.classes) < 2:
        raise UserError(
            f"{dataset.name}: {', '.join(dataset.classes)} is its only class; add images of another class, or use "
            "--classes all"
        )
    few = {name: len(groups[name]) for name in dataset.classes if len(groups[name]) < MIN_GROUPS}
    if few:
        counts = ", ".join(f"{name} has {count}" for name, count in few.items())
        raise UserError(
            f"{dataset.name}: too small to split: every class needs {MIN_GROUPS} groups (patients or lesions), but "
            f"{counts}; add images or raise the limit"
        )


def _fold(records: Sequence[Record], *, folds: int, state: int) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """The records outside and inside one of the folds (fewer folds for a tiny data set), in their original order.

    The fold is chosen at random too, since scikit-learn always assigns the largest groups to the first folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # noqa: PLC0415  takes a second to load

    labels = np.array([record.label for record in records])
    groups = np.array([record.group for record in records])
    folds = min(folds, max(len(set(groups[labels == name])) for name in set(labels)))
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=state)
    chosen = int(np.random.default_rng([state, folds]).integers(folds))
    with warnings.catch_warnings():
        # The caller checks that every class is in every part.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        outside, inside = list(splitter.split(np.zeros(len(labels)), labels, groups))[chosen]
    return tuple(records[i] for i in outside), tuple(records[i] for i in inside)


def write_split(path: Path, split: Split) -> None:
    """Write image_id, part, group, label and seed of every record as CSV, atomically."""
    rows = [
        (record.image_id, part, record.group, record.label, split.seed)
        for part in PART_NAMES
        for record in getattr(split, part)
    ]
    write_csv(path, SPLIT_COLUMNS, rows)


def read_split(path: Path, dataset: LesionDataset) -> Split:
    """Read a split written by `write_split`, with the data set's records. Raises UserError if they do not match."""
    try:
        rows = [row.cells for row in read_table(path).rows]
        part_of = {row["image_id"]: PART_NAMES.index(row["part"]) for row in rows}
        seed = int(rows[0]["seed"])
    except (UserError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a readable split; create one with: dermnote datasets split FOLDER") from error
    missing = part_of.keys() - {record.image_id for record in dataset.records}
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of its images are not in {dataset.name}; give the data set it was created from"
        )
    train, val, test = (
        tuple(record for record in dataset.records if part_of.get(record.image_id) == part)
        for part in range(len(PART_NAMES))
    )
    return Split(train, val, test, seed)
