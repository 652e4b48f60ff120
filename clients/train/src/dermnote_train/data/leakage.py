"""Leakage report: everything that would inflate a model's results on a data set."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dermnote_train.data.duplicates import DuplicatePair, find_duplicates, fingerprints
from dermnote_train.data.presence import Presence
from dermnote_train.data.records import LesionDataset, Record, Split
from dermnote_train.data.splits import PART_NAMES
from dermnote_train.files import write_text
from dermnote_train.progress import Report, silent


@dataclass(frozen=True)
class Leakage:
    """Leakage of a data set.

    `duplicates`: pairs of near-duplicate images in the data set; `duplicates_across`: the pairs whose images are in
    different parts of the split; `duplicates_with_other`: pairs of an image of this data set and one of the other data
    set; `groups_across`: groups in more than one part of the split.
    """

    presences: tuple[Presence, ...]
    duplicates: tuple[DuplicatePair, ...]
    groups_across: tuple[str, ...]
    duplicates_across: tuple[DuplicatePair, ...]
    duplicates_with_other: tuple[DuplicatePair, ...]

    @property
    def crosses(self) -> bool:
        """Whether a group or an image is in two parts of the split, or an image is in both data sets."""
        return bool(self.groups_across or self.duplicates_across or self.duplicates_with_other)


def find_leakage(
    presences: tuple[Presence, ...],
    records: Sequence[Record],
    *,
    split: Split | None = None,
    other: LesionDataset | None = None,
    progress: Report = silent,
) -> Leakage:
    """Compare all images of `records` with each other and with those of another data set."""
    images = fingerprints(records, progress=progress)
    duplicates = find_duplicates(images)
    part_of = {} if split is None else {r.image_id: name for name in PART_NAMES for r in getattr(split, name)}
    return Leakage(
        presences=presences,
        duplicates=duplicates,
        groups_across=_groups_across(records, part_of),
        duplicates_across=tuple(
            pair
            for pair in duplicates
            if len({part_of.get(pair.first.image_id), part_of.get(pair.second.image_id)} - {None}) > 1
        ),
        duplicates_with_other=()
        if other is None
        else find_duplicates(images, fingerprints(other.records, progress=progress)),
    )


def _groups_across(records: Sequence[Record], part_of: Mapping[str, str]) -> tuple[str, ...]:
    parts: defaultdict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.image_id in part_of:
            parts[record.group].add(part_of[record.image_id])
    return tuple(sorted(group for group, names in parts.items() if len(names) > 1))


def write_leakage(path: Path, leakage: Leakage) -> None:
    """Write the report as JSON, atomically."""
    report = {
        "presences": [asdict(one) for one in leakage.presences],
        "groups_across": leakage.groups_across,
        "twins": [_pair(pair) for pair in leakage.duplicates],
        "twins_across": [_pair(pair) for pair in leakage.duplicates_across],
        "twins_with_other": [_pair(pair) for pair in leakage.duplicates_with_other],
    }
    write_text(path, json.dumps(report, indent=2) + "\n")


def _pair(pair: DuplicatePair) -> dict[str, Any]:
    first, second = (
        {"image_id": one.image_id, "group": one.group, "label": one.label} for one in (pair.first, pair.second)
    )
    correlation = round(pair.correlation, 4)
    return {"first": first, "second": second, "bits": pair.bits, "correlation": correlation, "turned": pair.turned}
