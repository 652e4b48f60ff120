"""A contact sheet: pictures with the outline that was found and what was said of them, to be looked at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy import ndimage

from dermnote_train.data.records import Record
from dermnote_train.files import replacing
from dermnote_train.findings.area import NoLesion, find_lesion, shrunk
from dermnote_train.findings.measures import measure_lesion

COLUMNS = 6
TILE, CAPTION = 264, 66
OUTLINE, UNSEEN = (0, 230, 60), (40, 60, 200)


def draw_sheet(path: Path, records: Sequence[Record]) -> None:
    """Write a PNG with a tile for each record: green the outline, blue what was taken for the dermoscope's rim."""
    rows = -(-len(records) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * TILE, rows * (TILE + CAPTION)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for place, record in enumerate(records):
        x, y = place % COLUMNS * TILE, place // COLUMNS * (TILE + CAPTION)
        tile, caption = _tile(record)
        sheet.paste(tile, (x, y))
        draw.multiline_text((x + 3, y + TILE - 4), f"{record.label}\n{caption}", fill="black", font=font, spacing=2)
    with replacing(path) as partial:
        sheet.save(partial, format="PNG")


def _tile(record: Record) -> tuple[Image.Image, str]:
    with Image.open(record.image_path) as file:
        picture = shrunk(ImageOps.exif_transpose(file))
    try:
        lesion = find_lesion(picture)
    except NoLesion as why:
        return picture, "\n".join(_lines(str(why)))
    painted = np.asarray(picture).copy()
    painted[~lesion.seen] = UNSEEN
    painted[lesion.area & ~ndimage.binary_erosion(lesion.area)] = OUTLINE
    measures = measure_lesion(lesion)
    said = measures.findings()
    shape = ", ".join(filter(None, (said.asymmetry, said.border)) or ["cut off: no shape, no border"])
    colours = ", ".join(f"{name} {measures.colours[name]:.0%}" for name in said.colours or ())
    return Image.fromarray(painted), "\n".join([shape, *_lines(colours)])


def _lines(text: str, *, most: int = 42) -> list[str]:
    """Broken into lines between words."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
