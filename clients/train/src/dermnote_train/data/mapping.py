"""A folder's own columns.toml: says which column holds which fact, for any CSV that no layout fits."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dermnote_contracts.metadata import Findings, LesionMetadata, Symptoms
from dermnote_train.data.layouts import Layout, layout_of
from dermnote_train.data.tables import Table
from dermnote_train.errors import UserError

FILE = "columns.toml"
Cell = Annotated[str, Field(min_length=1)]
PATHS = (
    *(name for name in LesionMetadata.model_fields if name not in ("symptoms", "findings")),
    *(f"symptoms.{name}" for name in Symptoms.model_fields),
    *(f"findings.{name}" for name in Findings.model_fields),
)


class Columns(BaseModel):
    """What columns.toml says. `facts`: metadata path -> column; `spelled`: path -> the data's term -> ours.

    `group`: columns of patient or lesion, the first that is filled counts. `passes_over`: column -> cells whose rows
    are not read. `partly_labelled`: rows without a diagnosis, or with one that is no skin lesion's, aren't either.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Cell | None = None
    title: Cell = "CSV and image folder, mapped by columns.toml"
    licence: Cell = "as stated by its owner"
    image: Cell
    group: list[Cell] = []
    facts: dict[str, Cell]
    spelled: dict[str, dict[str, str]] = {}
    passes_over: dict[str, list[str]] = {}
    partly_labelled: bool = False

    @model_validator(mode="after")
    def _known_paths(self) -> "Columns":
        unknown = [path for path in (*self.facts, *self.spelled) if path not in PATHS]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: no such fact; there are {', '.join(PATHS)}")
        if "diagnosis" not in self.facts:
            raise ValueError("facts needs the column of the diagnosis")
        return self


def chosen_layout(folder: Path, table: Table) -> Layout:
    """The folder's columns.toml where it has one, else the layout that the header fits. Raises UserError."""
    path = folder / FILE
    if not path.is_file():
        return layout_of(table.path, table.columns)
    columns = _read(path)
    named = [columns.image, *columns.group, *columns.facts.values(), *columns.passes_over]
    if lacking := [name for name in dict.fromkeys(named) if name not in table.columns]:
        raise UserError(f"{path}: {table.path.name} has no column {', '.join(lacking)}")
    return Layout(
        name=columns.name or folder.resolve().name,
        title=columns.title,
        licence=columns.licence,
        image=(columns.image,),
        group=tuple(columns.group),
        facts=columns.facts,
        spelled=columns.spelled,
        passes_over=_sets(columns.passes_over),
        partly_labelled=columns.partly_labelled,
    )


def _read(path: Path) -> Columns:
    try:
        return Columns.model_validate(tomllib.loads(path.read_text("utf-8")))
    except ValidationError as wrong:
        error = wrong.errors()[0]
        place = ".".join(map(str, error["loc"]))
        raise UserError(f"{path}: {place + ': ' if place else ''}{error['msg']}") from wrong
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as wrong:
        raise UserError(f"{path}: no TOML that can be read ({wrong})") from wrong


def _sets(cells: Mapping[str, list[str]]) -> dict[str, frozenset[str]]:
    return {column: frozenset(values) for column, values in cells.items()}
