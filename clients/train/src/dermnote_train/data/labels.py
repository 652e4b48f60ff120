"""Class codes of diagnoses, the class sets, and the optional labels file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dermnote_contracts.vocabulary import diagnoses
from dermnote_train.data.tables import read_table
from dermnote_train.errors import UserError

ClassSet = Literal["paper5", "all"]

PAPER5 = ("BEK", "NEV", "ACK", "BCC", "MEL")
DIAGNOSIS_OF = {
    "BEK": "benign keratosis",
    "NEV": "nevus",
    "ACK": "actinic keratosis",
    "BCC": "basal cell carcinoma",
    "MEL": "melanoma",
    "SCC": "squamous cell carcinoma",
    "DF": "dermatofibroma",
    "VASC": "vascular lesion",
    "AKIEC": "actinic keratosis or intraepithelial carcinoma",
}
CODE_OF = {diagnosis: code for code, diagnosis in DIAGNOSIS_OF.items()}
LABEL_COLUMNS = ("source", "image", "class8", "name", "group")


@dataclass(frozen=True)
class GivenLabel:
    """A row of a labels file: the class code and the group of an image."""

    code: str
    group: str


def class_of(diagnosis: str) -> str:
    """The class code of a canonical diagnosis; a class without a code keeps its name."""
    class_name = diagnoses()[diagnosis].class_name
    return CODE_OF.get(class_name, class_name)


def ordered_classes(found: set[str], *, classes: ClassSet) -> tuple[str, ...]:
    """The given classes, the paper's first and in its order; `paper5` keeps only the paper's."""
    first = tuple(code for code in PAPER5 if code in found)
    return first if classes == "paper5" else first + tuple(sorted(found - set(PAPER5)))


def find_labels(folder: Path) -> Path | None:
    """`labels8.csv` in the data folder or next to it."""
    return next(
        (path for path in (folder / "labels8.csv", folder.absolute().parent / "labels8.csv") if path.is_file()), None
    )


def read_labels(path: Path, *, source: str) -> Mapping[str, GivenLabel]:
    """The labels of one source by image file name without suffix. Raises UserError."""
    table = read_table(path)
    if missing := [name for name in LABEL_COLUMNS if name not in table.columns]:
        raise UserError(f"{path}: no column {', '.join(missing)}; a labels file has {', '.join(LABEL_COLUMNS)}")
    rows = [row for row in table.rows if row.cells.get("source") == source]
    for row in rows:
        if not all(row.cells.get(name) for name in ("image", "name", "group")):
            raise UserError(
                f"{path}: row {row.number}: every row needs values for image, name (the class code) and group"
            )
    return {Path(row.cells["image"]).stem: GivenLabel(row.cells["name"], row.cells["group"]) for row in rows}
