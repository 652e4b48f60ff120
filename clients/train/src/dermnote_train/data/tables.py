"""A data folder's CSV: which file it is, its header, its rows. Knows nothing of lesions."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dermnote_train.errors import UserError

FIRST_ROW = 2  # the header is row 1, as a spreadsheet counts
ONE_HOT_DIAGNOSIS = "diagnosis (ground truth)"
"""Column of a joined table: the class that an ISIC challenge's ground truth has at 1."""


@dataclass(frozen=True)
class Row:
    """One row: its number in the file and its cells by column, stripped. `ragged`: more or fewer cells than columns."""

    number: int
    cells: Mapping[str, str]
    ragged: bool


@dataclass(frozen=True)
class Table:
    """A CSV in memory, without its blank rows."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def find_table(folder: Path) -> Path:
    """`metadata.csv`, or Derm7pt's `meta/meta.csv`, or the only CSV of the folder. Raises UserError."""
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
        raise UserError(f"{folder}: no CSV here; it needs metadata.csv with a column image, and images/")
    names = ", ".join(path.name for path in found[:4])
    raise UserError(f"{folder}: {len(found)} CSV files ({names}); name the right one metadata.csv")


def folder_table(folder: Path) -> Table:
    """The table of a folder. An ISIC challenge's metadata and its one-hot ground truth beside it are joined.

    Raises UserError.
    """
    truths = sorted(folder.glob("*GroundTruth.csv")) if folder.is_dir() else []
    metadata = sorted(folder.glob("*Metadata.csv")) if truths else []
    if len(truths) == len(metadata) == 1 and not (folder / "metadata.csv").is_file():
        return _joined(read_table(metadata[0]), read_table(truths[0]))
    return read_table(find_table(folder))


def _joined(metadata: Table, truth: Table) -> Table:
    """The metadata with a column for the class; an image that is not in the truth has an empty cell there."""
    if "image" not in metadata.columns or "image" not in truth.columns:
        raise UserError(f"{metadata.path}: it and {truth.path.name} need a column image, by which they are joined")
    classes = {row.cells.get("image", ""): _hot(truth, row) for row in truth.rows}
    rows = tuple(
        replace(row, cells={**row.cells, ONE_HOT_DIAGNOSIS: classes.get(row.cells.get("image", ""), "")})
        for row in metadata.rows
    )
    return Table(metadata.path, (*metadata.columns, ONE_HOT_DIAGNOSIS), rows)


def _hot(truth: Table, row: Row) -> str:
    """The class at 1; nothing where that is UNK."""
    hot = [name for name, cell in row.cells.items() if name != "image" and cell in ("1", "1.0")]
    if len(hot) != 1 or row.ragged:
        raise UserError(f"{truth.path}: row {row.number}: one class must be 1 and the others 0")
    return "" if hot[0] == "UNK" else hot[0]


def read_table(path: Path) -> Table:
    """Read a CSV with a header, comma, semicolon or tab between cells. Raises UserError."""
    try:
        text = path.read_text("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True))
    except OSError as wrong:
        raise UserError(f"{path}: cannot be read ({wrong.strerror}); check its path and permissions") from wrong
    except UnicodeDecodeError as wrong:
        raise UserError(f"{path}: not UTF-8 text (byte {wrong.start}); save it as CSV in UTF-8") from wrong
    except csv.Error as wrong:
        raise UserError(f"{path}: not a CSV that can be read ({wrong}); save it again as CSV") from wrong
    columns = tuple(name.strip() for name in lines[0]) if lines else ()
    rows = _rows(columns, lines[1:])
    if not rows:
        raise UserError(f"{path}: no rows; it needs a header and one row an image")
    _check_header(path, columns)
    return Table(path, columns, rows)


def _rows(columns: tuple[str, ...], lines: Sequence[Sequence[str]]) -> tuple[Row, ...]:
    return tuple(
        Row(
            number=number,
            cells={name: cell.strip() for name, cell in zip(columns, line, strict=False)},
            ragged=len(line) != len(columns),
        )
        for number, line in enumerate(lines, FIRST_ROW)
        if any(cell.strip() for cell in line)
    )


def _delimiter(text: str) -> str:
    header = text.split("\n", 1)[0]
    return max(",;\t", key=header.count)


def _check_header(path: Path, columns: tuple[str, ...]) -> None:
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise UserError(f"{path}: column {', '.join(twice)} stands twice in the header; rename one")
