"""Finds and reads the CSV of a data folder."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dermnote_train.errors import UserError

FIRST_ROW = 2  # the header is row 1, as in a spreadsheet
ONE_HOT_DIAGNOSIS = "diagnosis (ground truth)"
"""Column of a joined table: the class whose value is 1 in the ground truth of an ISIC challenge."""


@dataclass(frozen=True)
class Row:
    """A row: its number in the file and its cells by column, stripped. `ragged`: the number of cells is wrong."""

    number: int
    cells: Mapping[str, str]
    ragged: bool


@dataclass(frozen=True)
class Table:
    """A CSV in memory, without blank rows."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def find_table(folder: Path) -> Path:
    """`metadata.csv`, or `meta/meta.csv` (Derm7pt), or the only CSV of the folder. Raises UserError."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a folder with metadata.csv and images/")
    for name in ("metadata.csv", "meta/meta.csv"):
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for path in folder.glob("*.csv") if not path.name.startswith("labels"))
    if len(found) == 1:
        return found[0]
    if not any(folder.iterdir()):
        raise UserError(f"{folder}: the folder is empty; it needs metadata.csv and images/")
    if not found:
        raise UserError(f"{folder}: contains no CSV; it needs metadata.csv with a column image, and images/")
    names = ", ".join(path.name for path in found[:4])
    raise UserError(f"{folder}: {len(found)} CSV files ({names}); rename the right one to metadata.csv")


def folder_table(folder: Path) -> Table:
    """The table of a folder; metadata and one-hot ground truth of an ISIC challenge are joined. Raises UserError."""
    truths = sorted(folder.glob("*GroundTruth.csv")) if folder.is_dir() else []
    metadata = sorted(folder.glob("*Metadata.csv")) if truths else []
    if len(truths) == len(metadata) == 1 and not (folder / "metadata.csv").is_file():
        return _join(read_table(metadata[0]), read_table(truths[0]))
    return read_table(find_table(folder))


def _join(metadata: Table, truth: Table) -> Table:
    """The metadata with a column for the class, empty for an image without ground truth."""
    if "image" not in metadata.columns or "image" not in truth.columns:
        raise UserError(f"{metadata.path}: cannot be joined with {truth.path.name}; both need a column image")
    classes = {row.cells.get("image", ""): _one_hot_class(truth, row) for row in truth.rows}
    rows = tuple(
        replace(row, cells={**row.cells, ONE_HOT_DIAGNOSIS: classes.get(row.cells.get("image", ""), "")})
        for row in metadata.rows
    )
    return Table(metadata.path, (*metadata.columns, ONE_HOT_DIAGNOSIS), rows)


def _one_hot_class(truth: Table, row: Row) -> str:
    """The class with value 1; empty for UNK."""
    hot = [name for name, cell in row.cells.items() if name != "image" and cell in ("1", "1.0")]
    if len(hot) != 1 or row.ragged:
        raise UserError(f"{truth.path}: row {row.number}: one class must be 1 and the others 0")
    return "" if hot[0] == "UNK" else hot[0]


def read_table(path: Path) -> Table:
    """Read a CSV with a header, separated by commas, semicolons or tabs. Raises UserError."""
    try:
        text = path.read_text("utf-8-sig")
        delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its path and permissions") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path}: not a valid CSV ({error}); save it as CSV again") from error
    columns = tuple(name.strip() for name in lines[0]) if lines else ()
    rows = tuple(
        Row(
            number=number,
            cells={name: cell.strip() for name, cell in zip(columns, line, strict=False)},
            ragged=len(line) != len(columns),
        )
        for number, line in enumerate(lines[1:], FIRST_ROW)
        if any(cell.strip() for cell in line)
    )
    if not rows:
        raise UserError(f"{path}: no rows; it needs a header and one row per image")
    if duplicates := sorted({name for name in columns if name and columns.count(name) > 1}):
        raise UserError(f"{path}: duplicate column {', '.join(duplicates)} in the header; rename one")
    return Table(path, columns, rows)
