"""Reads a data folder (CSV and images): detects the layout, validates every row, and reports every fault."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.data.labels import PAPER5, ClassSet, find_labels, ordered_classes, read_labels
from dermnote_train.data.layouts import folder_layout, layout_of
from dermnote_train.data.presence import Presence, presences, without
from dermnote_train.data.records import LesionDataset, Record
from dermnote_train.data.rows import Fault, RowReader, faults_error
from dermnote_train.data.splits import balanced_part
from dermnote_train.data.tables import Table, folder_table, read_table
from dermnote_train.errors import UserError

DRAWN_LICENCE = "CC0-1.0"


@dataclass(frozen=True)
class Reading:
    """The content of a data folder: records of every class, and every fault."""

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
    """One per fact that was read and is filled in some rows only, including the facts that were then dropped."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Number of skipped rows by reason, for data sets that also contain unusable rows, such as undiagnosed images."""
    left_out: tuple[str, ...] = ()
    """Paths of the facts that were dropped from the records because their presence reveals the class."""


def load_dataset(
    folder: Path,
    *,
    classes: ClassSet = "paper5",
    labels: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    leaky_fields: bool = False,
) -> LesionDataset:
    """The usable records of a folder. Raises UserError with the number of faults if there are any.

    `labels`: a labels file; by default one in or next to the folder. `limit`: use at most this many records, balanced
    over the classes and drawn with `seed` in whole groups. `leaky_fields`: keep facts whose presence reveals the class,
    as listed by the layout or found by presence.py.
    """
    reading = read_folder(folder, labels=labels, leaky_fields=leaky_fields)
    if reading.faults:
        raise faults_error(reading.table, reading.faults)
    return dataset_of(reading, classes=classes, limit=limit, seed=seed)


def dataset_of(reading: Reading, *, classes: ClassSet, limit: int | None = None, seed: int = 0) -> LesionDataset:
    """The records of the selected classes. Raises UserError if there are none."""
    selected = ordered_classes({record.label for record in reading.records}, classes=classes)
    if not selected:
        raise UserError(
            f"{reading.table}: no row has one of the classes {', '.join(PAPER5)}; use --classes all for every diagnosis"
        )
    records = tuple(record for record in reading.records if record.label in selected)
    if limit is not None:
        records = balanced_part(records, limit=limit, seed=seed)
    remaining = tuple(name for name in selected if any(record.label == name for record in records))
    return LesionDataset(reading.name, records, remaining, reading.synthetic, reading.licence)


def read_folder(folder: Path, *, labels: Path | None = None, leaky_fields: bool = False) -> Reading:
    """Read and validate every row. Raises UserError if the folder has no readable table."""
    table = folder_table(folder)
    layout = folder_layout(folder, table)
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", layout.name).strip("_") or "dataset"
    labels = labels or find_labels(folder)
    given = read_labels(labels, source=name) if labels else {}
    reader = RowReader(layout, folder, columns=table.columns, name=name, labels=given, leaky_fields=leaky_fields)
    records, faults, skipped = reader.read_all(table)
    found = presences(records)
    revealing = () if leaky_fields else tuple(one.path for one in found if one.reveals_class)
    known = () if leaky_fields else layout.leaky_paths(table.columns)
    synthetic = _is_synthetic(table)
    used = {*layout.facts.values(), *layout.image, *layout.group, *layout.diagnoses, *layout.passes_over, "synthetic"}
    return Reading(
        name=name,
        title="drawn by a program" if synthetic else layout.title,
        licence=DRAWN_LICENCE if synthetic else layout.licence,
        table=table.path,
        records=without(records, revealing),
        faults=faults,
        synthetic=synthetic,
        group_column=" or ".join(reader.group_columns) or None,
        labels=labels if given else None,
        unused_columns=tuple(column for column in table.columns if column not in used),
        presences=found,
        skipped=skipped,
        left_out=tuple(sorted({*revealing, *known})),
    )


def matching_images(folder: Path, *, where: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Ids of the images whose rows match every condition of `where` (column -> accepted cells). Raises UserError."""
    table = folder_table(folder)
    if unknown := sorted(set(where) - set(table.columns)):
        raise UserError(f"{table.path}: no column {', '.join(unknown)}; it has {', '.join(table.columns)}")
    reader = RowReader(folder_layout(folder, table), folder, columns=table.columns)
    return frozenset(
        reader.image_id(row)
        for row in table.rows
        if all(row.cells.get(column) in cells for column, cells in where.items())
    )


def read_metadata(path: Path, *, leaky_fields: bool = False) -> tuple[LesionMetadata, ...]:
    """The facts of every row of a table, without its images. Raises UserError with the number of faults."""
    table = read_table(path)
    layout = layout_of(table.path, table.columns)
    reader = RowReader(layout, path.parent, columns=table.columns, leaky_fields=leaky_fields)
    results = [reader.metadata(row) for row in table.rows if reader.skip_reason(row) is None]
    if faults := [fault for faults in results if isinstance(faults, list) for fault in faults]:
        raise faults_error(table.path, faults)
    return tuple(metadata for metadata in results if isinstance(metadata, LesionMetadata))


def _is_synthetic(table: Table) -> bool:
    flags = {row.cells.get("synthetic", "").lower() in ("true", "yes", "1") for row in table.rows}
    if len(flags) > 1:
        raise UserError(f"{table.path}: column synthetic is true in some rows only; keep drawn and real images apart")
    return flags == {True}
