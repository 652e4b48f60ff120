"""Findings of a data set: measured in parallel, stored as CSV, added to the metadata, shown on a contact sheet."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from dermnote_contracts.cpu import usable_cores
from dermnote_contracts.metadata import Findings
from dermnote_imaging.decoder import RgbImage, from_pixels, shrink
from dermnote_train.data.images import decode_file
from dermnote_train.data.pools import process_pool
from dermnote_train.data.records import Record
from dermnote_train.data.tables import read_table
from dermnote_train.errors import UserError
from dermnote_train.files import atomic_write, write_csv
from dermnote_train.findings.measures import COLOURS, Measures, measure_lesion
from dermnote_train.findings.segmentation import SIDE, LesionNotFound, find_lesion
from dermnote_train.progress import Report, silent, track

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
SEPARATOR = ";"
SHEET_COLUMNS = 6
TILE, CAPTION = 264, 66
OUTLINE_COLOUR, RIM_COLOUR = (0, 230, 60), (40, 60, 200)


@dataclass(frozen=True)
class ImageFindings:
    """The findings of an image. `why_not`: why none were measured; `measures` is then None, `findings` empty."""

    image_id: str
    findings: Findings
    why_not: str | None = None
    measures: Measures | None = None


def measure_image(image: RgbImage, *, image_id: str) -> ImageFindings:
    """The findings of one RGB image."""
    try:
        measures = measure_lesion(find_lesion(image))
    except LesionNotFound as error:
        return ImageFindings(image_id, Findings(), str(error))
    return ImageFindings(image_id, measures.findings(), None, measures)


def measure_dataset(records: Sequence[Record], *, progress: Report = silent) -> tuple[ImageFindings, ...]:
    """The findings of every record, in order. The images must be decodable (check_decodable)."""
    workers = min(usable_cores(), len(records))
    with process_pool(workers) as pool:
        measured = pool.map(_measure_file, [(r.image_path, r.image_id) for r in records], chunksize=8)
        return tuple(track(measured, stage=STAGE, total=len(records), progress=progress))


def _measure_file(file: tuple[Path, str]) -> ImageFindings:
    path, image_id = file
    return measure_image(decode_file(path), image_id=image_id)


def write_findings(path: Path, measured: Sequence[ImageFindings]) -> None:
    """Write the CSV atomically."""
    write_csv(path, COLUMNS, map(_cells, measured))


def _cells(one: ImageFindings) -> Iterator[object]:
    found, measures = one.findings, one.measures
    yield from (one.image_id, found.asymmetry, found.border, SEPARATOR.join(found.colours or []), one.why_not)
    if measures is not None:
        values = (measures.area, measures.shape, measures.colour, measures.sharp_sectors, *measures.colours.values())
        yield from (round(value, 4) if isinstance(value, float) else value for value in values)


def with_findings(records: Sequence[Record], path: Path) -> tuple[Record, ...]:
    """The records with the measured findings in their metadata; findings given by the data set take precedence.

    Raises UserError if the file cannot be read or lacks any of the records.
    """
    measured = _read_findings(path)
    missing = [record.image_id for record in records if record.image_id not in measured]
    if missing:
        raise UserError(
            f"{path}: no findings for {len(missing)} images (first {missing[0]}); run dermnote findings on the same "
            "folder again"
        )
    return tuple(_with_findings(record, measured[record.image_id]) for record in records)


def _with_findings(record: Record, measured: Findings) -> Record:
    findings = measured.model_copy(update=record.metadata.findings.given())
    return replace(record, metadata=record.metadata.model_copy(update={"findings": findings}))


def _read_findings(path: Path) -> dict[str, Findings]:
    try:
        return {
            row.cells["image_id"]: Findings(
                asymmetry=row.cells["asymmetry"],
                border=row.cells["border"],
                colours=row.cells["colours"].split(SEPARATOR) if row.cells["colours"] else None,
            )
            for row in read_table(path).rows
        }
    except (UserError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a readable findings file; create one with: dermnote findings FOLDER") from error


def draw_sheet(path: Path, records: Sequence[Record]) -> None:
    """Write a contact sheet (PNG), a tile per record: the lesion's outline in green, the dermoscope's rim in blue."""
    rows = -(-len(records) // SHEET_COLUMNS)
    sheet = Image.new("RGB", (SHEET_COLUMNS * TILE, rows * (TILE + CAPTION)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for index, record in enumerate(records):
        x, y = index % SHEET_COLUMNS * TILE, index // SHEET_COLUMNS * (TILE + CAPTION)
        tile, caption = _tile(record)
        sheet.paste(tile, (x, y))
        draw.multiline_text((x + 3, y + TILE - 4), f"{record.label}\n{caption}", fill="black", font=font, spacing=2)
    with atomic_write(path) as partial:
        sheet.save(partial, format="PNG")


def _tile(record: Record) -> tuple[RgbImage, str]:
    image = shrink(decode_file(record.image_path), side=SIDE)
    try:
        lesion = find_lesion(image)
    except LesionNotFound as error:
        return image, textwrap.fill(str(error), 42)
    pixels = np.asarray(image).copy()
    pixels[~lesion.visible] = RIM_COLOUR
    pixels[lesion.area & ~ndimage.binary_erosion(lesion.area)] = OUTLINE_COLOUR
    measures = measure_lesion(lesion)
    found = measures.findings()
    shape = ", ".join(filter(None, (found.asymmetry, found.border))) or "cut off: no shape, no border"
    colours = ", ".join(f"{name} {measures.colours[name]:.0%}" for name in found.colours or ())
    return from_pixels(pixels), "\n".join([shape, textwrap.fill(colours, 42)])
