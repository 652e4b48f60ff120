"""A data folder (CSV and images) as records: detects the layout, validates every row, names every fault."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.data.faults import Fault, faults_error
from dermnote_train.data.images import ImageFolder
from dermnote_train.data.labels import (
    PAPER5,
    ClassSet,
    find_labels,
    ordered_classes,
    read_labels,
)
from dermnote_train.data.layouts import layout_of
from dermnote_train.data.mapping import chosen_layout
from dermnote_train.data.presence import Presence, presences, without
from dermnote_train.data.records import LesionDataset, Record
from dermnote_train.data.rows import RowReader
from dermnote_train.data.selection import balanced_part
from dermnote_train.data.tables import Table, folder_table, read_table
from dermnote_train.errors import UserError

DRAWN_LICENCE = "CC0-1.0"


@dataclass(frozen=True)
class Reading:
    """All that a data folder says: records of every class, and every fault."""

    name: str
    title: str
    licence: str
    table: Path
    records: tuple[Record, ...]
    faults: tuple[Fault, ...]
    synthetic: bool
    group_column: str | None
    labels: Path | None
    unused_columns: tuple[str, ...]
    presences: tuple[Presence, ...] = ()
    """Of the facts that some records have and some have not, before any was left out."""
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """Rows that were not read, by the reason: of a data set that has more than lesions with a diagnosis."""
    left_out: tuple[str, ...] = ()
    """Facts, by their path, that the records don't have because being filled tells the class."""


def load_dataset(
    folder: Path,
    *,
    classes: ClassSet = "paper5",
    labels: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    leaky_fields: bool = False,
) -> LesionDataset:
    """The usable records of a folder. Any fault in any row is a UserError that counts them all.

    `labels`: a labels file; one found in or beside the folder is taken by default. `limit`: a part balanced over
    the classes, drawn with `seed` by whole groups. `leaky_fields`: keep facts whose presence tells the class, which are
    those that the layout knows of and those that presence.py finds.
    """
    reading = read_folder(folder, labels=labels, leaky_fields=leaky_fields)
    if reading.faults:
        raise faults_error(reading.table, reading.faults)
    return dataset_of(reading, classes=classes, limit=limit, seed=seed)


def dataset_of(reading: Reading, *, classes: ClassSet, limit: int | None = None, seed: int = 0) -> LesionDataset:
    """The records of the wanted classes. Raises UserError when none are left."""
    found = ordered_classes({record.label for record in reading.records}, classes=classes)
    if not found:
        raise UserError(
            f"{reading.table}: no row is of the classes {', '.join(PAPER5)}; use --classes all for every diagnosis"
        )
    records = tuple(record for record in reading.records if record.label in found)
    if limit is not None:
        records = balanced_part(records, limit=limit, seed=seed)
    kept = tuple(name for name in found if any(record.label == name for record in records))
    return LesionDataset(reading.name, records, kept, reading.synthetic, reading.licence)


def read_folder(folder: Path, *, labels: Path | None = None, leaky_fields: bool = False) -> Reading:
    """Read and validate every row. Raises UserError where there is nothing to read rows from."""
    table = folder_table(folder)
    layout = chosen_layout(folder, table)
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", layout.name).strip("_") or "dataset"
    labels = labels or find_labels(folder)
    given = read_labels(labels, source=name) if labels else {}
    reader = RowReader(
        layout, name=name, columns=table.columns, images=ImageFolder(folder), labels=given, leaky_fields=leaky_fields
    )
    records, faults, passed_over = reader.read_all(table)
    found = presences(records)
    left_out = () if leaky_fields else tuple(one.path for one in found if one.tells)
    synthetic = _says_synthetic(table)
    used = {*layout.facts.values(), *layout.image, *layout.group, *layout.diagnoses, *layout.passes_over, "synthetic"}
    return Reading(
        name=name,
        title="drawn by a program" if synthetic else layout.title,
        licence=DRAWN_LICENCE if synthetic else layout.licence,
        table=table.path,
        records=without(records, left_out),
        faults=faults,
        synthetic=synthetic,
        group_column=" or ".join(reader.group_columns) or None,
        labels=labels if given else None,
        unused_columns=tuple(column for column in table.columns if column not in used),
        presences=found,
        passed_over=passed_over,
        left_out=() if leaky_fields else tuple(sorted({*left_out, *layout.leaky_paths(table.columns)})),
    )


def matching_images(folder: Path, *, where: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """The ids of the pictures whose rows have one of the given cells in each given column. Raises UserError."""
    table = folder_table(folder)
    if unknown := sorted(set(where) - set(table.columns)):
        raise UserError(f"{table.path}: no column {', '.join(unknown)}; it has {', '.join(table.columns)}")
    layout = chosen_layout(folder, table)
    reader = RowReader(
        layout, name=layout.name, columns=table.columns, images=ImageFolder(folder), labels={}, leaky_fields=False
    )
    return frozenset(
        reader.image_id(row)
        for row in table.rows
        if all(row.cells.get(column) in cells for column, cells in where.items())
    )


def read_metadata(path: Path, *, leaky_fields: bool = False) -> tuple[LesionMetadata, ...]:
    """The facts of every row of a table, without its images. Raises UserError that counts the faulty rows."""
    table = read_table(path)
    layout = layout_of(table.path, table.columns)
    reader = RowReader(
        layout,
        name=layout.name,
        columns=table.columns,
        images=ImageFolder(path.parent),
        labels={},
        leaky_fields=leaky_fields,
    )
    read = [reader.metadata(row) for row in table.rows if reader.passes_over(row) is None]
    if faults := [fault for faulty in read if isinstance(faulty, list) for fault in faulty]:
        raise faults_error(table.path, faults)
    return tuple(metadata for metadata in read if isinstance(metadata, LesionMetadata))


def _says_synthetic(table: Table) -> bool:
    cells = Counter(row.cells.get("synthetic", "").lower() in ("true", "yes", "1") for row in table.rows)
    if len(cells) > 1:
        raise UserError(f"{table.path}: column synthetic is true in some rows only; keep drawn and real images apart")
    return cells[True] > 0
