"""The leakage report: everything that would let a model look better than it is on this data."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dermnote_train.data.presence import Presence
from dermnote_train.data.records import LesionDataset, Record, Split
from dermnote_train.data.splits import PART_NAMES
from dermnote_train.data.twins import Twins, looks, twins
from dermnote_train.files import replacing
from dermnote_train.progress import Report, silent


@dataclass(frozen=True)
class Leaks:
    """What was found.

    `twins`: near-duplicate pictures of the data set, `twins_across`: those of them in two parts of the split,
    `twins_with_other`: with the other data set; `groups_across`: groups in two parts of the split.
    """

    presences: tuple[Presence, ...]
    twins: tuple[Twins, ...]
    groups_across: tuple[str, ...]
    twins_across: tuple[Twins, ...]
    twins_with_other: tuple[Twins, ...]

    @property
    def crossed(self) -> bool:
        """Whether what is tested on is known from training."""
        return bool(self.groups_across or self.twins_across or self.twins_with_other)


def find_leaks(
    presences: tuple[Presence, ...],
    records: Sequence[Record],
    *,
    split: Split | None = None,
    other: LesionDataset | None = None,
    progress: Report = silent,
) -> Leaks:
    """Compare all pictures of `records` with each other, and with those of another data set."""
    seen = looks(records, progress=progress)
    found = twins(seen)
    parts = {} if split is None else _parts(split)
    return Leaks(
        presences=presences,
        twins=found,
        groups_across=_groups_across(records, parts),
        twins_across=tuple(
            pair
            for pair in found
            if len({parts.get(pair.first.image_id), parts.get(pair.second.image_id)} - {None}) > 1
        ),
        twins_with_other=() if other is None else twins(seen, looks(other.records, progress=progress)),
    )


def _parts(split: Split) -> Mapping[str, str]:
    return {record.image_id: name for name in PART_NAMES for record in getattr(split, name)}


def _groups_across(records: Sequence[Record], parts: Mapping[str, str]) -> tuple[str, ...]:
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.image_id in parts:
            seen[record.group].add(parts[record.image_id])
    return tuple(sorted(group for group, names in seen.items() if len(names) > 1))


def write_leaks(path: Path, leaks: Leaks) -> None:
    """As JSON, whole or not at all."""
    facts = {
        "presences": [asdict(one) for one in leaks.presences],
        "groups_across": leaks.groups_across,
    } | {name: [_pair(pair) for pair in getattr(leaks, name)] for name in ("twins", "twins_across", "twins_with_other")}
    with replacing(path) as partial:
        partial.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _pair(pair: Twins) -> dict[str, Any]:
    return {
        "first": {"image_id": pair.first.image_id, "group": pair.first.group, "label": pair.first.label},
        "second": {"image_id": pair.second.image_id, "group": pair.second.group, "label": pair.second.label},
        "bits": pair.bits,
        "correlation": round(pair.correlation, 4),
        "turned": pair.turned,
    }
