"""Findings of a whole data set as a CSV: measured in several processes, read back into the records' metadata."""

import csv
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from PIL import Image, ImageOps
from pydantic import ValidationError

from dermnote_contracts.metadata import Findings
from dermnote_train.data.records import Record
from dermnote_train.errors import UserError
from dermnote_train.files import replacing
from dermnote_train.findings.area import NoLesion, find_lesion
from dermnote_train.findings.measures import COLOURS, Measures, measure_lesion
from dermnote_train.progress import Report, Step, silent

STAGE = "measure lesions"
COLUMNS = (
    "image_id",
    "asymmetry",
    "border",
    "colours",
    "why_not",
    "area_share",
    "shape_asymmetry",
    "colour_asymmetry",
    "sharp_sectors",
    *(f"share_{name.replace(' ', '_').replace('-', '_')}" for name in COLOURS),
)
BREAK = ";"


@dataclass(frozen=True)
class Measured:
    """One picture's findings. `why_not`: why there are none; then `measures` is None and `findings` is empty."""

    image_id: str
    findings: Findings
    why_not: str | None = None
    measures: Measures | None = None


def measure_picture(picture: Image.Image, *, image_id: str) -> Measured:
    """The findings of one picture, RGB."""
    try:
        measures = measure_lesion(find_lesion(picture))
    except NoLesion as why:
        return Measured(image_id, Findings(), str(why))
    return Measured(image_id, measures.findings(), None, measures)


def measure_dataset(records: Sequence[Record], *, progress: Report = silent) -> tuple[Measured, ...]:
    """The findings of every record, in their order. The pictures have been decoded once before (refuse_undecodable)."""
    workers = min(len(os.sched_getaffinity(0)), len(records))
    # Not forked: a fork copies the locks of the libraries' threads as they stand.
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
        measured = []
        for one in pool.map(_measure_file, [(r.image_path, r.image_id) for r in records], chunksize=8):
            measured.append(one)
            progress(Step(STAGE, len(measured), len(records)))
    return tuple(measured)


def _measure_file(file: tuple[Path, str]) -> Measured:
    path, image_id = file
    with Image.open(path) as picture:
        return measure_picture(ImageOps.exif_transpose(picture), image_id=image_id)


def write_findings(path: Path, measured: Sequence[Measured]) -> None:
    """Write the CSV, whole or not at all."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(map(_cells, measured))


def _cells(one: Measured) -> Iterator[object]:
    said, found = one.findings, one.measures
    yield from (one.image_id, said.asymmetry, said.border, BREAK.join(said.colours or []), one.why_not)
    if found is not None:
        figures = (found.area, found.shape, found.colour, found.sharp_sectors, *found.colours.values())
        yield from (round(value, 4) if isinstance(value, float) else value for value in figures)


def with_findings(records: Sequence[Record], path: Path) -> tuple[Record, ...]:
    """The records with what was measured in their metadata; findings that came with the data stay as they are.

    Raises UserError for a file that can't be read, and for records that it lacks.
    """
    measured = _read(path)
    lacking = [record.image_id for record in records if record.image_id not in measured]
    if lacking:
        raise UserError(
            f"{path}: no findings for {len(lacking)} images (first {lacking[0]}); run dermnote findings on the same "
            "folder again"
        )
    return tuple(_joined(record, measured[record.image_id]) for record in records)


def _joined(record: Record, measured: Findings) -> Record:
    findings = measured.model_copy(update=record.metadata.findings.given())
    return replace(record, metadata=record.metadata.model_copy(update={"findings": findings}))


def _read(path: Path) -> dict[str, Findings]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {
                row["image_id"]: Findings(
                    asymmetry=row["asymmetry"],
                    border=row["border"],
                    colours=row["colours"].split(BREAK) if row["colours"] else None,
                )
                for row in csv.DictReader(file)
            }
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, AttributeError, ValidationError) as wrong:
        raise UserError(f"{path}: no findings that can be read; make them with: dermnote findings FOLDER") from wrong
