"""Splitting by group and class: values in, values out."""

import csv
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from dermnote_train.data.records import LesionDataset, Record, Split
from dermnote_train.errors import UserError
from dermnote_train.files import replacing

PARTS = 5  # one fold is the test part, one the validation part: 60/20/20
TRIES = 50
FEWEST_GROUPS = 3
PART_NAMES = ("train", "val", "test")
SPLIT_COLUMNS = ("image_id", "part", "group", "label", "seed")


def split_dataset(dataset: LesionDataset, *, seed: int = 0) -> Split:
    """60/20/20 by whole groups, every class in every part, the same for the same seed. Raises UserError."""
    _check_groups(dataset)
    for attempt in range(TRIES):
        try:
            split = _attempt(dataset.records, seed=seed, state=(seed + 1009 * attempt) % 2**32)
        except ValueError:  # scikit-learn's: what the test part left has no class of two groups
            continue
        if all(
            {record.label for record in part} == set(dataset.classes) for part in (split.train, split.val, split.test)
        ):
            return split
    raise UserError(
        f"{dataset.name}: its groups (patients or lesions) are too few to put every class into the training, "
        "validation and test part; add images of the rarest class or take fewer classes"
    )


def _check_groups(dataset: LesionDataset) -> None:
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for record in dataset.records:
        groups[record.label].add(record.group)
    if len(dataset.classes) < 2:
        raise UserError(f"{dataset.name}: only the class {', '.join(dataset.classes)}; two or more are needed")
    few = {name: len(groups[name]) for name in dataset.classes if len(groups[name]) < FEWEST_GROUPS}
    if few:
        counts = ", ".join(f"{name} has {count}" for name, count in few.items())
        raise UserError(
            f"{dataset.name}: too small to split: every class needs {FEWEST_GROUPS} groups (patients or lesions), but "
            f"{counts}; add images or raise the limit"
        )


def _attempt(records: Sequence[Record], *, seed: int, state: int) -> Split:
    rest, test = _fold(records, parts=PARTS, state=state)
    train, val = _fold(rest, parts=PARTS - 1, state=state)
    return Split(train, val, test, seed)


def _fold(records: Sequence[Record], *, parts: int, state: int) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """The records outside and inside one of `parts` folds (fewer for a tiny set), each in the given order.

    Which fold is drawn as well: the largest groups are dealt out first, and always to the first folds.
    """
    labels = np.array([record.label for record in records])
    groups = np.array([record.group for record in records])
    parts = min(parts, max(len(set(groups[labels == name])) for name in set(labels)))
    folds = StratifiedGroupKFold(n_splits=parts, shuffle=True, random_state=state)
    chosen = int(np.random.default_rng([state, parts]).integers(parts))
    with warnings.catch_warnings():
        # A class smaller than the number of folds is checked for by the caller, part by part.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        outside, inside = list(folds.split(np.zeros(len(labels)), labels, groups))[chosen]
    return tuple(records[i] for i in outside), tuple(records[i] for i in inside)


def write_split(path: Path, split: Split) -> None:
    """Write image_id, part, group and label of every record as CSV, whole or not at all."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(SPLIT_COLUMNS)
        for part in PART_NAMES:
            writer.writerows(
                (record.image_id, part, record.group, record.label, split.seed) for record in getattr(split, part)
            )


def read_split(path: Path, dataset: LesionDataset) -> Split:
    """The split that `write_split` wrote, with the data set's records. Raises UserError if the two do not fit."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        part_of = {row["image_id"]: PART_NAMES.index(row["part"]) for row in rows}
        seed = int(rows[0]["seed"])
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, IndexError, ValueError) as wrong:
        raise UserError(f"{path}: no split that can be read; make one with: dermnote datasets split FOLDER") from wrong
    lacking = part_of.keys() - {record.image_id for record in dataset.records}
    if lacking:
        raise UserError(
            f"{path}: {len(lacking)} of its images are not in {dataset.name}; give the data it was made from"
        )
    train, val, test = (
        tuple(record for record in dataset.records if part_of.get(record.image_id) == part)
        for part in range(len(PART_NAMES))
    )
    return Split(train, val, test, seed)
