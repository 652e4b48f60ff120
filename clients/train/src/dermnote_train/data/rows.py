"""One row of a table as a record: its image, group, class and facts, or what is wrong with it."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dermnote_contracts.metadata import LesionMetadata
from dermnote_contracts.vocabulary import UnknownTerm, is_not_given, vocabularies
from dermnote_train.data.faults import Fault
from dermnote_train.data.images import ImageFolder, header_fault, without_suffix
from dermnote_train.data.labels import DIAGNOSIS_OF, GivenLabel, class_of
from dermnote_train.data.layouts import SIZE, Layout
from dermnote_train.data.records import Record
from dermnote_train.data.tables import Row, Table

LIST_BREAK = re.compile(r"[;|]")


class RowReader:
    """Reads rows of one layout; faults are collected, never raised."""

    def __init__(
        self,
        layout: Layout,
        *,
        name: str,
        columns: tuple[str, ...],
        images: ImageFolder,
        labels: Mapping[str, GivenLabel],
        leaky_fields: bool,
    ) -> None:
        self.name = name
        self.images = images
        self.labels = labels
        self.image_column = next(name for name in layout.image if name in columns)
        self.group_columns = tuple(name for name in layout.group if name in columns)
        self.diagnoses = tuple(name for name in layout.diagnoses if name in columns) or (layout.diagnosis,)
        self.layout = layout
        self.facts = {**layout.facts, **(layout.leaky if leaky_fields else {})}
        self.sizes = layout.leaky_sizes if leaky_fields else ()
        self.diagnosis = layout.diagnosis

    def read_all(self, table: Table) -> tuple[tuple[Record, ...], tuple[Fault, ...], Mapping[str, int]]:
        records: dict[str, Record] = {}
        first: dict[str, int] = {}
        faults: list[Fault] = []
        passed_over: Counter[str] = Counter()
        for row in table.rows:
            if why := self.passes_over(row):
                passed_over[why] += 1
                continue
            found = self.read(row)
            if isinstance(found, Record) and found.image_id in first:
                found = [Fault(row.number, self.image_column, f"same image as row {first[found.image_id]}; remove one")]
            if isinstance(found, Record):
                records[found.image_id] = found
                first[found.image_id] = row.number
            else:
                faults += found
        return tuple(records.values()), tuple(faults), passed_over

    def passes_over(self, row: Row) -> str | None:
        """Why a row of a data set that has more than labelled lesions is not read; None if it is."""
        for column, cells in self.layout.passes_over.items():
            if row.cells.get(column) in cells:
                return f"{column} is {row.cells[column]}"
        if not self.layout.partly_labelled or row.ragged:
            return None
        terms = self._terms(row)
        if not terms:
            return "no diagnosis"
        return None if any(map(_known, terms)) else "a diagnosis that is no skin lesion known here"

    def _terms(self, row: Row) -> list[str]:
        """A row's diagnoses in the vocabulary's spelling, the most exact first."""
        cells = [row.cells.get(column, "") for column in self.diagnoses]
        return [self._spelled("diagnosis", cell) for cell in cells if not is_not_given(cell)]

    def _spelled(self, path: str, cell: str) -> str:
        return self.layout.spelled.get(path, {}).get(cell, cell)

    def read(self, row: Row) -> Record | list[Fault]:
        if row.ragged:
            return [Fault(row.number, "row", "more or fewer cells than the header has columns; check its separators")]
        path = self._image(row)
        metadata = self.metadata(row)
        group = next((cell for name in self.group_columns if (cell := row.cells.get(name, ""))), "")
        faults = [*([path] if isinstance(path, Fault) else []), *(metadata if isinstance(metadata, list) else [])]
        if self.group_columns and not group and not self.layout.loose_groups:
            faults.append(Fault(row.number, self.group_columns[0], "is empty; splits go by it, so every row needs one"))
        if faults or isinstance(path, Fault) or isinstance(metadata, list) or metadata.diagnosis is None:
            return faults
        image_id = self.image_id(row)
        record = Record(image_id, path, f"{self.name}:{group or image_id}", class_of(metadata.diagnosis), metadata)
        return self._labelled(record, row)

    def image_id(self, row: Row) -> str:
        """The id of a row's picture: the name in its cell, without what a file name may not hold."""
        return re.sub(r"[^A-Za-z0-9_-]", "_", without_suffix(Path(row.cells[self.image_column]).as_posix()))

    def _image(self, row: Row) -> Path | Fault:
        name = row.cells[self.image_column]
        path = self.images.find(name) if name else None
        if path is None:
            return Fault(
                row.number, self.image_column, f"no file {name!r} in images/ or beside the CSV" if name else "is empty"
            )
        fault = header_fault(path)
        return path if fault is None else Fault(row.number, self.image_column, fault)

    def metadata(self, row: Row) -> LesionMetadata | list[Fault]:
        if not self._terms(row):
            return [Fault(row.number, self.diagnosis, "is empty; every row needs a diagnosis")]
        try:
            return LesionMetadata.model_validate(self._facts(row))
        except ValidationError as wrong:
            return [self._fault(row, error) for error in wrong.errors()]

    def _facts(self, row: Row) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        for path, column in self.facts.items():
            *parents, name = path.split(".")
            place = facts.setdefault(parents[0], {}) if parents else facts
            cell = self._spelled(path, row.cells.get(column, ""))
            place[name] = LIST_BREAK.split(cell) if name in ("colours", "structures") else cell
        terms = self._terms(row)
        facts["diagnosis"] = next(filter(_known, terms), terms[0])
        if self.sizes:
            cell = row.cells.get(self._widest(row), "")
            facts[SIZE] = cell if _diameter(cell) else None
        return facts

    def _widest(self, row: Row) -> str:
        """The column of the largest diameter; one that can't be a diameter comes first, to be refused."""
        return max(self.sizes, key=lambda column: _diameter(row.cells.get(column, "")))

    def _fault(self, row: Row, error: Any) -> Fault:
        columns = self.facts | ({SIZE: self._widest(row)} if self.sizes else {})
        known = {part for path in columns for part in path.split(".")}
        path = ".".join(str(part) for part in error["loc"] if part in known)
        return Fault(row.number, columns.get(path, path or "row"), error["msg"])

    def _labelled(self, record: Record, row: Row) -> Record | list[Fault]:
        """The labels file decides the group, and the class where the table's own term spans two classes."""
        label = self.labels.get(record.image_path.stem)
        if label is None or (label.code == record.label and label.group == record.group):
            return record
        if label.code == record.label:
            return replace(record, group=label.group)
        if record.label != "AKIEC" or label.code not in ("ACK", "SCC"):
            return [Fault(row.number, self.diagnosis, f"is {record.label}, but the labels file says {label.code}")]
        diagnosis = record.metadata.model_copy(update={"diagnosis": DIAGNOSIS_OF[label.code]})
        return replace(record, group=label.group, label=label.code, metadata=diagnosis)


def _known(diagnosis: str) -> bool:
    try:
        return vocabularies()["diagnosis"].normalise(diagnosis) is not None
    except UnknownTerm:
        return False


def _diameter(cell: str) -> float:
    """In mm; infinite if it is none. Not measured is 0, as PAD-UFES-20 writes it."""
    try:
        size = 0.0 if is_not_given(cell) else float(cell)
    except ValueError:
        return math.inf
    return size if size >= 0 else math.inf
