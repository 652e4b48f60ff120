"""Converts a row of a table to a record, or reports its faults."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dermnote_contracts.metadata import LesionMetadata
from dermnote_contracts.vocabulary import UnknownTerm, is_not_given, vocabularies
from dermnote_train.data.images import ImageFolder, header_fault, without_suffix
from dermnote_train.data.labels import DIAGNOSIS_OF, GivenLabel, class_of
from dermnote_train.data.layouts import SIZE, Layout
from dermnote_train.data.records import Record
from dermnote_train.data.tables import Row, Table
from dermnote_train.errors import UserError

LIST_SEPARATOR = re.compile(r"[;|]")
SHOWN_FAULTS = 3


@dataclass(frozen=True)
class Fault:
    """An invalid cell. The message repeats file names, but no other value of a cell, since facts are personal data."""

    row: int
    column: str
    message: str

    def __str__(self) -> str:
        return f"row {self.row}, {self.column}: {self.message}"


def faults_error(table: Path, faults: Sequence[Fault]) -> UserError:
    """All faults as one error: the first few, their number, and the command that lists them all."""
    shown = "; ".join(map(str, faults[:SHOWN_FAULTS]))
    more = f"; and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
    count = "1 problem" if len(faults) == 1 else f"{len(faults)} problems"
    return UserError(f"{table}: {count}: {shown}{more}. List all: dermnote datasets check {table.parent}")


class RowReader:
    """Reads the rows of a layout. Faults are returned, never raised. `name`: the data set, prefix of its group ids."""

    def __init__(
        self,
        layout: Layout,
        folder: Path,
        *,
        columns: tuple[str, ...],
        name: str = "",
        labels: Mapping[str, GivenLabel] | None = None,
        leaky_fields: bool = False,
    ) -> None:
        self.layout = layout
        self.name = name
        self.images = ImageFolder(folder)
        self.labels = labels or {}
        self.image_column = next(name for name in layout.image if name in columns)
        self.group_columns = tuple(name for name in layout.group if name in columns)
        self.diagnosis_columns = tuple(name for name in layout.diagnoses if name in columns) or (layout.diagnosis,)
        self.facts = {**layout.facts, **(layout.leaky if leaky_fields else {})}
        self.sizes = layout.leaky_sizes if leaky_fields else ()

    def read_all(self, table: Table) -> tuple[tuple[Record, ...], tuple[Fault, ...], Mapping[str, int]]:
        """Records, faults, and the number of skipped rows by reason."""
        records: dict[str, tuple[int, Record]] = {}
        faults: list[Fault] = []
        skipped: Counter[str] = Counter()
        for row in table.rows:
            if reason := self.skip_reason(row):
                skipped[reason] += 1
                continue
            result = self.read(row)
            if isinstance(result, list):
                faults += result
            elif result.image_id in records:
                first, _ = records[result.image_id]
                faults.append(Fault(row.number, self.image_column, f"same image as row {first}; remove one"))
            else:
                records[result.image_id] = row.number, result
        return tuple(record for _, record in records.values()), tuple(faults), skipped

    def skip_reason(self, row: Row) -> str | None:
        """Why the layout skips a row (`passes_over`, `partly_labelled`); None if it is read."""
        for column, cells in self.layout.passes_over.items():
            if row.cells.get(column) in cells:
                return f"{column} is {row.cells[column]}"
        if not self.layout.partly_labelled or row.ragged:
            return None
        terms = self._diagnoses(row)
        if not terms:
            return "no diagnosis"
        return None if any(map(_is_known, terms)) else "a diagnosis that is not a known skin lesion"

    def read(self, row: Row) -> Record | list[Fault]:
        """A record, or everything that is wrong with the row."""
        if row.ragged:
            return [Fault(row.number, "row", "more or fewer cells than the header has columns; check its separators")]
        path = self._image_path(row)
        metadata = self.metadata(row)
        group = next((cell for name in self.group_columns if (cell := row.cells.get(name, ""))), "")
        faults = [*([path] if isinstance(path, Fault) else []), *(metadata if isinstance(metadata, list) else [])]
        if self.group_columns and not group and not self.layout.optional_groups:
            faults.append(
                Fault(
                    row.number, self.group_columns[0], "is empty; the data are split by it, so every row needs a value"
                )
            )
        if faults or isinstance(path, Fault) or isinstance(metadata, list) or metadata.diagnosis is None:
            return faults
        image_id = self.image_id(row)
        record = Record(image_id, path, f"{self.name}:{group or image_id}", class_of(metadata.diagnosis), metadata)
        return self._apply_labels(record, row)

    def image_id(self, row: Row) -> str:
        """The id of a row's image: its name without suffix; _ replaces all but ASCII letters, digits, _ and -."""
        return re.sub(r"[^A-Za-z0-9_-]", "_", without_suffix(Path(row.cells[self.image_column]).as_posix()))

    def metadata(self, row: Row) -> LesionMetadata | list[Fault]:
        """The facts of a row, or its faults."""
        if not self._diagnoses(row):
            return [Fault(row.number, self.layout.diagnosis, "is empty; every row needs a diagnosis")]
        try:
            return LesionMetadata.model_validate(self._facts(row))
        except ValidationError as error:
            return [self._fault(row, details) for details in error.errors()]

    def _diagnoses(self, row: Row) -> list[str]:
        """The diagnoses of a row, most specific first, with the layout's `spelled` terms replaced."""
        cells = [row.cells.get(column, "") for column in self.diagnosis_columns]
        return [self._spelled("diagnosis", cell) for cell in cells if not is_not_given(cell)]

    def _spelled(self, path: str, cell: str) -> str:
        return self.layout.spelled.get(path, {}).get(cell, cell)

    def _image_path(self, row: Row) -> Path | Fault:
        name = row.cells[self.image_column]
        path = self.images.find(name) if name else None
        if path is None:
            message = f"no file {name!r} in images/, next to the CSV or in another subfolder" if name else "is empty"
            return Fault(row.number, self.image_column, message)
        fault = header_fault(path)
        return path if fault is None else Fault(row.number, self.image_column, fault)

    def _facts(self, row: Row) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        for path, column in self.facts.items():
            *parents, name = path.split(".")
            parent = facts.setdefault(parents[0], {}) if parents else facts
            cell = self._spelled(path, row.cells.get(column, ""))
            parent[name] = LIST_SEPARATOR.split(cell) if name in ("colours", "structures") else cell
        terms = self._diagnoses(row)
        facts["diagnosis"] = next(filter(_is_known, terms), terms[0])
        if self.sizes:
            cell = row.cells.get(self._widest(row), "")
            facts[SIZE] = cell if _diameter(cell) else None
        return facts

    def _widest(self, row: Row) -> str:
        """The column of the largest diameter; an invalid one counts as the largest, so that it is reported."""
        return max(self.sizes, key=lambda column: _diameter(row.cells.get(column, "")))

    def _fault(self, row: Row, details: Any) -> Fault:
        columns = self.facts | ({SIZE: self._widest(row)} if self.sizes else {})
        known = {part for path in columns for part in path.split(".")}
        path = ".".join(str(part) for part in details["loc"] if part in known)
        return Fault(row.number, columns.get(path, path or "row"), details["msg"])

    def _apply_labels(self, record: Record, row: Row) -> Record | list[Fault]:
        """The labels file determines the group, and the class where the table's term covers two classes."""
        label = self.labels.get(record.image_path.stem)
        if label is None:
            return record
        if label.code == record.label:
            return replace(record, group=label.group)
        if record.label != "AKIEC" or label.code not in ("ACK", "SCC"):
            return [Fault(row.number, self.layout.diagnosis, f"is {record.label}, but {label.code} in the labels file")]
        metadata = record.metadata.model_copy(update={"diagnosis": DIAGNOSIS_OF[label.code]})
        return replace(record, group=label.group, label=label.code, metadata=metadata)


def _is_known(diagnosis: str) -> bool:
    try:
        return vocabularies()["diagnosis"].normalise(diagnosis) is not None
    except UnknownTerm:
        return False


def _diameter(cell: str) -> float:
    """A diameter in mm; infinite if the cell is invalid, 0 if it is empty. PAD-UFES-20 writes 0 for "not measured"."""
    try:
        size = 0.0 if is_not_given(cell) else float(cell)
    except ValueError:
        return math.inf
    return size if size >= 0 else math.inf
